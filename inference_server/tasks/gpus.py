"""How many GPUs this machine, or container, has for us, without asking CUDA: whoever asks it can fork no workers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from pathlib import Path

DEVICES = Path("/dev")
VISIBLE = "CUDA_VISIBLE_DEVICES"


def worker_devices(device: str, environment: Mapping[str, str], devices: Path = DEVICES) -> list[str]:
    """Return the devices that each get a worker: with `auto` every GPU, where there are several.

    Args:
        device: the setting.
        environment: variables of this process.
        devices: folder of the machine's devices.
    """
    count = count_gpus(environment, devices) if device == "auto" else 0
    return [f"cuda:{index}" for index in range(count)] if count > 1 else [device]


def count_gpus(environment: Mapping[str, str], devices: Path = DEVICES) -> int:
    """Return how many GPUs torch would find; 0 where it is one that computes on processors alone.

    Args:
        environment: variables of this process.
        devices: folder of the machine's devices, of which a container has those that it was given.
    """
    nodes = [node for node in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", node.name)]
    if not nodes or _torch_is_for_processors():
        return 0
    if (visible := environment.get(VISIBLE)) is None:
        return len(nodes)
    entries = [entry.strip() for entry in visible.split(",")]
    return len(list(takewhile(_is_device, entries)))


def _is_device(entry: str) -> bool:
    """Whether an entry names a device; CUDA takes none after the first that does not."""
    return bool(re.match(r"\d|GPU-|MIG-", entry))


def _torch_is_for_processors() -> bool:
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return True
