from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inference_server.settings import Settings
from inference_server.stack.part import own_part

FLEET = """
import signal, sys
from inference_server.stack.fleet import watch_parts
from inference_server.stack.part import Part, PartSpec
limit_s, program, folder, *names = sys.argv[1:]
parts = [Part(PartSpec("worker", (sys.executable, "-c", program, name, folder), {})) for name in names]
ready, died = (lambda names: print("ready", names, flush=True)), (lambda pid: print("died", pid, flush=True))
watch_parts(parts, ready, died, stop_limit_s=float(limit_s))
print([part.died() for part in parts], signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, flush=True)
"""
"""A process of its own, since it is stopped by a signal."""

WORKER = """
import os, signal, sys, time
from pathlib import Path
name, folder = sys.argv[1], Path(sys.argv[2])
def stop(number, frame):
    (folder / f"{name} {signal.Signals(number).name}").touch()
    sys.exit(0)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, stop)
print("ready", name, flush=True)
(folder / f"up {name} {os.getpid()}").touch()
while not (folder / f"die {name}").exists():
    time.sleep(0.01)
(folder / f"die {name}").unlink()
os._exit(1)
"""

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


@contextmanager
def fleet(limit_s: float, program: str, folder: Path, *names: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", FLEET, str(limit_s), program, str(folder), *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def starts(folder: Path, name: str) -> set[str]:
    return {path.name.split()[-1] for path in folder.glob(f"up {name} *")}


def test_a_worker_that_dies_is_started_again_and_a_signal_stops_all(tmp_path: Path) -> None:
    with fleet(20, WORKER, tmp_path, "a", "b") as process:
        assert line(process) == "ready a b"
        deadline = time.monotonic() + 20
        while not (first := starts(tmp_path, "a")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (tmp_path / "die a").touch()
        assert line(process) == f"died {first.pop()}"
        while len(starts(tmp_path, "a")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert line(process) == "[0, 0] True"
    assert {path.name for path in tmp_path.glob("* SIG*")} == {"a SIGTERM", "b SIGTERM"}
    assert len(starts(tmp_path, "b")) == 1


def test_what_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    with fleet(0.2, DEAF, tmp_path, "a") as process:
        assert line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        assert line(process) == f"[-{signal.SIGKILL:d}] True"


def test_a_part_of_ours_runs_a_command_with_the_settings_it_was_given(tmp_path: Path) -> None:
    spec = own_part("worker", Settings(data_dir=tmp_path, device="cuda:1"), {"MORE": "1"}, waits=True).spec
    assert spec.command == (sys.executable, "-m", "inference_server", "worker", "--wait")
    assert spec.environment["INFERENCE_SERVER_DEVICE"] == "cuda:1"
    assert spec.environment["MORE"] == "1"
