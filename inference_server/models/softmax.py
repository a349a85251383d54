"""Softmax whose classes are taken one by one."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from inference_server.models.slabs import SLAB_BYTES, for_each_slab


def softmax_by_class(scores: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the probabilities of one class after the other.

    Beside the scores three volumes of one class are in memory, however many classes there are.

    Args:
        scores: ``(classes, A, B, C)`` floating, on any device. Not modified.

    Yields:
        ``(1, A, B, C)`` float32, where the scores are. All classes together add up to one.
    """
    best = scores.amax(0)
    total = torch.zeros_like(best, dtype=torch.float32)
    step = max(1, SLAB_BYTES // (4 * scores.shape[2] * scores.shape[3]))

    def add(rows: slice) -> None:
        for one in scores:
            total[rows] += _odds(one[rows], best[rows])

    for_each_slab(add, scores.shape[1], step)
    for one in scores:
        yield _shares(one, best, total, step)


def _shares(one: torch.Tensor, best: torch.Tensor, total: torch.Tensor, step: int) -> torch.Tensor:
    found = torch.empty_like(total)

    def divide(rows: slice) -> None:
        found[rows] = _odds(one[rows], best[rows]) / total[rows]

    for_each_slab(divide, len(total), step)
    return found[None]


def _odds(scores: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    return (scores.float() - best.float()).exp_()
