"""`inference-server up`: one signal stops all of it, nothing is lost, and the next start goes on."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from inference_server.clients import Client
from inference_server.stack.launch import launched_server

pytestmark = pytest.mark.timeout(300)
TASKS = 8


def parts(supervisor: int) -> list[psutil.Process]:
    return psutil.Process(supervisor).children(recursive=True)


def part(supervisor: int, name: str) -> psutil.Process | None:
    running = (p for p in psutil.Process(supervisor).children() if p.status() != psutil.STATUS_ZOMBIE)
    return next((p for p in running if name in p.cmdline()), None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_it_nothing_runs_on_and_the_next_start_finishes_every_task(
    number: signal.Signals, models: Path, box: Path, tmp_path: Path
) -> None:
    arguments = ["--models", str(models)]
    settings = {"INFERENCE_SERVER_ZOO": "false", "INFERENCE_SERVER_LEASE_S": "4", "INFERENCE_SERVER_BEAT_S": "1"}
    with launched_server(tmp_path / "data", arguments=arguments, environment=settings) as first:
        with Client(first.url) as client:
            uids = [client.submit("slow", [box]).uid for _ in range(TASKS)]
            client.wait(uids[0])
        processes = [psutil.Process(first.pid), *parts(first.pid)]
        processes[0].send_signal(number)
        _, alive = psutil.wait_procs(processes, timeout=15)
        assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    with (
        launched_server(tmp_path / "data", arguments=arguments, environment=settings) as second,
        Client(second.url) as client,
    ):
        assert {client.wait(uid, timeout_s=120).status for uid in uids} == {"finished"}


@pytest.mark.parametrize("name", ["worker", "api", "housekeeping"])
def test_a_part_that_dies_is_restarted_and_no_task_is_lost(name: str, models: Path, box: Path, tmp_path: Path) -> None:
    arguments = ["--models", str(models)]
    # Housekeeping would bring back what was lost, too: here it comes too late for that.
    settings = {"INFERENCE_SERVER_ZOO": "false", "INFERENCE_SERVER_HOUSEKEEPING_S": "600"}
    with (
        launched_server(tmp_path / "data", arguments=arguments, environment=settings) as server,
        Client(server.url) as client,
    ):
        uids = [client.submit("slow", [box]).uid for _ in range(4)]
        dead = part(server.pid, name)
        assert dead
        dead.kill()
        deadline = time.monotonic() + 30
        while part(server.pid, name) in (None, dead):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert {client.wait(uid, timeout_s=60).status for uid in uids} == {"finished"}


def test_a_second_server_on_the_same_folder_is_refused(models: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    with launched_server(tmp_path / "data", environment={"INFERENCE_SERVER_ZOO": "false"}):
        command = [sys.executable, "-m", "inference_server", "up", "--port", "0", "--data", str(tmp_path / "data")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Another server already runs on this data folder" in done.stderr
