"""Work on a large array slab by slab, in several threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

SLAB_BYTES = 2 * 1024**2
"""Size of the arrays that are worked on at a time: small enough for a processor's cache."""


def parts(count: int, step: int) -> Iterator[slice]:
    """Cut a range into slices of `step`, the last one being shorter."""
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


def for_each_slab(work: Callable[[slice], None], count: int, step: int) -> None:
    """Call `work` with each slice of a range, in as many threads as torch computes with.

    Each thread's operations run in that thread alone: they are short, and threads that wait for each other after every
    one of them lose most of their time as soon as another process wants a core.

    Args:
        work: must not depend on the order of the slices; torch records nothing of it for gradients.
        count: length of the range.
        step: length of a slice.
    """
    slices = list(parts(count, step))
    threads = min(torch.get_num_threads(), len(slices))
    if threads <= 1:
        _work_on(work, slices)
        return
    with _one_thread_each(), ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda first: _work_on(work, slices[first::threads]), range(threads)))


def _work_on(work: Callable[[slice], None], slices: Sequence[slice]) -> None:
    with torch.inference_mode():
        for part in slices:
            work(part)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
