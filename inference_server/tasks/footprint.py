"""How much memory this process and everything it started take, held against a budget."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from inference_server.models.memory import host_memory_bytes
from inference_server.settings import Settings

PART = 0.9
"""Of the machine's memory, where no budget is set: what is left is the kernel's and the other processes'."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PSS_KB = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


def budget_bytes(settings: Settings) -> int:
    """Return how much memory a worker's child may take: as set, else nine tenths of the machine's or container's."""
    return settings.child_memory_bytes or int(PART * host_memory_bytes())


def exceeds(limit_bytes: int) -> bool:
    """Whether this process and all that it started take more than `limit_bytes`.

    What they share counts once. That is told exactly, which takes some milliseconds for a large process, only if the
    quick sum, which counts it once for each of them, is above the limit.
    """
    pids = ["self", *descendants()]
    if sum(map(_resident_bytes, pids)) <= limit_bytes:
        return False
    return sum(map(_own_part_bytes, pids)) > limit_bytes


def descendants(pid: str = "self") -> Iterator[str]:
    """Yield the ids of all processes that a process started, and those that they started."""
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _read(thread).split():
            yield child
            yield from descendants(child)


def _resident_bytes(pid: str) -> int:
    pages = _read(Path(f"/proc/{pid}/statm")).split()
    return int(pages[1]) * _PAGE_BYTES if pages else 0


def _own_part_bytes(pid: str) -> int:
    found = _PSS_KB.search(_read(Path(f"/proc/{pid}/smaps_rollup")))
    return int(found[1]) * 1024 if found else _resident_bytes(pid)


def _read(path: Path) -> str:
    """Return a file of the kernel, or nothing: its process may have ended, or the kernel may not have it."""
    try:
        return path.read_text()
    except OSError:
        return ""
