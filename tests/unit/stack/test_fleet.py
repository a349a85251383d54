from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from inference_server.settings import Settings
from inference_server.stack.fleet import watch_parts
from inference_server.stack.part import Part, PartSpec, own_part

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


def workers(folder: Path) -> list[Part]:
    return [Part(PartSpec("worker", (sys.executable, "-c", WORKER, name, str(folder)), {})) for name in ("a", "b")]


def test_a_worker_that_dies_is_started_again_and_a_signal_stops_all(tmp_path: Path) -> None:
    parts, up = workers(tmp_path), threading.Event()
    announced: list[str] = []
    died: list[int] = []
    pids: list[int | None] = []
    over = threading.Event()

    def ready(names: str) -> None:
        announced.append(names)
        up.set()

    def steer() -> None:
        assert up.wait(20)
        pids.extend(part.pid for part in parts)
        (tmp_path / "die a").touch()
        deadline = time.monotonic() + 20
        while not died and time.monotonic() < deadline:
            time.sleep(0.01)
        while (parts[0].pid in (None, pids[0]) or not parts[0].ready.is_set()) and time.monotonic() < deadline:
            time.sleep(0.01)
        if not over.is_set():  # or nobody is there to catch it
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    steering = threading.Thread(target=steer)
    steering.start()
    try:
        watch_parts(parts, ready, died.append, stop_limit_s=20)
    finally:
        over.set()
        steering.join(20)
    assert announced == ["a b"]
    assert died == [pids[0]]
    assert {path.name for path in tmp_path.iterdir()} == {"a SIGTERM", "b SIGTERM"}
    assert [part.died() for part in parts] == [0, 0]
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_does_not_end_in_time_is_killed() -> None:
    part = Part(PartSpec("worker", (sys.executable, "-c", DEAF), {}))
    watch_parts([part], lambda _: os.kill(os.getpid(), signal.SIGTERM), lambda _: None, stop_limit_s=0.2)
    assert part.died() == -signal.SIGKILL


def test_a_part_of_ours_runs_a_command_with_the_settings_it_was_given(tmp_path: Path) -> None:
    spec = own_part("worker", Settings(data_dir=tmp_path, device="cuda:1"), {"MORE": "1"}, waits=True).spec
    assert spec.command == (sys.executable, "-m", "inference_server", "worker", "--wait")
    assert spec.environment["INFERENCE_SERVER_DEVICE"] == "cuda:1"
    assert spec.environment["MORE"] == "1"
