"""When the device fails: what kind of failure it is, and what is tried next."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from inference_server.errors import OutOfMemory

_MEMORY = (
    "out of memory",
    "allocate memory",
    "enough memory",
    "seems to be oom",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
)
_BROKEN = ("cuda error", "cudnn_status_", "cublas_status_", "cusolver_status_", "cufft_", "nvrtc error", "nccl error")
"""In what libraries say when a computation on a GPU failed: afterwards nothing can be relied on in this process."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Effort:
    """How much memory a prediction may take.

    Attributes:
        batch: how many windows the network is given at a time, at most; None is as many as the model asks for.
        on_host: windows are added up in the main memory instead of the device's.
        thrifty: scores of the whole case are not kept in full precision.
        whole: the scores of the whole case are wanted, and not only what is decided by them.
    """

    batch: int | None = None
    on_host: bool = False
    thrifty: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Try:
    """An effort, and what to tell people of it."""

    effort: Effort
    note: str


def lesser_efforts(batch: int | None, device: torch.device, *, whole: bool, room: bool) -> Iterator[Try]:
    """Return what is tried when memory did not suffice, one after the other.

    Args:
        batch: how many windows the model is given at a time; None where it sees the case at once.
        device: that it computes on.
        whole: as in `Effort`.
        room: whether other models are kept in memory, which are dropped before anything is tried again.
    """
    effort = Effort(batch, whole=whole)
    if room:
        yield Try(effort, "other models were dropped from it")
    if batch is None:
        return
    while effort.batch and effort.batch > 1:
        effort = replace(effort, batch=effort.batch // 2)
        yield Try(effort, f"the windows were computed {_words(effort.batch)} at a time instead of {batch}")
    if device.type == "cpu":
        yield Try(replace(effort, thrifty=True), "no more of the scores was held at a time than is needed")
    else:
        yield Try(replace(effort, on_host=True), "the windows were added up in the main memory")


def trial_efforts(batch: int | None) -> Iterator[Try]:
    """Return what is tried when memory does not suffice to find out on the example how a model is fastest."""
    if batch is not None and batch > 1:
        yield Try(Effort(1), "the example's windows were computed one at a time")


def with_less(
    work: Callable[[Effort], Answer],
    efforts: Iterator[Try],
    *,
    told: Callable[[str], None],
    first: Effort = Effort(),
) -> Answer:
    """Do some work with full effort and, as long as memory does not suffice, with less.

    Args:
        work: does it.
        efforts: what to try.
        told: frees memory and hears what is tried next.
        first: the full effort.

    Raises:
        MemoryError, RuntimeError: the last effort's, or what is no matter of memory.
    """
    effort = first
    while True:
        try:
            return work(effort)
        except (MemoryError, RuntimeError) as exc:
            lesser = next(efforts, None) if is_out_of_memory(exc) else None
            if lesser is None:
                raise
            traceback.clear_frames(exc.__traceback__)  # their local variables hold the arrays
        effort = lesser.effort
        told(lesser.note)


def is_out_of_memory(exc: BaseException) -> bool:
    """Whether memory of the device or of the machine did not suffice, as torch, MONAI and Python say it."""
    if isinstance(exc, MemoryError | torch.OutOfMemoryError | OutOfMemory):
        return True
    return isinstance(exc, RuntimeError) and _says(exc, _MEMORY)


def is_broken_device(exc: BaseException) -> bool:
    """Whether the device failed in a way that only a fresh process recovers from."""
    if is_out_of_memory(exc):
        return False
    return isinstance(exc, torch.AcceleratorError) or (isinstance(exc, RuntimeError) and _says(exc, _BROKEN))


def _says(exc: BaseException, words: tuple[str, ...]) -> bool:
    text = str(exc).lower()
    return any(word in text for word in words)


def _words(count: int | None) -> str:
    return "one" if count == 1 else str(count)
