"""Clients of the image socket against the running server: the fielded one, ours, and two hundred at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from image_socket_support import Peer, until, xray
from sqlalchemy import select
from xray_models import EDGE, SETTING, expected_chance, write_levels

from inference_server.stack.launch import LaunchedServer, launched_server
from inference_server.tasks.database import open_database
from inference_server.tasks.schema import tasks

pytestmark = pytest.mark.timeout(300)
CONNECTIONS, EACH = 200, 5
PLACES = 220
FILE_BYTES = 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("socket")


@pytest.fixture(scope="module")
def socket_server(folder: Path) -> Iterator[LaunchedServer]:
    """A server with an image socket and models that tell how bright a picture is."""
    write_levels(folder / "models")
    settings = {
        "DISK_LOW_BYTES": "0",
        "ZOO": "false",
        "IMAGE_SOCKET_MODELS": SETTING,
        "IMAGE_SOCKET_CONNECTIONS": str(PLACES),
        "IMAGE_SOCKET_HOST_CONNECTIONS": str(PLACES),
    }
    arguments = ["--models", str(folder / "models"), "--image-socket-port", "0"]
    environment = {f"INFERENCE_SERVER_{name}": value for name, value in settings.items()}
    with (
        (folder / "log").open("w") as log,
        launched_server(folder / "data", arguments=arguments, environment=environment, log=log) as launched,
    ):
        yield launched
    said = (folder / "log").read_text()
    assert "Traceback" not in said
    assert "xray.png" not in said
    assert str(FILE_BYTES) not in said


@pytest.fixture
def address(socket_server: LaunchedServer) -> tuple[str, int]:
    assert socket_server.socket_url
    assert socket_server.socket_url.startswith("tcp://127.0.0.1:")
    return "127.0.0.1", int(socket_server.socket_url.rpartition(":")[2])


class Fielded(Peer):
    """The client as it is in use: it reads one byte after each step, and sends files byte by byte."""

    def classify(self, content: bytes, code: bytes) -> bytes:
        assert self.hears() == b"?"
        for message in (b"FILE", str(len(content)).ljust(10, "z").encode()):
            assert self.asks(message) == b"0"
        for byte in content:
            self.says(bytes([byte]))
        for message in (b"MODE", code, b"PRED"):
            assert self.asks(message) == b"0"
        letter = self.hears()
        assert self.asks(b"BYE!") == b"0"
        assert self.is_closed()
        return letter


@pytest.mark.parametrize("code", [b"MYCN", b"DENS", b"ENSE"])
def test_the_fielded_client(address: tuple[str, int], tmp_path: Path, code: bytes) -> None:
    with Fielded(address) as sick, Fielded(address) as well:
        assert sick.classify(xray(tmp_path, int(EDGE) + 20), code) == b"P"
        assert well.classify(xray(tmp_path, int(EDGE) - 20), code) == b"N"


def classify(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inference_server", "classify", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done


def test_our_command_prints_the_answer_and_what_each_member_says(
    socket_server: LaunchedServer, address: tuple[str, int], tmp_path: Path
) -> None:
    xray(tmp_path, 130)
    given = (str(tmp_path / "xray.png"), "--code", "ENSE", "--server", f"127.0.0.1:{address[1]}", "--verify")
    record = json.loads(classify(*given, "--api", socket_server.url, "--json").stdout)
    assert (record["answer"], record["model"]) == ("P", "both")
    assert record["probabilities"]["pneumonia"] == pytest.approx(expected_chance(130), abs=1e-4)
    said = {name: classes["pneumonia"] for name, classes in record["members"].items()}
    expected = {name: pytest.approx(expected_chance(130, name), abs=1e-4) for name in ("soft", "sharp")}
    assert said == expected
    done = classify(*given, "--api", "http://127.0.0.1:1")
    assert done.stdout == "P (pneumonia)\n"
    assert done.stderr == "No probabilities: The server at http://127.0.0.1:1 does not answer.\n"
    assert "has no model of this code" in classify(*given[:1], "--server", given[4], "--code", "NONE", status=1).stderr


def several(address: tuple[str, int], images: list[tuple[int, bytes]]) -> list[tuple[int, bytes, str]]:
    """Send images over one connection; return each one's level, letter and task."""
    found = []
    with Peer(address) as peer:
        peer.socket.settimeout(200)
        assert peer.hears() == b"?"
        for level, content in images:
            peer.sends_all(content, b"ENSE")
            letter = peer.asks(b"PRED", 2)
            found.append((level, letter, peer.asks(b"TASK", 33)[1:].decode()))
        assert peer.asks(b"BYE!") == b"0"
    return found


def test_two_hundred_connections_and_a_thousand_predictions(
    folder: Path, address: tuple[str, int], tmp_path: Path
) -> None:
    """None is lost, and none is crossed: every task computed the very image of its connection."""
    # Levels tell the images apart, since the probability that the record has follows from them.
    files = {level: xray(tmp_path, level) for level in range(5, 205)}
    levels = list(files)
    plans = [[levels[(7 * number + 41 * turn) % len(levels)] for turn in range(EACH)] for number in range(CONNECTIONS)]
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        answers = threads.map(lambda plan: several(address, [(level, files[level]) for level in plan]), plans)
        found = [answer for answered in answers for answer in answered]
    assert [level for level, _, _ in found] == [level for plan in plans for level in plan]
    assert all(letter == (b"0P" if level >= EDGE else b"0N") for level, letter, _ in found)
    assert len({uid for _, _, uid in found}) == CONNECTIONS * EACH
    reports = all_reports(folder / "data" / "records.sqlite")
    for level, _, uid in found:
        chance = reports[uid]["classifications"]["pneumonia"]
        assert chance == pytest.approx(expected_chance(level), abs=1e-4)


def all_reports(records: Path) -> dict[str, dict[str, Any]]:
    database = open_database(f"sqlite:///{records}")
    with database.reading() as connection:
        reports = {row.uid: row.report for row in connection.execute(select(tasks.c.uid, tasks.c.report))}
    database.close()
    return reports


def part(server: LaunchedServer) -> psutil.Process:
    """Return the process of the image socket."""
    [process] = [
        child for child in psutil.Process(server.pid).children(recursive=True) if "image-socket" in child.cmdline()
    ]
    return process


def test_a_thousand_connections_at_once(address: tuple[str, int], socket_server: LaunchedServer) -> None:
    """As many as there are places are served, the others closed without a byte, and memory stays what it was."""
    process = part(socket_server)
    before = process.memory_info().rss
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(address)) for _ in range(1000)]
        heard = [peer.hears() for peer in peers]
        assert heard.count(b"?") == PLACES
        assert heard.count(b"") == 1000 - PLACES
        served = [peer for peer, said in zip(peers, heard, strict=True) if said == b"?"]
        for peer in served:
            assert peer.asks(b"FILE%010d" % FILE_BYTES, 2) == b"00"
            peer.says(bytes(FILE_BYTES - 1))
        assert process.memory_info().rss - before < 64 * 2**20
    until(lambda: process.num_fds() < 100)
    with Peer(address) as again:
        assert again.hears() == b"?"


def test_a_socket_that_dies_comes_back_on_its_port(
    address: tuple[str, int], socket_server: LaunchedServer, tmp_path: Path
) -> None:
    """Its clients only have to connect again."""
    killed = part(socket_server)
    with Peer(address) as peer:
        assert peer.hears() == b"?"
        killed.kill()
        killed.wait(20)
        assert peer.is_closed()
    with until(lambda: connected(address)) as fielded:
        assert part(socket_server).pid != killed.pid
        assert fielded.classify(xray(tmp_path, int(EDGE) + 20), b"ENSE") == b"P"


def connected(address: tuple[str, int]) -> Fielded | None:
    try:
        return Fielded(address)
    except ConnectionRefusedError:
        return None
