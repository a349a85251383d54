"""`inference-server up`: one signal stops all of it, nothing is lost, and the next start goes on."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from pausing import pause, resume

from inference_server.clients import Client
from inference_server.stack.launch import LaunchedServer, launched_server

pytestmark = pytest.mark.timeout(300)
ENDS = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT)
TASKS = 3
"""Sent before each end; all but two of them still wait or run when it comes."""


def parts(supervisor: int) -> list[psutil.Process]:
    return psutil.Process(supervisor).children(recursive=True)


def part(supervisor: int, name: str) -> psutil.Process | None:
    """Return the process of a part; of workers the one that has children, since the spare one has none."""
    running = (p for p in psutil.Process(supervisor).children() if p.status() != psutil.STATUS_ZOMBIE)
    return next((p for p in running if name in p.cmdline() and (name != "worker" or p.children())), None)


def end(supervisor: int, number: signal.Signals) -> None:
    """Send a signal to the supervisor and see everything end."""
    processes = [psutil.Process(supervisor), *parts(supervisor)]
    processes[0].send_signal(number)
    _, alive = psutil.wait_procs(processes, timeout=15)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def command(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "inference_server", *map(str, words)], check=True, timeout=60)


def test_whatever_ends_it_nothing_runs_on_and_the_next_start_finishes_every_task(
    models: Path, box: Path, tmp_path: Path
) -> None:
    """The last start is that of a restored backup, in a folder of its own."""
    arguments = ["--models", str(models)]
    settings = {"INFERENCE_SERVER_ZOO": "false", "INFERENCE_SERVER_LEASE_S": "4", "INFERENCE_SERVER_BEAT_S": "1"}
    uids: list[str] = []
    for turn, number in enumerate(ENDS):
        with (
            launched_server(tmp_path / "data", arguments=arguments, environment=settings) as server,
            Client(server.url) as client,
        ):
            uids += [client.submit("slow", [box]).uid for _ in range(TASKS)]
            client.wait(uids[2 * turn])
            assert client.status(uids[-1]).status in ("queued", "running")
            end(server.pid, number)
    command("backup", tmp_path / "backup", "--data", tmp_path / "data")
    command("restore", tmp_path / "backup", "--data", tmp_path / "restored")
    with (
        launched_server(tmp_path / "restored", arguments=arguments, environment=settings) as last,
        Client(last.url) as client,
    ):
        assert {client.wait(uid, timeout_s=120).status for uid in uids} == {"finished"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up")


@pytest.fixture(scope="module")
def mended(models: Path, folder: Path) -> Iterator[LaunchedServer]:
    """A server of which parts die. Housekeeping, which would bring back what was lost, too, comes too late for it."""
    settings = {
        "INFERENCE_SERVER_ZOO": "false",
        "INFERENCE_SERVER_HOUSEKEEPING_S": "600",
        "INFERENCE_SERVER_SPARE_WORKER": "true",
    }
    with launched_server(folder / "data", arguments=["--models", str(models)], environment=settings) as server:
        yield server


def spares(supervisor: int) -> list[psutil.Process]:
    """Return the workers without children: all their threads wait."""
    running = (p for p in psutil.Process(supervisor).children() if p.status() != psutil.STATUS_ZOMBIE)
    return [p for p in running if "worker" in p.cmdline() and not p.children()]


def test_a_spare_worker_takes_the_place_of_a_dead_one(mended: LaunchedServer, box: Path) -> None:
    deadline = time.monotonic() + 30
    while not (ready := spares(mended.pid)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    dead = part(mended.pid, "worker")
    assert dead
    with Client(mended.url) as client:
        uid = client.submit("slow", [box]).uid
        dead.kill()
        assert client.wait(uid, timeout_s=60).status == "finished"
    assert part(mended.pid, "worker") == ready[0]


def pause_idle(pids: list[int], records: Path) -> None:
    """Let processes hang at a moment when none of them writes into the records: the lock would keep everybody out."""
    deadline = time.monotonic() + 30
    while True:
        pause(*pids)
        with closing(sqlite3.connect(records, timeout=0.5, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                assert time.monotonic() < deadline, "somebody writes all the time"
            else:
                return
        resume(*pids)
        time.sleep(0.05)


@pytest.mark.parametrize("whole", [True, False], ids=["worker", "children"])
def test_a_turn_that_goes_with_its_taker_is_sent_again(
    whole: bool, mended: LaunchedServer, folder: Path, box: Path
) -> None:
    worker = part(mended.pid, "worker")
    assert worker
    children = worker.children()
    pause_idle([child.pid for child in children], folder / "data" / "records.sqlite")  # they claim nothing of a turn
    with Client(mended.url) as client:
        uids = [client.submit("bright", [box]).uid for _ in range(2)]
        for process in [worker] if whole else children:
            process.kill()
        assert {client.wait(uid, timeout_s=60).status for uid in uids} == {"finished"}


@pytest.mark.parametrize("name", ["worker", "api", "housekeeping"])
def test_a_part_that_dies_is_restarted_and_no_task_is_lost(name: str, mended: LaunchedServer, box: Path) -> None:
    with Client(mended.url) as client:
        uids = [client.submit("slow", [box]).uid for _ in range(3)]
        dead = part(mended.pid, name)
        assert dead
        dead.kill()
        deadline = time.monotonic() + 30
        while part(mended.pid, name) in (None, dead):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert {client.wait(uid, timeout_s=60).status for uid in uids} == {"finished"}


def test_a_second_server_on_the_same_folder_is_refused(mended: LaunchedServer, folder: Path) -> None:
    command = [sys.executable, "-m", "inference_server", "up", "--port", "0", "--data", str(folder / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Another server already runs on this data folder" in done.stderr
