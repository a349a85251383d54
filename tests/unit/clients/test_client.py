from __future__ import annotations

import email
import zipfile
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


def test_points_and_further_outputs_are_sent_as_the_api_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[httpx.Request] = []

    def accept(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(202, json={**TASK, "status": "queued"})

    monkeypatch.setattr("inference_server.commands.client.Client", lambda *_, **__: client_of(accept))
    (tmp_path / "seeds.csv").write_text("x,y,z\n1.5,-2,3\n")
    submit("align", None, points=[f"seeds={tmp_path / 'seeds.csv'}"], outputs="meshes, volumes")
    head = b"Content-Type: " + sent[0].headers["Content-Type"].encode() + b"\n\n"
    parts = email.message_from_bytes(head + sent[0].read()).get_payload()
    assert {part.get_param("name", header="Content-Disposition"): part.get_payload() for part in parts} == {
        "model": "align",
        "priority": "normal",
        "parameters": "{}",
        "points": '{"seeds": [[-1.5, 2.0, 3.0]]}',
        "outputs": '["meshes", "volumes"]',
    }


@pytest.mark.parametrize("given", ["seeds", "=file", "seeds="])
def test_points_without_a_name_or_a_file_are_refused(given: str) -> None:
    with pytest.raises(BadRequest, match="Points are given as --points name=FILE"):
        submit("align", None, points=[given])


def test_meshes_and_transforms_of_a_result_are_unpacked_into_their_folders(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "result.zip", "w") as archive:
        for name in ("organs.json", "meshes/LIVER.vtk", "transforms/back.mat"):
            archive.writestr(name, name)
    client = client_of(lambda _: httpx.Response(200, content=(tmp_path / "result.zip").read_bytes()))
    written = client.fetch("u", tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == [
        "meshes/LIVER.vtk",
        "organs.json",
        "transforms/back.mat",
    ]
    assert (tmp_path / "out" / "meshes" / "LIVER.vtk").read_text() == "meshes/LIVER.vtk"
