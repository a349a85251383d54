"""Weighted sums of what a network gives for overlapping windows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

from inference_server.models.network import check_finite
from inference_server.models.slabs import parts
from inference_server.models.windows import Layout, Place

PIECE_BYTES = 16 * 1024**2
"""Size of what is finished and handed on at a time."""
LINE_ROWS = 16
"""So many rows are finished at a time where they lie across memory: as many voxels as one cache line holds."""


class Taker(Protocol):
    """Takes scores in the order in which they are finished."""

    def take(self, first: int, scores: torch.Tensor) -> None:
        """Take the rows from `first` on, ``(classes, rows, …)`` with the layout's slow axis first; not to be kept.

        They lie in memory as the image does, which may be another order.
        """


class Sums:
    """Adds windows up, and hands on what no later window will change.

    Only as many rows along the layout's slow axis are in memory as one window has, in a ring; or all of them, where
    `scores` is given to hold them.

    Args:
        classes: channels of the windows' scores.
        layout: of the windows, which are added in the order of its places.
        weights: of a window's voxels, as `SlidingWindows.weights` gives them.
        device: where to add.
        taker: gets the weighted means.
        scores: ``(classes, A, B, C)`` float32 zeros, which become the means.
    """

    def __init__(
        self,
        classes: int,
        layout: Layout,
        weights: torch.Tensor,
        device: torch.device,
        *,
        taker: Taker | None = None,
        scores: torch.Tensor | None = None,
    ) -> None:
        axis = layout.slow_axis
        self._axis, self._taker, self._weights = axis, taker, weights.to(device)
        self._image = layout.image[axis]
        if scores is None:  # in memory as the windows are, whichever axis is the slow one: adding is faster by far
            ring = (*layout.image[:axis], weights.shape[axis], *layout.image[axis + 1 :])
            scores = torch.zeros(classes, *ring, device=device)
        self._rows = scores.movedim(axis + 1, 1)
        self._least_rows = LINE_ROWS if axis == 2 else 1
        self._means = torch.empty(0, device=device)
        self._row_weights = _Totals(layout, self._weights)
        self._finished = 0

    def add(self, place: Place, window: torch.Tensor) -> None:
        """Add the scores ``(classes, A, B, C)`` of a window."""
        first = place.covered[self._axis].start
        if first > self._finished:
            self._finish(first)
        weights = self._weights.movedim(self._axis, 0)
        window = window[(slice(None), *place.kept)].movedim(self._axis + 1, 1)
        others = [part for axis, part in enumerate(place.covered) if axis != self._axis]
        for at, part in self._segments(first, window.shape[1]):
            self._rows[(slice(None), at, *others)].addcmul_(window[:, part], weights[part])

    def close(self) -> None:
        """Hand the rest on.

        Raises:
            PredictionError: a mean is not finite; here, or before when `add` finished it.
        """
        self._finish(self._image)

    def _finish(self, stop: int) -> None:
        row_bytes = 4 * self._rows[:, 0].numel()
        for part in parts(stop - self._finished, max(self._least_rows, PIECE_BYTES // row_bytes)):
            first = self._finished + part.start
            total = self._row_weights.of(first, part.stop - part.start)
            for at, inner in self._segments(first, len(total)):
                self._hand_on(first + inner.start, self._rows[:, at], total[inner])
        self._finished = stop

    def _hand_on(self, first: int, rows: torch.Tensor, total: torch.Tensor) -> None:
        if not self._taker:
            check_finite(rows.div_(total))
            return
        means = torch.div(rows, total, out=self._room_for(rows))
        check_finite(means)
        self._taker.take(first, means)
        rows.zero_()

    def _room_for(self, rows: torch.Tensor) -> torch.Tensor:
        """Return memory for a piece, the same each time: a system takes long to give so much anew."""
        if self._means.numel() < rows.numel():
            self._means = torch.empty(rows.numel(), device=rows.device)
        natural = rows.movedim(1, self._axis + 1).shape
        return self._means[: rows.numel()].view(natural).movedim(self._axis + 1, 1)

    def _segments(self, first: int, count: int) -> Iterator[tuple[slice, slice]]:
        """Yield where rows stand in the ring, and which of the `count` they are."""
        ring = self._rows.shape[1]
        at = first % ring
        before_end = min(count, ring - at)
        yield slice(at, at + before_end), slice(0, before_end)
        if before_end < count:
            yield slice(0, count - before_end), slice(before_end, count)


class _Totals:
    """The sum of all windows' weights in each voxel. It repeats itself along the slow axis."""

    def __init__(self, layout: Layout, weights: torch.Tensor) -> None:
        axis = layout.slow_axis
        self._starts = layout.starts[axis]
        self._depth = weights.shape[axis]
        others = [length for other, length in enumerate(layout.image) if other != axis]
        self._row_of_windows = torch.zeros(self._depth, *others, device=weights.device)
        for place in _first_row(layout):
            covered = [part for other, part in enumerate(place.covered) if other != axis]
            self._row_of_windows[(slice(None), *covered)] += weights.movedim(axis, 0)

    def of(self, first: int, count: int) -> torch.Tensor:
        """Return the totals ``(count, …)`` of rows."""
        total = torch.zeros(count, *self._row_of_windows.shape[1:], device=self._row_of_windows.device)
        for start in self._starts:
            low, high = max(first, start), min(first + count, start + self._depth)
            if low < high:
                total[low - first : high - first] += self._row_of_windows[low - start : high - start]
        return total


def _first_row(layout: Layout) -> Iterator[Place]:
    """Go through the windows that begin where the image does along the slow axis."""
    axis = layout.slow_axis
    return (place for place in layout.places() if place.seen[axis].start == 0)
