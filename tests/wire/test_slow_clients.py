"""Clients that say nothing, little by little, or never read: the server serves others meanwhile, and lets them go."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests
from api_process import MIB, PROCESSES, THREADS, Api

from inference_server.stack.certificates import Pair, make_pair

MANY = 3 * THREADS
LIMIT_S = 0.5
FEW = 128
PATIENCE_S = 20.0
"""No test waits as long where all is well."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("slow")
    make_pair(Pair(*_pair(folder / "data")))
    limits = {"HEAD_LIMIT_S": LIMIT_S, "STALL_LIMIT_S": LIMIT_S}
    api = Api(folder, "--tls", "--tls-port", "0", **limits)
    yield api
    api.stop()
    assert "Traceback" not in api.log.read_text()


@pytest.fixture
def connect(api: Api) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _pair(data: Path) -> tuple[Path, Path]:
    return data / "tls" / "certificate.pem", data / "tls" / "key.pem"


def port(api: Api, scheme: str) -> int:
    return int(api.urls[["http", "https"].index(scheme)].rpartition(":")[2])


def opened(stack: ExitStack, api: Api, scheme: str, beginning: bytes, count: int = MANY) -> list[socket.socket]:
    """Open connections that begin with these bytes and say no more."""
    connections = []
    for _ in range(count):
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", port(api, scheme)), PATIENCE_S))
        connection.sendall(beginning)
        connections.append(connection)
    return connections


def is_served(api: Api, timeout_s: float = PATIENCE_S) -> bool:
    """Whether both addresses answer on fresh connections."""
    certificate = str(_pair(api.data)[0])
    answers = [requests.get(f"{url}/healthz/live", timeout=timeout_s, verify=certificate) for url in api.urls]
    return [answer.status_code for answer in answers] == [200, 200]


def is_over(connection: socket.socket) -> bool:
    """Wait until the server has ended a connection; a wait in vain raises."""
    with suppress(ConnectionError, ssl.SSLEOFError):
        while connection.recv(65536):
            pass
    return True


def ends_while_dripping(connection: socket.socket) -> bool:
    """Send a byte now and then until the server has ended the connection."""
    connection.settimeout(LIMIT_S / 10)
    deadline = time.monotonic() + PATIENCE_S
    with suppress(ConnectionError):
        while time.monotonic() < deadline:
            connection.sendall(b"x")
            with suppress(TimeoutError):
                return connection.recv(100) == b""
    return time.monotonic() < deadline


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_who_says_nothing_costs_no_thread(api: Api, connect: ExitStack, scheme: str) -> None:
    opened(connect, api, scheme, b"", 3 * MANY)
    assert is_served(api, timeout_s=4.0)  # gunicorn itself would give each of these a thread for five seconds


@pytest.mark.parametrize(
    ("scheme", "beginning"),
    [
        ("http", b"GET /healthz/live HTT"),
        ("http", b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bear"),
        ("https", b"\x16\x03\x01\x02\x00\x01"),
    ],
)
def test_who_stops_in_the_middle_of_handshake_or_head_is_let_go(
    api: Api, connect: ExitStack, scheme: str, beginning: bytes
) -> None:
    stalled = opened(connect, api, scheme, beginning)
    assert is_served(api)
    assert all(is_over(connection) for connection in stalled)


def test_who_stops_after_the_handshake_is_let_go_too(api: Api, connect: ExitStack) -> None:
    context = ssl.create_default_context(cafile=str(_pair(api.data)[0]))
    for _ in range(2):
        (plain,) = opened(connect, api, "https", b"", 1)
        wrapped = connect.enter_context(context.wrap_socket(plain, server_hostname="localhost"))
        wrapped.sendall(b"GET /healthz/live HTTP/1.1\r\nHost: x\r\nX-")
        assert is_over(wrapped)
    assert is_served(api)


def test_who_sends_a_head_byte_by_byte_gets_no_more_time(api: Api, connect: ExitStack) -> None:
    (slow,) = opened(connect, api, "http", b"GET /healthz/live HTTP/1.1\r\nX: ", 1)
    assert ends_while_dripping(slow)


def whole_answer(connection: socket.socket) -> bytes:
    """Return an answer of the live route, which may come in pieces."""
    answer = b""
    while not answer.endswith(b"}") and (piece := connection.recv(1000)):
        answer += piece
    return answer


def test_who_pauses_between_requests_is_not_slow(api: Api, connect: ExitStack) -> None:
    (connection,) = opened(connect, api, "http", b"GET /healthz/live HTTP/1.1\r\nHost: x\r\n\r\n", 1)
    assert whole_answer(connection).startswith(b"HTTP/1.1 200 ")
    (stalled,) = opened(connect, api, "http", b"GET / HTTP", 1)
    assert is_over(stalled)  # by now the limit has passed for both
    connection.sendall(b"GET /healthz/live HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_who_asks_for_much_and_never_reads_is_let_go(api: Api, connect: ExitStack) -> None:
    uid = api.submitted()
    api.finish(api.claim(), os.urandom(20 * MIB))
    ask = f"GET /api/v1/tasks/{uid}/result HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    deaf = opened(connect, api, "http", ask)
    assert is_served(api)
    assert all(is_over(connection) for connection in deaf)


def test_who_uploads_and_falls_silent_is_told_and_let_go(api: Api, connect: ExitStack) -> None:
    head = b"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n"
    form = b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    silent = opened(connect, api, "http", head + form, THREADS)
    assert is_served(api)
    for connection in silent:
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_more_connections_than_files_end_no_process(tmp_path: Path, connect: ExitStack) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(list(Path("/proc/self/fd").iterdir())) + FEW
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        api = Api(tmp_path, API_PROCESSES=1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for _ in range(2 * few):
        connect.enter_context(socket.create_connection(api.address, PATIENCE_S))
    assert requests.get(f"{api.url}/healthz/live", timeout=PATIENCE_S).ok
    api.stop()
    assert "Too many open files" not in api.log.read_text()


def test_who_never_closes_holds_up_nobody(api: Api, connect: ExitStack) -> None:
    ask = b"GET /healthz/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    lingering = opened(connect, api, "http", ask, 10 * PROCESSES)
    assert is_served(api, timeout_s=10.0)  # two seconds for each of them in turn would be too long
    for connection in lingering:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
