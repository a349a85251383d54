"""Who gets in where. The table below is the decision about every route; a route that is not in it fails a test."""

from __future__ import annotations

import base64
import functools
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from door_support import Doors, case, form, part
from werkzeug.test import TestResponse

from inference_server.api import doors as doors_module
from inference_server.api.access import needs
from inference_server.errors import SettingsError
from inference_server.tasks.audit import Audit
from inference_server.tasks.caller import Scope
from inference_server.tasks.record import Priority
from inference_server.tasks.tokens import Tokens

READ = {"read-own", "read-all", "operate"}
FETCH = {"read-own", "read-all"}
STEER = {"submit", "operate"}
ANY = {str(scope) for scope in Scope}
OPERATORS = {"operate"}
OPEN: set[str] = set()
DECISIONS: dict[str, set[str]] = {
    "POST /api/v1/tasks": {"submit"},
    "GET /api/v1/tasks": READ,
    "GET /api/v1/tasks/<uid>": READ,
    "GET /api/v1/tasks/<uid>/result": FETCH,
    "GET /api/v1/tasks/<uid>/events": READ,
    "POST /api/v1/tasks/<uid>/cancel": STEER,
    "POST /api/v1/tasks/<uid>/retry": STEER,
    "DELETE /api/v1/tasks/<uid>": STEER,
    "GET /api/v1/models": ANY,
    "GET /api/v1/models/<model>": ANY,
    "GET /api/v1/limits": ANY,
    "GET /api/v1/whoami": ANY,
    "GET /api/v1/workers": OPERATORS,
    "POST /api/tasks/": {"submit"},
    "GET /api/tasks/<uid>/": FETCH,
    "DELETE /api/tasks/<uid>/": STEER,
    "GET /tomaat/<model>/interface": ANY,
    "GET /tomaat/<model>/announcePoint": ANY,
    "POST /tomaat/<model>/predict": {"submit"},
    "POST /tomaat/<model>/responses": FETCH,
    "POST /tomaat/<model>": {"submit"},
    "GET /interface": ANY,
    "GET /announcePoint": ANY,
    "POST /predict": {"submit"},
    "POST /responses": FETCH,
    "POST /": {"submit"},
    "POST /announce": OPEN,
    "GET /discover": OPEN,
    "GET /discovery": OPEN,
    "GET /token": OPEN,
    "POST /token": OPEN,
    "GET /api/token": ANY,
    "POST /api/login": OPEN,
    "GET /api/login": ANY,
    "GET /logout": OPEN,
    "GET /api/services": ANY,
    "GET /api/services/<githash>/detail": ANY,
    "GET /api/services/<githash>/stats": ANY,
    "GET /api/tickets": READ,
    "POST /api/tickets": {"submit"},
    "GET /api/tickets/<int:ticket>/files/<area>": READ,
    "POST /api/tickets/<int:ticket>/files/<area>": STEER,
    "GET /api/tickets/<int:ticket>/files/<area>/<int:number>": FETCH,
    "GET /api/tickets/<int:ticket>/status": READ,
    "POST /api/tickets/<int:ticket>/status": STEER,
    "GET /api/tickets/<int:ticket>/log": READ,
    "GET /api/tickets/logs/<int:log_id>/attachments": READ,
    "GET /api/tickets/<int:ticket>/progress": READ,
    "GET /api/tickets/<int:ticket>/queuepos": READ,
    "GET /api/tickets/<int:ticket>/detail": READ,
    "GET /api/tickets/<int:ticket>/delete": STEER,
    "GET /api/tickets/<int:ticket>/retry": STEER,
    "GET /blobs/<link>": OPEN,
    "GET /api/pro/services": ANY,
    "POST /api/pro/services/claims": ANY,
    "POST /api/pro/services/available": ANY,
    "POST /api/pro/services/<githash>/claims": ANY,
    "GET /api/pro/tickets/<int:ticket>/status": ANY,
    "POST /api/pro/tickets/<int:ticket>/status": ANY,
    "GET /api/pro/tickets/<int:ticket>/files/<area>": ANY,
    "POST /api/pro/tickets/<int:ticket>/files/<area>": ANY,
    "GET /api/pro/tickets/<int:ticket>/files/<area>/<int:number>": ANY,
    "POST /api/pro/tickets/<int:ticket>/<category>": ANY,
    "POST /api/pro/tickets/<int:ticket>/attachments": ANY,
    "GET /api/pro/tickets/<int:ticket>/progress": ANY,
    "POST /api/pro/tickets/<int:ticket>/progress": ANY,
    "GET /api/admin/providers": OPERATORS,
    "POST /api/admin/providers": OPERATORS,
    "GET /api/admin/providers/<provider>/delete": OPERATORS,
    "GET /api/admin/providers/<provider>/users": OPERATORS,
    "POST /api/admin/providers/<provider>/users": OPERATORS,
    "GET /api/admin/providers/<provider>/users/<int:user>/delete": OPERATORS,
    "GET /api/admin/providers/<provider>/services": OPERATORS,
    "POST /api/admin/providers/<provider>/services": OPERATORS,
    "GET /api/admin/providers/<provider>/services/<githash>/delete": OPERATORS,
    "GET /api/admin/tickets": OPERATORS,
    "POST /api/admin/tickets/purge/<which>": OPERATORS,
    "GET /openapi.json": OPEN,
    "GET /docs/": OPEN,
    "GET /docs/start.js": OPEN,
    "GET /docs/assets/<path:name>": OPEN,
    "GET /metrics": OPERATORS,
    "GET /healthz/live": OPEN,
    "GET /healthz/ready": OPEN,
}
"""By route: one of these scopes is needed; none: anybody may come."""

FINDINGS = {"texts": {"note": "a mass"}, "classifications": {"a": 0.5}, "points": {"p": [[1, 2, 3]]}}
FILLED = {
    "model": "one",
    "path:name": "css/swagger-ui.css",
    "githash": "0" * 40,
    "int:ticket": "1",
    "int:log_id": "1",
    "int:number": "0",
    "int:user": "1",
    "area": "input",
    "category": "info",
    "provider": "penn",
    "which": "completed",
    "link": "0" * 32,
}
"""What a route's parameters are in these tests."""
ASKING = ("POST /token", "POST /api/login", "GET /blobs/<link>", "HEAD /blobs/<link>")
"""Open routes that want to be told something, and are told nothing in these tests."""
REFUSED = (401, 403, 429)
WRONG = {
    "none": None,
    "no token": "secret",
    "unknown": "ist_0123456789_" + "a" * 32,
    "wrong secret": "alice",
    "expired": "expired",
    "revoked": "revoked",
}


class Guarded(Doors):
    """Doors with some tokens, by the name of their bearer."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, **{"sign_in_limit": 1000, "tomaat_root": "one", **settings})
        self.tokens = Tokens(self.database)
        self.texts: dict[str, str] = {}
        for name in ("alice", "bob"):
            self.bear(name, "submit,read-own")
        self.bear("expired", "submit,read-own", lifetime_s=-1.0)
        self.bear("revoked", "submit,read-own")
        self.tokens.revoke("revoked")

    def bear(self, name: str, scopes: str, **more: Any) -> str:
        """Make a token."""
        self.texts[name] = self.tokens.create(name, map(Scope, scopes.split(",")), **more)[1]
        return self.texts[name]

    def ask(self, bearer: str | None, route: str, *, uid: str = "0", **more: Any) -> TestResponse:
        """Make a request with a token; a route's parameters are filled in."""
        method, path = route.split(" ")
        for name, value in {**FILLED, "uid": uid}.items():
            path = path.replace(f"<{name}>", value)
        header = {"Authorization": f"Bearer {self.texts.get(bearer, bearer)}"} if bearer else {}
        return self.client.open(path, method=method, headers={**header, **more.pop("headers", {})}, **more)

    def submitted_by(self, bearer: str) -> str:
        body = form(part("model", "one"), part("case", case(), "c.zip"))
        answer = self.ask(bearer, "POST /api/v1/tasks", **body)
        assert answer.status_code == 202, answer.text
        return str(answer.json["uid"])

    def told(self) -> list[tuple[str, str, str, str]]:
        return [(entry.token, entry.dialect, entry.action, entry.uid) for entry in Audit(self.database).entries()]


@functools.cache
def routes() -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as folder:
        doors = Doors(Path(folder), tomaat_root="one")
        found = [f"{verb} {rule.rule}" for rule in doors.app.url_map.iter_rules() for verb in rule.methods or ()]
        doors.close()
    return tuple(sorted(found))


def decided(route: str) -> set[str]:
    """Return the decision about a route; HEAD and OPTIONS ask for no less than the others."""
    method, path = route.split(" ")
    if method in ("HEAD", "OPTIONS"):
        verbs = [verb for verb in ("GET", "POST", "DELETE") if f"{verb} {path}" in DECISIONS]
        return set().union(*(DECISIONS[f"{verb} {path}"] for verb in verbs))
    return DECISIONS[route]


CLOSED = [route for route in routes() if decided(route)]
PLAIN = [route for route in CLOSED if route.split()[0] not in ("HEAD", "OPTIONS")]
OF_TASKS = [route for route in PLAIN if "<uid>" in route]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    doors = Guarded(tmp_path)
    yield doors
    doors.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Doors for tests that change nothing."""
    doors = Guarded(tmp_path_factory.mktemp("guarded"))
    yield doors
    doors.close()


@pytest.fixture(scope="module")
def scoped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Doors with a token for each scope, of its name; whatever is asked for in these tests is not there."""
    doors = Guarded(tmp_path_factory.mktemp("scoped"))
    for scope in Scope:
        doors.bear(scope, scope)
    yield doors
    doors.close()


SENTENCES = {"forbidden": "one with the scope", "not_authorised": "access token"}
"""By what a refusal is known to those whose dialect has no codes."""


def code(answer: TestResponse) -> str:
    said = answer.json if "json" in answer.content_type else {"error": answer.text}
    if isinstance(said, list) or "error" in said:  # TOMAAT, both generations; DSS
        told = said[0].get("content", "") if isinstance(said, list) else said["error"]
        return next((found for found, words in SENTENCES.items() if words in told), "")
    return str(said.get("code"))


def refused_status(route: str, status: int) -> int:
    """Return the status of a refusal: fielded clients of MIM know no 401 in an answer to a poll, TOMAAT's only 200."""
    if route.endswith("/api/tasks/<uid>/") and not route.startswith("OPTIONS"):
        return 500
    return 200 if route.startswith("POST ") and not route.startswith("POST /api/") else status


def test_every_route_is_decided_about_and_no_other() -> None:
    assert {route for route in routes() if route.split()[0] not in ("HEAD", "OPTIONS")} == set(DECISIONS)


def test_an_application_with_a_route_that_is_not_decided_about_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flask import Blueprint

    undecided = Blueprint("other", __name__, url_prefix="/other")
    undecided.get("/secret")(lambda: "")
    monkeypatch.setattr("inference_server.api.app.DOORS", (*doors_module.DOORS, doors_module.Door("other", undecided)))
    with pytest.raises(LookupError, match="/other/secret"):
        Doors(tmp_path)


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("route", CLOSED)
def test_without_a_valid_token_every_route_but_the_open_ones_refuses(shared: Guarded, route: str, kind: str) -> None:
    bearer = WRONG[kind]
    if kind == "wrong secret":
        bearer = shared.texts["alice"][:-1] + ("a" if shared.texts["alice"][-1] != "a" else "b")
    answer = shared.ask(bearer, route)
    assert answer.status_code == refused_status(route, 401)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer realm=")
    if not route.startswith("HEAD"):
        assert code(answer) == "not_authorised"


@pytest.mark.parametrize("route", [route for route in PLAIN if decided(route) != ANY])
def test_a_token_without_the_scope_is_refused_whatever_the_uid(guarded: Guarded, route: str) -> None:
    others = ANY - decided(route)
    guarded.bear("limited", ",".join(others))
    uid = guarded.submitted_by("alice")
    answers = [guarded.ask("limited", route, uid=which) for which in (uid, "0" * 32)]
    for answer in answers:
        assert (answer.status_code, code(answer)) == (refused_status(route, 403), "forbidden")
    assert answers[0].data == answers[1].data
    assert guarded.tasks.store.get(uid).status == "queued"


@pytest.mark.parametrize(("route", "scope"), [(route, scope) for route in PLAIN for scope in sorted(decided(route))])
def test_each_of_the_scopes_lets_one_in(scoped: Guarded, route: str, scope: str) -> None:
    answer = scoped.ask(scope, route)
    assert answer.status_code not in REFUSED
    assert code(answer) not in ("not_authorised", "forbidden")


@pytest.mark.parametrize("route", [route for route in routes() if not decided(route)])
def test_the_open_routes_need_nothing(shared: Guarded, route: str) -> None:
    for bearer in (None, "nonsense"):
        assert shared.ask(bearer, route, buffered=True).status_code == (400 if route in ASKING else 200)


@pytest.mark.parametrize("route", OF_TASKS)
def test_a_task_of_somebody_else_is_answered_like_one_that_there_never_was(guarded: Guarded, route: str) -> None:
    uid = guarded.submitted_by("alice")
    theirs, unknown = (guarded.ask("bob", route, uid=which) for which in (uid, "f" * 32))
    assert (theirs.status_code, theirs.data) == (unknown.status_code, unknown.data)
    assert {name: value for name, value in theirs.headers if name != "Date"} == dict(unknown.headers)
    assert code(theirs) == "unknown_task"
    assert guarded.tasks.store.get(uid).status == "queued"


def test_urgent_tasks_need_a_scope_of_their_own(guarded: Guarded) -> None:
    guarded.bear("ward", "submit,urgent,read-own")

    def sent(bearer: str, priority: str) -> TestResponse:
        parts = (part("model", "one"), part("case", case(), "c.zip"), part("priority", priority))
        return guarded.ask(bearer, "POST /api/v1/tasks", **form(*parts))

    assert [sent("alice", priority).status_code for priority in ("normal", "batch")] == [202, 202]
    refused = sent("alice", "urgent")
    assert (refused.status_code, code(refused), refused.json["field"]) == (403, "forbidden", "priority")
    assert "one with the scope 'urgent' does" in refused.text
    assert sent("ward", "urgent").json["priority"] == "urgent"
    listed = guarded.ask("ward", "GET /api/v1/tasks").json["tasks"]
    assert [guarded.tasks.store.get(task["uid"]).priority for task in listed] == [Priority.URGENT]
    assert len(list((guarded.settings.data_dir / "blobs" / "staging").iterdir())) == 0


def test_doors_that_know_no_priorities_submit_as_normal(guarded: Guarded) -> None:
    guarded.bear("ward", "submit,urgent,read-own")
    answer = guarded.ask(
        "ward", "POST /api/tasks/?model_human_readable_id=one", **form(part("zip_file", case(), "c.zip"))
    )
    assert guarded.tasks.store.get(str(answer.json)).priority is Priority.NORMAL


def test_a_list_has_the_tasks_that_one_may_see(guarded: Guarded) -> None:
    guarded.bear("doctor", "read-all")
    guarded.bear("technician", "operate")
    uids = {name: guarded.submitted_by(name) for name in ("alice", "bob")}

    def listed(bearer: str) -> set[str]:
        return {task["uid"] for task in guarded.ask(bearer, "GET /api/v1/tasks").json["tasks"]}

    assert listed("alice") == {uids["alice"]}
    assert listed("bob") == {uids["bob"]}
    assert listed("doctor") == listed("technician") == set(uids.values())


def test_who_operates_may_stop_and_remove_but_not_fetch(guarded: Guarded) -> None:
    guarded.bear("technician", "operate,read-own")
    uid = guarded.submitted_by("alice")
    guarded.finish(guarded.claim(), report={"device": "cpu", **FINDINGS})
    record = guarded.ask("technician", "GET /api/v1/tasks/<uid>", uid=uid).json
    assert record["report"] == {"device": "cpu"}
    assert guarded.ask("alice", "GET /api/v1/tasks/<uid>", uid=uid).json["report"] == {"device": "cpu", **FINDINGS}
    refused = guarded.ask("technician", "GET /api/v1/tasks/<uid>/result", uid=uid)
    assert (refused.status_code, code(refused)) == (403, "forbidden")
    assert guarded.ask("technician", "GET /api/v1/tasks/<uid>/events", uid=uid).status_code == 200
    assert guarded.ask("technician", "DELETE /api/v1/tasks/<uid>", uid=uid).status_code == 204


def test_who_reads_all_may_fetch_but_not_remove(guarded: Guarded) -> None:
    guarded.bear("doctor", "read-all,submit")
    uid = guarded.submitted_by("alice")
    guarded.finish(guarded.claim())
    assert guarded.ask("doctor", "GET /api/v1/tasks/<uid>/result", uid=uid, buffered=True).status_code == 200
    refused = guarded.ask("doctor", "DELETE /api/v1/tasks/<uid>", uid=uid)
    assert (refused.status_code, code(refused)) == (403, "forbidden")


def test_basic_authentication_takes_the_token_as_the_password(guarded: Guarded) -> None:
    for pair in (f"anybody:{guarded.texts['alice']}", f"{guarded.texts['alice']}:"):
        header = {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
        answer = guarded.client.get("/api/v1/whoami", headers=header)
        assert answer.json == {"name": "alice", "scopes": ["read-own", "submit"]}


def test_a_page_of_another_site_cannot_use_what_a_browser_knows(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = guarded.texts["alice"]
    basic = {"Authorization": "Basic " + base64.b64encode(f"x:{token}".encode()).decode()}
    bearer = {"Authorization": f"Bearer {token}"}
    here, there = {"Origin": "http://localhost"}, {"Origin": "http://evil.example"}

    def status(*headers: dict[str, str]) -> int:
        given = {name: value for header in headers for name, value in header.items()}
        client = guarded.app.test_client(use_cookies=False)
        return client.get("/api/v1/whoami", headers=given).status_code

    assert [status(basic), status(basic, here), status(basic, there)] == [200, 200, 401]
    assert [status(bearer, here), status(bearer, there)] == [200, 200]
    native = replace(doors_module.DOORS[0], presented=lambda request: request.cookies.get("session"))
    monkeypatch.setattr(doors_module, "DOORS", (native, *doors_module.DOORS[1:]))
    assert [status({"Cookie": f"session={token}"}, origin) for origin in (here, there)] == [200, 401]


def test_the_same_key_of_two_bearers_makes_two_tasks(guarded: Guarded) -> None:
    body = form(part("model", "one"), part("case", case(), "c.zip"))
    key = {"Idempotency-Key": "k"}
    uids = {guarded.ask(name, "POST /api/v1/tasks", headers=key, **body).json["uid"] for name in ("alice", "bob")}
    assert len(uids) == 2


# Without a token


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_on_the_servers_own_machine_no_token_is_needed_before_the_first(doors: Doors, address: str) -> None:
    answer = doors.client.get("/api/v1/whoami", environ_overrides={"REMOTE_ADDR": address})
    assert answer.json == {"name": "local", "scopes": sorted(Scope)}


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000", "workstation-3:8000"])
def test_the_server_is_called_by_a_name_of_this_machine(doors: Doors, host: str) -> None:
    assert doors.client.get("/api/v1/whoami", headers={"Host": host}).json["name"] == "local"


@pytest.mark.parametrize(
    "given",
    [
        {"environ_overrides": {"REMOTE_ADDR": "10.0.0.1"}},
        {"environ_overrides": {"REMOTE_ADDR": ""}},
        {"headers": {"X-Forwarded-For": "127.0.0.1"}},
        {"headers": {"Forwarded": "for=127.0.0.1"}},
        {"headers": {"X-Real-IP": "127.0.0.1"}},
        {"headers": {"Via": "1.1 proxy"}},
        {"headers": {"Host": "rebound.example"}},
        {"headers": {"Host": "rebound.example:8000"}},
        {"headers": {"Host": "127.0.0.1.rebound.example"}},
        {"headers": {"Host": "[x"}},
        {"headers": {"Host": "[2001:db8::1]"}},
        {"headers": {"Host": "10.0.0.1"}},
        {"headers": {"Origin": "http://elsewhere.example"}},
        {"headers": {"Origin": "null"}},
        {"headers": {"Origin": "http://localhost:9999"}},
    ],
)
def test_who_is_elsewhere_or_sent_from_elsewhere_needs_one(doors: Doors, given: dict[str, Any]) -> None:
    answer = doors.client.get("/api/v1/whoami", **given)
    assert (answer.status_code, answer.json["code"]) == (401, "not_authorised")


def test_the_servers_own_page_may_ask(doors: Doors) -> None:
    given = {"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000"}
    assert doors.client.get("/api/v1/whoami", headers=given).json["name"] == "local"


def test_from_the_first_token_on_everybody_needs_one_without_a_restart(doors: Doors) -> None:
    assert doors.client.get("/api/v1/models").status_code == 200
    tokens = Tokens(doors.database)
    tokens.create("alice", [Scope.READ_OWN])
    assert doors.client.get("/api/v1/models").status_code == 401
    tokens.revoke("alice")
    assert doors.client.get("/api/v1/models").status_code == 401


def test_a_server_without_access_control_lets_in_everybody(tmp_path: Path) -> None:
    doors = Guarded(tmp_path, no_auth=True)
    far = {"environ_overrides": {"REMOTE_ADDR": "10.0.0.1"}}
    assert doors.ask(None, "GET /api/v1/whoami", **far).json == {"name": "no-auth", "scopes": sorted(Scope)}
    assert doors.ask("alice", "GET /api/v1/whoami", **far).json["name"] == "alice"
    assert doors.ask("nonsense", "GET /api/v1/whoami", **far).status_code == 401
    doors.close()


def test_an_opened_dialect_takes_clients_without_a_token_and_no_other_does(tmp_path: Path) -> None:
    doors = Guarded(tmp_path, open="mim")
    body = form(part("zip_file", case(), "c.zip"))
    far = {"environ_overrides": {"REMOTE_ADDR": "10.0.0.1"}}
    uid = doors.client.post("/api/tasks/?model_human_readable_id=one", **body, **far).json
    assert doors.tasks.store.get(uid).token == "anonymous"
    assert doors.ask(None, "GET /api/tasks/<uid>/", uid=uid, **far).status_code == 551
    assert doors.ask(None, "GET /api/v1/tasks/<uid>", uid=uid, **far).status_code == 401
    others = doors.submitted_by("alice")
    assert doors.ask(None, "GET /api/tasks/<uid>/", uid=others, **far).status_code == 554
    assert code(doors.ask("nonsense", "GET /api/tasks/<uid>/", uid=uid, **far)) == "not_authorised"
    assert doors.ask(None, "DELETE /api/tasks/<uid>/", uid=uid, **far).status_code == 204
    doors.close()


@pytest.mark.parametrize("name", ["native", "tomato", "mim,tomato"])
def test_a_dialect_that_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        SettingsError, match=r"The dialect '(native|tomato)' cannot be opened .*These can: image-socket, mim, tomaat\."
    ):
        Doors(tmp_path, open=name)


def test_a_dialect_with_sessions_finds_the_token_in_its_cookie(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = replace(doors_module.DOORS[0], presented=lambda request: request.cookies.get("session"))
    monkeypatch.setattr(doors_module, "DOORS", (native, *doors_module.DOORS[1:]))
    client = guarded.client
    assert client.get("/api/v1/whoami").status_code == 401
    client.set_cookie("session", guarded.texts["alice"])
    assert client.get("/api/v1/whoami").json["name"] == "alice"


def test_a_route_says_what_it_needs_on_the_function_itself() -> None:
    def view() -> None: ...

    assert needs(Scope.SUBMIT)(view) is view


# Failures


def test_after_too_many_wrong_tokens_an_address_has_to_wait(tmp_path: Path) -> None:
    doors = Guarded(tmp_path, sign_in_limit=3)
    for number in range(3):
        wrong = f"ist_{number:010d}_" + "a" * 32
        assert doors.ask(wrong, "GET /api/v1/models").status_code == 401
    limited = doors.ask("ist_9999999999_" + "a" * 32, "GET /api/v1/models")
    assert (limited.status_code, code(limited)) == (429, "sign_in_limited")
    assert 0 < int(limited.headers["Retry-After"]) <= 60
    elsewhere = doors.ask(
        "ist_9999999999_" + "a" * 32, "GET /api/v1/models", environ_overrides={"REMOTE_ADDR": "10.0.0.9"}
    )
    assert elsewhere.status_code == 401
    assert doors.ask("alice", "GET /api/v1/models").status_code == 200
    assert doors.ask(None, "GET /api/v1/models").status_code == 401
    doors.close()


def test_guessing_a_tokens_secret_closes_that_token_at_that_address_alone(tmp_path: Path) -> None:
    doors = Guarded(tmp_path, sign_in_limit=2)
    guess = doors.texts["alice"][:15] + "a" * 32
    assert [doors.ask(guess, "GET /api/v1/models").status_code for _ in range(3)] == [401, 401, 429]
    assert doors.ask("alice", "GET /api/v1/models").status_code == 429
    assert doors.ask("bob", "GET /api/v1/models").status_code == 200
    far = {"environ_overrides": {"REMOTE_ADDR": "10.0.0.9"}}
    assert doors.ask("alice", "GET /api/v1/models", **far).status_code == 200
    doors.close()


# The audit log


def test_it_tells_who_did_what_through_which_door(guarded: Guarded) -> None:
    guarded.bear("doctor", "read-all,operate")
    uid = guarded.submitted_by("alice")
    guarded.ask("alice", "POST /api/v1/tasks/<uid>/cancel", uid=uid)
    guarded.ask("doctor", "POST /api/v1/tasks/<uid>/retry", uid=uid)
    guarded.ask("alice", "GET /api/v1/tasks/<uid>/result", uid=uid)  # not there yet
    guarded.finish(guarded.claim())
    guarded.ask("alice", "GET /api/tasks/<uid>/", uid=uid, buffered=True)
    guarded.ask("doctor", "GET /api/v1/tasks/<uid>/result", uid=uid, buffered=True)
    guarded.ask("bob", "DELETE /api/tasks/<uid>/", uid=uid)  # may not
    guarded.ask("alice", "DELETE /api/tasks/<uid>/", uid=uid)
    assert guarded.told() == [
        ("alice", "native", "submitted", uid),
        ("alice", "native", "cancelled", uid),
        ("doctor", "native", "retried", uid),
        ("alice", "mim", "fetched", uid),
        ("doctor", "native", "fetched", uid),
        ("alice", "mim", "deleted", uid),
    ]


def test_a_submission_through_mim_is_its_bearers(guarded: Guarded) -> None:
    body = form(part("zip_file", case(), "Müller^Eva.zip"))
    header = {"Authorization": f"Bearer {guarded.texts['bob']}"}
    uid = guarded.client.post("/api/tasks/?model_human_readable_id=one", headers=header, **body).json
    assert guarded.told() == [("bob", "mim", "submitted", uid)]
    assert guarded.tasks.store.get(uid).token == "bob"
