"""Let processes hang for a while, as they do on a machine without memory or with a dead disk."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

LIMIT_S = 20.0


def pause(*pids: int) -> None:
    """Stop processes, and return when none of their threads runs any more.

    The signal alone is not enough: threads that run go on until the one that takes it is given a processor.
    """
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + LIMIT_S
    while running := [pid for pid in pids if set(_states(pid)) - set("TtZX")]:
        assert time.monotonic() < deadline, f"these do not stop: {running}"
        time.sleep(0.001)


def resume(*pids: int) -> None:
    """Let them go on."""
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def _states(pid: int) -> list[str]:
    """Return the state of each thread of a process, as proc_pid_stat(5) names it."""
    return [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
