from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from inference_server.cli import app
from inference_server.errors import BadRequest, SettingsError
from inference_server.tasks.caller import LOCAL
from inference_server.tasks.database import open_database
from inference_server.tasks.record import NewTask, new_uid
from inference_server.tasks.store import Store
from inference_server.tasks.tokens import Tokens

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def call(*words: str) -> Result:
        done = CliRunner().invoke(app, [*words, "--data", str(tmp_path)])
        if done.exception:
            raise done.exception
        return done

    return call


def tokens(folder: Path) -> Tokens:
    return Tokens(open_database(f"sqlite:///{folder / 'records.sqlite'}"))


def test_a_token_is_shown_once_and_the_first_one_says_what_it_ends(run: Run, tmp_path: Path) -> None:
    first, second = run("tokens", "create", "one"), run("tokens", "create", "two", "--scopes", "operate, read-all")
    assert "from now on every request needs one" in first.stderr
    assert second.stderr == ""
    token = first.stdout.strip()
    records = tokens(tmp_path)
    assert records.bearer(token, records.find(token)).name == "one"
    listed = run("tokens", "list").stdout
    assert token.split("_", 2)[2] not in listed
    assert [line.split()[1] for line in listed.splitlines()[1:]] == ["one", "two"]


def test_programs_read_json(run: Run) -> None:
    made = json.loads(run("tokens", "create", "one", "--expires", "90d", "--json").stdout)
    [listed] = json.loads(run("tokens", "list", "--json").stdout)
    assert re.fullmatch(r"ist_.+", made.pop("token"))
    assert made == listed
    assert (listed["name"], listed["scopes"], listed["state"]) == ("one", ["read-own", "submit"], "valid")


@pytest.mark.parametrize(("text", "seconds"), [("90d", 7_776_000), ("12h", 43_200), ("30m", 1800), ("never", None)])
def test_how_long_it_is_valid_is_given_in_days_hours_or_minutes(
    run: Run, tmp_path: Path, text: str, seconds: float | None
) -> None:
    run("tokens", "create", "one", "--expires", text)
    [token] = tokens(tmp_path).all()
    assert (token.expires_at and token.expires_at - token.created_at) == seconds


@pytest.mark.parametrize("text", ["", "90", "0d", "-1d", "1y", "1.5d", "100000d"])
def test_another_duration_is_refused(run: Run, text: str) -> None:
    with pytest.raises(BadRequest, match="90d, 12h, 30m or never"):
        run("tokens", "create", "one", "--expires", text)


def test_a_scope_that_there_is_not_is_named(run: Run) -> None:
    with pytest.raises(BadRequest, match="There is no scope 'admin'"):
        run("tokens", "create", "one", "--scopes", "submit,admin")


def test_a_token_is_revoked_once(run: Run) -> None:
    run("tokens", "create", "one")
    assert re.fullmatch(r"revoked [0-9a-f]{10} one\n", run("tokens", "revoke", "one").stdout)
    with pytest.raises(BadRequest, match="There is no token 'one'"):
        run("tokens", "revoke", "one")


def test_the_audit_log_is_read_by_people_and_programs(run: Run, tmp_path: Path) -> None:
    store = Store(open_database(f"sqlite:///{tmp_path / 'records.sqlite'}"), clock=lambda: 1_700_000_000.0)
    new = NewTask(
        uid=new_uid(), model="m", version="1", digest="", queue="q", dialect="mim", case_blob="b", case_size_bytes=1,
        token="alice",
    )  # fmt: skip
    uid = store.add(new)[0].uid
    store.cancel(uid, LOCAL)
    assert run("audit").stdout.splitlines() == [
        f"2023-11-14T22:13:20Z  alice  mim  submitted  {uid}",
        f"2023-11-14T22:13:20Z  local  -  cancelled  {uid}",
    ]
    chosen = ("--token", "alice", "--uid", uid, "--since", "2023-11-14T22:13:20")
    [line] = run("audit", "--json", *chosen).stdout.splitlines()
    told = {"time": "2023-11-14T22:13:20Z", "token": "alice", "dialect": "mim", "action": "submitted", "uid": uid}
    assert json.loads(line) == told
    assert run("audit", "--since", "2023-11-15").stdout == ""
    with pytest.raises(BadRequest, match="A moment is given as"):
        run("audit", "--since", "yesterday")


def test_a_certificate_is_made_once_shown_again_and_replaced_on_request(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run("certs", "server.example").stdout
    assert "server.example, localhost, 127.0.0.1, ::1" in made
    assert re.search(r"^SHA-256 +([0-9A-F]{2}:){31}[0-9A-F]{2}$", made, re.MULTILINE)
    assert run("certs").stdout == made
    with pytest.raises(SettingsError, match="There is a certificate already"):
        run("certs", "other.example")
    assert "other.example" in run("certs", "other.example", "--replace").stdout
    monkeypatch.setenv("INFERENCE_SERVER_TLS_CERTIFICATE", str(tmp_path / "tls" / "certificate.pem"))
    assert "other.example" in run("certs").stdout
    with pytest.raises(SettingsError, match="names a certificate of yours"):
        run("certs", "--replace")
