"""What this machine and its device have."""

from __future__ import annotations

from pathlib import Path

import psutil

from inference_server.models.device import describe_device, memory_bytes, open_device
from inference_server.models.resources import Machine

CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where versions 2 and 1 of Linux's control groups say how much memory a container may use."""


def this_machine(device_name: str) -> Machine:
    """Return what a worker has whose setting `device` is this.

    Asking for a GPU starts CUDA in this process, whose forks cannot use it any more.

    Raises:
        SettingsError: there is no such device here.
    """
    device = open_device(device_name)
    host_memory = host_memory_bytes()
    memory = host_memory if device.type == "cpu" else memory_bytes(device)
    return Machine(describe_device(device), device.type, memory, host_memory)


def host_memory_bytes() -> int:
    """Return the main memory of this machine, or of the container that this process is confined to."""
    return min(int(psutil.virtual_memory().total), *map(_limit, CONTAINER_LIMITS))


def _limit(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # there is no such file, or it says `max`
        return 2**63
