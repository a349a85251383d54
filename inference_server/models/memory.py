"""How much memory there is, and how much this process can still have."""

from __future__ import annotations

import resource
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where versions 2 and 1 of Linux's control groups say how much memory a container may use."""


def host_memory_bytes() -> int:
    """Return the main memory of this machine, or of the container that this process is confined to."""
    return min(int(psutil.virtual_memory().total), *map(_limit, CONTAINER_LIMITS))


def host_memory_left() -> int:
    """Return the bytes of main memory that are left: of the machine, of its container, or of this process's limit."""
    return int(max(0, min(psutil.virtual_memory().available, _left_in_container(), _left_of_limit())))


def _left_in_container() -> float:
    """Return what version 2 of Linux's control groups allows; what only caches files counts as free."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        if limit == "max":
            return float("inf")
        used = int((CGROUP / "memory.current").read_text())
        facts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return float("inf")
    return int(limit) - used + int(facts.get("inactive_file", 0))


def _left_of_limit() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return float("inf") if soft == resource.RLIM_INFINITY else soft - psutil.Process().memory_info().vms


def _limit(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # there is no such file, or it says `max`
        return 2**63
