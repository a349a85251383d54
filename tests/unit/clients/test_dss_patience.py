"""Which failures a bridge waits out."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from inference_server.clients.dss.bridge.patience import Patience, StoppedError
from inference_server.clients.dss.connection import Connection
from inference_server.clients.dss.errors import DSSRefused, DSSUnreachable
from inference_server.clients.dss.sessions import FileSessions
from inference_server.clients.native import ServerError

URL = "http://dss.example.org"


@pytest.fixture
def sessions(tmp_path: Path) -> FileSessions:
    return FileSessions(tmp_path / "sessions")


@pytest.fixture
def patience(sessions: FileSessions) -> Patience:
    return Patience(Connection(URL, sessions=sessions), first_pause_s=0.001)


def refused(status: int) -> DSSRefused:
    return DSSRefused(httpx.Response(status, text="no", request=httpx.Request("GET", URL)))


@pytest.mark.parametrize(
    "error",
    [
        DSSUnreachable("away"),
        refused(503),
        refused(429),
        refused(401),
        ServerError("away"),
        ServerError("full", status=503, problem_code="queue_full"),
        ServerError("full", status=507, problem_code="storage_full"),
    ],
)
def test_a_server_that_is_away_is_asked_again(patience: Patience, error: ServerError) -> None:
    failures = [error, error]

    def ask() -> str:
        if failures:
            raise failures.pop()
        return "answer"

    assert patience.lasting(ask) == "answer"


@pytest.mark.parametrize("error", [refused(400), refused(404), ServerError("bad", status=422, problem_code="x")])
def test_a_refusal_is_one(patience: Patience, error: ServerError) -> None:
    def ask() -> str:
        raise error

    with pytest.raises(type(error)):
        patience.lasting(ask)


def test_who_is_signed_out_is_waited_for_and_the_next_session_taken_up(sessions: FileSessions) -> None:
    connection = Connection(URL, sessions=sessions)
    patience = Patience(connection, first_pause_s=0.001)

    def ask() -> str:
        if not connection.signed_in:
            sessions.save(URL, "made in another window")
            raise refused(401)
        return "answer"

    assert patience.lasting(ask) == "answer"


def test_a_bridge_that_stops_waits_no_longer(patience: Patience) -> None:
    def ask() -> str:
        patience.end()
        raise DSSUnreachable("away")

    with pytest.raises(StoppedError):
        patience.lasting(ask)
    assert patience.over
