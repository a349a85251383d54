"""How a GPU is used, by whomever, as NVIDIA's management library says. It needs no CUDA, so that its user can fork."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceUse:
    """How a GPU is used at the moment.

    Attributes:
        memory_bytes: that are taken, by all processes.
        utilisation: share of the last moments in which it computed, 0 to 1; None where it does not say, as parts of
            GPUs do not.
    """

    memory_bytes: int
    utilisation: float | None


def device_use(uuid: str) -> DeviceUse | None:
    """Return how a GPU is used; None where nobody says.

    Args:
        uuid: as the library has it: `GPU-…` or `MIG-…`.
    """
    library = _library()
    if library is None or not uuid.startswith(("GPU-", "MIG-")):
        return None
    try:
        handle = library.nvmlDeviceGetHandleByUUID(uuid)
        memory_bytes = int(library.nvmlDeviceGetMemoryInfo(handle).used)
    except library.NVMLError:
        return None
    return DeviceUse(memory_bytes, _utilisation(library, handle))


def _utilisation(library: Any, handle: Any) -> float | None:
    try:
        return int(library.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
    except library.NVMLError:
        return None


@lru_cache(maxsize=1)
def _library() -> Any | None:
    """Return the library, ready for use, or None where there is none or no driver."""
    try:
        import pynvml
    except ModuleNotFoundError:
        log.info("memory and utilisation of GPUs are not told: nvidia-ml-py is not installed")
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
