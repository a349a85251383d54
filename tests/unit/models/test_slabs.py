"""Work in slabs: all of it, once, and torch's threads as they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from inference_server.models.slabs import for_each_slab


@pytest.fixture(autouse=True, params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_slab_is_worked_on_once_without_gradients(threads: int) -> None:
    seen: list[tuple[int, int]] = []
    workers: set[int] = set()

    def work(part: slice) -> None:
        assert torch.is_inference_mode_enabled()
        assert torch.get_num_threads() == 1
        seen.append((part.start, part.stop))
        workers.add(threading.get_ident())

    for_each_slab(work, 10, 4)
    assert sorted(seen) == [(0, 4), (4, 8), (8, 10)]
    assert (threading.get_ident() in workers) == (threads == 1)
    assert torch.get_num_threads() == threads


def test_a_failure_in_a_slab_is_raised_and_the_threads_are_given_back(threads: int) -> None:
    def work(part: slice) -> None:
        if part.start == 8:
            raise MemoryError

    with pytest.raises(MemoryError):
        for_each_slab(work, 10, 4)
    assert torch.get_num_threads() == threads
