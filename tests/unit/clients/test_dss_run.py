"""A ticket that a bridge finds in its journal when it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import httpx
import pytest

from inference_server.clients.dss import Connection, Provider
from inference_server.clients.dss.bridge import Desk, Journal, Patience
from inference_server.clients.dss.bridge.journal import new_entry
from inference_server.clients.dss.bridge.run import TicketRun
from inference_server.clients.dss.errors import DSSRefused
from inference_server.clients.dss.sessions import FileSessions
from inference_server.clients.native import Client, ServerError
from inference_server.clients.records import RemoteTask

URL = "http://dss.example.org"


@pytest.fixture
def provider() -> Any:
    return create_autospec(Provider, instance=True)


@pytest.fixture
def client() -> Any:
    return create_autospec(Client, instance=True)


@pytest.fixture
def desk(tmp_path: Path, provider: Any, client: Any) -> Desk:
    (tmp_path / "bridge").mkdir()
    connection = Connection(URL, sessions=FileSessions(tmp_path / "sessions"))
    return Desk(provider, client, Journal(tmp_path / "bridge"), Patience(connection), "bright", {})


def left(desk: Desk, *, uid: str | None) -> TicketRun:
    """Return the run of a ticket that was left by the bridge before."""
    entry = replace(new_entry(7, "b" * 40), uid=uid)
    desk.journal.write(entry)
    return TicketRun(desk, entry)


@pytest.mark.parametrize("status", ["ready", "success", "failed", "timeout", "deleted"])
def test_a_ticket_that_is_ours_no_longer_is_left_alone_and_its_task_removed(
    desk: Desk, provider: Any, client: Any, status: str
) -> None:
    provider.status.return_value = status
    left(desk, uid="abc").serve()
    assert [name for name, _, _ in provider.method_calls] == ["status"]
    client.delete.assert_called_once_with("abc")
    assert [name for name, _, _ in client.method_calls] == ["delete"]
    assert desk.journal.entries() == []


def test_a_ticket_that_somebody_else_has_is_left_alone(desk: Desk, provider: Any, client: Any) -> None:
    answer = httpx.Response(400, text="Ticket 7 not found", request=httpx.Request("GET", URL))
    provider.status.side_effect = DSSRefused(answer)
    left(desk, uid=None).serve()
    assert {name for name, _, _ in provider.method_calls} == {"status"}
    assert client.method_calls == []
    assert desk.journal.entries() == []


@pytest.mark.parametrize("noted", [True, False])
def test_what_was_assumed_and_said_stands_in_the_log_once(
    desk: Desk, provider: Any, client: Any, monkeypatch: pytest.MonkeyPatch, *, noted: bool
) -> None:
    monkeypatch.setattr("inference_server.clients.dss.bridge.run.result_workspace", lambda *_: None)
    provider.status.return_value, client.fetch.return_value, client.events.return_value = "claimed", [], []
    provider.download.side_effect = lambda _, folder: folder.mkdir()
    report = {"notes": ["Assumed."], "texts": {"said": "so\nand so"}}
    client.status.return_value = RemoteTask("abc", "bright", "finished", 3, raw={"report": report})
    entry = replace(new_entry(7, "b" * 40), uid="abc", noted=noted)
    desk.journal.write(entry)
    TicketRun(desk, entry).serve()
    said = [call.args for call in provider.log.call_args_list]
    assert said == ([] if noted else [(7, "warning", "Assumed."), (7, "info", "said: so and so")])
    provider.succeed.assert_called_once_with(7)


def test_a_task_that_is_gone_here_fails_the_ticket(desk: Desk, provider: Any, client: Any) -> None:
    provider.status.return_value = "claimed"
    gone = ServerError("The server does not know this task.", status=404, problem_code="unknown_task")
    client.status.side_effect = client.delete.side_effect = gone
    left(desk, uid="abc").serve()
    provider.log.assert_called_once_with(7, "error", "The server does not know this task.")
    provider.fail.assert_called_once_with(7)
    client.submit.assert_not_called()
    assert desk.journal.entries() == []
