"""The API as a process on a socket: what only a real server shows."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
from api_process import LIMIT_BYTES, MIB, NOBODY, PROCESSES, THREADS, Api, sendable
from door_support import BOUNDARY, case, form, part


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    api = Api(tmp_path_factory.mktemp("api"))
    yield api
    api.stop()


@pytest.fixture
def own_api(tmp_path: Path) -> Iterator[Api]:
    api = Api(tmp_path)
    yield api
    if api.process.poll() is None:
        api.stop()


def eventually(true: Callable[[], bool], limit_s: float = 10.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_the_fielded_clients_whole_exchange(api: Api) -> None:
    def exchange(request: bytes) -> tuple[bytes, bytes]:
        with socket.create_connection(api.address, timeout=20) as connection:
            connection.sendall(request)
            head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
        return head, body

    body = form(part("zip_file", case(), "tmp1.zip"))["data"]
    submission = (
        b"POST /api/tasks/?model_human_readable_id=one HTTP/1.1\r\n"
        b"Host: 127.0.0.1:8000\r\n"
        b"User-Agent: python-requests/2.25.1\r\n"
        b"Accept-Encoding: gzip, deflate\r\n"
        b"Accept: */*\r\n"
        b"Connection: close\r\n"  # so that the answer ends with the connection
        + f"Content-Length: {len(body)}\r\n".encode()
        + f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode()
        + body
    )
    head, answer = exchange(submission)
    assert head.startswith(b"HTTP/1.1 201 ")
    assert answer[:1] + answer[-1:] == b'""'
    uid = answer.decode().strip('"')
    poll = f"GET /api/tasks/{uid} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    assert exchange(poll)[0].startswith(b"HTTP/1.1 551 ")
    result = os.urandom(3 * MIB)
    api.finish(api.claim(), result)
    head, answer = exchange(poll)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nContent-Type: application/zip\r\n" in head
    assert answer == result
    assert exchange(poll.replace(b"GET", b"DELETE"))[0].startswith(b"HTTP/1.1 204 ")
    assert exchange(poll)[0].startswith(b"HTTP/1.1 554 ")


def test_it_runs_in_the_processes_that_were_asked_for(api: Api) -> None:
    assert len(psutil.Process(api.process.pid).children()) == PROCESSES


def test_a_range_of_a_result_is_what_the_whole_has_there(api: Api) -> None:
    uid, result = api.submitted(), os.urandom(2 * MIB)
    api.finish(api.claim(), result)
    address = f"{api.url}/api/v1/tasks/{uid}/result"
    assert requests.get(address).content == result
    piece = requests.get(address, headers={"Range": "bytes=1000000-"})
    assert (piece.status_code, piece.content) == (206, result[1000000:])
    head = requests.head(address)
    assert (head.status_code, head.headers["Content-Length"], head.content) == (200, str(len(result)), b"")


def pieces(size: int) -> Iterator[bytes]:
    """Yield a form whose case has `size` bytes and is no zip."""
    yield form(part("model", "one"))["data"].removesuffix(f"--{BOUNDARY}--\r\n".encode())
    yield part("case", b"", "c")[:-2]
    yield from (bytes(MIB) for _ in range(size // MIB))
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


def test_memory_does_not_grow_with_the_upload(api: Api) -> None:
    api.submitted()
    before = api.peak_bytes()
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    answer = requests.post(f"{api.url}/api/v1/tasks", data=pieces(250 * MIB), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_message")
    assert api.peak_bytes() - before <= 30 * MIB


def test_an_upload_in_chunks_is_stopped_at_the_limit_and_told_so(api: Api) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    answer = requests.post(f"{api.url}/api/v1/tasks", data=pieces(LIMIT_BYTES + 20 * MIB), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


class Announced:
    """A body of known length that is made while it is sent, and that counts what was taken of it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = 0

    def __len__(self) -> int:
        return self.size

    def read(self, size: int) -> bytes:
        piece = bytes(min(size, self.size - self.taken))
        self.taken += len(piece)
        return piece


def test_a_client_that_sends_too_much_reads_why(api: Api) -> None:
    body = Announced(LIMIT_BYTES + MIB)
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    answer = requests.post(f"{api.url}/api/v1/tasks", data=body, headers=headers)
    assert (answer.status_code, answer.headers["Content-Type"]) == (413, "application/problem+json")
    assert answer.json()["detail"] == "The upload is larger than the 300 MiB that this server takes."
    assert api.submitted()


def test_the_answer_comes_before_the_upload_where_it_is_too_large(api: Api) -> None:
    with socket.create_connection(api.address, timeout=10) as connection:
        head = f"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: {LIMIT_BYTES + 1}\r\n"
        connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_refused_upload_does_not_spoil_the_connection_for_the_next_request(api: Api) -> None:
    with requests.Session() as session:
        for _ in range(3):
            refused = session.post(
                f"{api.url}/api/tasks/?model_human_readable_id=none", **sendable(part("zip_file", case(), "z"))
            )
            assert refused.status_code == 404
            assert session.get(f"{api.url}/healthz/live").json() == {"live": True}


def test_a_client_that_goes_away_leaves_nothing(api: Api) -> None:
    kept = set(api.blob_files())
    log = api.log.read_text()
    with socket.create_connection(api.address, timeout=10) as connection:
        head = "POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n"
        connection.sendall(f"{head}Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode())
        connection.sendall(part("case", bytes(MIB), "c"))
        assert eventually(lambda: set(api.blob_files()) != kept)
    assert eventually(lambda: set(api.blob_files()) == kept)
    assert "Traceback" not in api.log.read_text()[len(log) :]


def test_it_answers_while_uploads_are_under_way(api: Api) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(THREADS - 1):
            connection = stack.enter_context(socket.create_connection(api.address, timeout=10))
            head = "POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n"
            connection.sendall(f"{head}Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode())
        assert requests.get(f"{api.url}/healthz/live", timeout=15).status_code == 200


def test_waiting_requests_leave_threads_for_others(api: Api) -> None:
    uid = api.submitted()
    waiting = f"{api.url}/api/v1/tasks/{uid}?wait=3"
    with ThreadPoolExecutor(2 * THREADS) as pool:
        answers = [pool.submit(requests.get, waiting, timeout=20) for _ in range(2 * THREADS)]
        assert requests.get(f"{api.url}/healthz/live", timeout=2).status_code == 200
        assert {answer.result().json()["status"] for answer in answers} == {"queued"}


def test_a_change_in_another_process_wakes_a_waiting_request(own_api: Api) -> None:
    uid = own_api.submitted()
    claim = own_api.claim()
    finished: list[float] = []

    def finish() -> None:
        own_api.finish(claim)
        finished.append(time.monotonic())

    threading.Timer(0.3, finish).start()
    answer = requests.get(f"{own_api.url}/api/v1/tasks/{uid}?wait=30").json()
    assert answer["status"] == "finished"
    assert time.monotonic() - finished[0] < 0.5


def test_it_stops_in_seconds_and_answers_who_waits(own_api: Api) -> None:
    uid = own_api.submitted()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(requests.get, f"{own_api.url}/api/v1/tasks/{uid}?wait=60", timeout=20)
        time.sleep(0.3)
        started = time.monotonic()
        own_api.process.send_signal(signal.SIGTERM)
        assert waiting.result().json()["status"] == "queued"
        own_api.stop()
    assert time.monotonic() - started < 6
    assert own_api.process.returncode == 0


def test_a_process_that_dies_is_replaced(own_api: Api) -> None:
    parent = psutil.Process(own_api.process.pid)
    victim = parent.children()[0]
    victim.kill()
    assert eventually(lambda: len([child for child in parent.children() if child.pid != victim.pid]) == PROCESSES)
    assert own_api.submitted()


def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "inference_server", "api", "--port", str(port), "--data", str(tmp_path)],
            env={**os.environ, "INFERENCE_SERVER_BROKER_URL": NOBODY},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.strip().endswith(f"The API cannot listen on 127.0.0.1, port {port}: Address already in use.")
