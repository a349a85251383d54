"""What tells a device from the others of its machine, whatever each process sees of them and calls it."""

from __future__ import annotations

MIG = "MIG-"
GPU = "GPU-"


def device_id(device: str, *, uuid: str = "", visible: str | None = None) -> str:
    """Return the identity of a device on its machine.

    Two containers that each see one GPU both call it `cuda:0`; a lock by that name would have one wait for the other
    for nothing, and a process that sees all GPUs calls the second one of them `cuda:1`.

    Args:
        device: `cpu`, `cuda` or `cuda:N`, as this process calls it.
        uuid: of the GPU, as its driver has it; empty where that is not known.
        visible: the value of CUDA_VISIBLE_DEVICES, None where it is not set.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return device
    entries = [entry.strip() for entry in (visible or "").split(",")]
    entry = entries[int(index or 0)] if int(index or 0) < len(entries) else ""
    if entry.startswith(MIG):  # a part of a GPU, of which the driver may tell the whole one's identity
        return entry
    if uuid:
        return uuid if uuid.startswith((GPU, MIG)) else f"{GPU}{uuid}"
    return f"cuda:{entry}" if entry.isdigit() else entry or f"cuda:{index or 0}"
