"""The device that models compute on."""

from __future__ import annotations

import ctypes
import gc
import os
import platform

import torch

from inference_server.errors import SettingsError
from inference_server.models.device_id import device_id
from inference_server.models.memory import host_memory_bytes


def open_device(name: str) -> torch.device:
    """Return the device of a setting: `auto` is the first GPU, else the CPU.

    Raises:
        SettingsError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise SettingsError(f"The device '{name}' is unknown; `auto`, `cpu`, `cuda` or `cuda:N` was expected.") from exc
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(f"The device '{name}' does not exist here; {torch.cuda.device_count()} GPUs were found.")
    return device


def describe_device(device: torch.device) -> str:
    """Return a device's name for people."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"


def identify_device(device: torch.device) -> str:
    """Return what tells a device from the others of its machine, also to processes that see others than this one."""
    uuid = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""
    return device_id(str(device), uuid=uuid, visible=os.environ.get("CUDA_VISIBLE_DEVICES"))


def memory_bytes(device: torch.device) -> int:
    """Return how much memory a device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return host_memory_bytes()


def free_memory(device: torch.device) -> None:
    """Give memory back that nothing uses any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    _trim()


def _trim() -> None:
    """Have the C library return freed memory to the system; glibc keeps most of a dropped model's otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
