from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from inference_server.clients import Client, ServerError
from inference_server.clients import native as native_module
from inference_server.commands.client import submit
from inference_server.errors import BadRequest

TASK = {"uid": "u", "model": "m", "status": "finished", "revision": 3}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_module, "RETRY_S", 0.0)


def client_of(answer: Callable[[httpx.Request], httpx.Response]) -> Client:
    client = Client("http://server")
    client._http = httpx.Client(base_url="http://server", transport=httpx.MockTransport(answer))
    return client


def scripted(*answers: httpx.Response | httpx.TransportError) -> Callable[[httpx.Request], httpx.Response]:
    script: Iterator[httpx.Response | httpx.TransportError] = iter(answers)

    def answer(_: httpx.Request) -> httpx.Response:
        said = next(script)
        if isinstance(said, httpx.TransportError):
            raise said
        return said

    return answer


def test_a_server_that_is_away_when_waiting_begins_is_waited_for() -> None:
    answers = (httpx.ConnectError("refused"), httpx.Response(503), httpx.Response(200, json=TASK))
    seen: list[str] = []
    task = client_of(scripted(*answers)).wait("u", on_change=lambda changed: seen.append(changed.status))
    assert (task.uid, task.status, seen) == ("u", "finished", ["finished"])


def test_a_task_that_there_is_not_is_not_waited_for() -> None:
    refusal = httpx.Response(404, json={"code": "unknown_task", "detail": "The server does not know this task."})
    with pytest.raises(ServerError, match="does not know this task"):
        client_of(scripted(refusal)).wait("u")


def test_waiting_for_a_server_that_stays_away_ends_with_its_time() -> None:
    def away(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ServerError, match=r"could not be asked for after 0\.05 s") as caught:
        client_of(away).wait("u", timeout_s=0.05)
    assert caught.value.problem_code == "timed_out"


@pytest.mark.parametrize("server", ["foo", "", "foo:8000", "http://", "http://host:port", "ftp://server"])
def test_an_address_that_is_no_url_is_said_to_be_none(server: str) -> None:
    with pytest.raises(ServerError, match="is not a URL"):
        Client(server)


@pytest.mark.parametrize("out", ["/proc/nowhere", "file/out"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_sent(out: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadRequest, match="The folder for the result cannot be written") as caught:
        submit("m", [tmp_path / "file"], out=tmp_path / out, server="http://127.0.0.1:9")
    assert caught.value.field == "out"
