"""What becomes of scores as they are finished: they are kept, or decided row by row and forgotten."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference_server.imaging.volume import Volume
from inference_server.models.case import Case, Segmentation
from inference_server.models.labels import segmentation_of
from inference_server.models.manifest import LabelName
from inference_server.models.runtimes.base import Prediction, Prepared
from inference_server.models.sampling import parallel_axes

Decide = Callable[[Prediction], tuple[Segmentation, ...]]
"""Makes labels of scores on the grid of the case that they come with."""


class Stored:
    """Keeps scores in main memory.

    Args:
        scores: ``(classes, A, B, C)``, to be filled; in float16, what is beyond its range becomes its last number.
        axis: along which rows come.
    """

    def __init__(self, scores: torch.Tensor, axis: int) -> None:
        self._rows = scores.movedim(axis + 1, 1)
        self._limit = torch.finfo(scores.dtype).max

    def take(self, first: int, scores: torch.Tensor) -> None:
        self._rows[:, first : first + scores.shape[1]] = scores.clamp(-self._limit, self._limit)


@dataclass(frozen=True, eq=False)
class _Reach:
    """Which rows of scores the slices of a case need: slice i those from `lowest[i]` to `highest[i]`."""

    along: int
    """The axis of the case (z, y, x) that its slices are cut from."""
    lowest: NDArray[np.int64]
    highest: NDArray[np.int64]


class Decided:
    """Decides slices of a case as soon as all rows that they lie between are there, and keeps no others.

    Args:
        prepared: of the case; its axes are parallel to the case's, as `reach` has found out.
        axis: along which rows come.
        reach: of that axis.
        decide: for parts of the case.
    """

    def __init__(self, prepared: Prepared, axis: int, reach: _Reach, decide: Decide) -> None:
        self._prepared, self._axis, self._reach, self._decide = prepared, axis, reach, decide
        self._held = _Held(axis + 1)
        self._pending = list(np.argsort(reach.highest, kind="stable"))
        self._arrays: list[NDArray[Any]] = []
        self._names: list[tuple[str, Mapping[int, LabelName]]] = []

    def take(self, first: int, scores: torch.Tensor) -> None:
        if not self._pending:
            return
        self._held.append(first, scores.movedim(1, self._axis + 1))
        ready = [index for index in self._pending if self._reach.highest[index] < first + scores.shape[1]]
        if ready:
            self._decide_slices(slice(int(min(ready)), int(max(ready)) + 1))
            self._pending = self._pending[len(ready) :]
        self._forget()

    def segmentations(self) -> tuple[Segmentation, ...]:
        """Return the labels of the whole case, when all rows have been taken."""
        assert not self._pending
        case = self._prepared.case
        together = zip(self._names, self._arrays, strict=True)
        return tuple(segmentation_of(name, labels, case, names) for (name, names), labels in together)

    def _decide_slices(self, slices: slice) -> None:
        part = self._part(slices)
        found = self._decide(part)
        if not self._arrays:
            self._start(found)
        factor = self._prepared.case.scaling_factor[self._reach.along]
        rows = slice(slices.start * factor, slices.stop * factor)
        for whole, one in zip(self._arrays, found, strict=True):
            whole[(*[slice(None)] * self._reach.along, rows)] = one.labels.array

    def _part(self, slices: slice) -> Prediction:
        """Return the part of the case that some slices are, with the scores that it needs."""
        low, high = int(self._reach.lowest[slices].min()), int(self._reach.highest[slices].max())
        rows = self._held.rows(low, high + 1)
        shift = np.eye(4)
        shift[self._axis, 3] = low
        case = part_of(self._prepared.case, self._reach.along, slices)
        affine = self._prepared.affine @ shift
        return Prediction(replace(self._prepared, case=case, affine=affine), rows.contiguous())

    def _start(self, found: tuple[Segmentation, ...]) -> None:
        case = self._prepared.case
        shape = case.reference.geometry.refined(case.scaling_factor).shape
        self._names = [(one.name, one.names) for one in found]
        self._arrays = [np.empty(shape, one.labels.array.dtype) for one in found]

    def _forget(self) -> None:
        if self._pending:
            self._held.forget(int(min(self._reach.lowest[index] for index in self._pending)))


class _Held:
    """The rows ``(classes, A, B, C)`` along one of their axes that are still needed, in memory that is used again."""

    def __init__(self, along: int) -> None:
        self._along = along
        self._room = self._held = torch.empty(0)
        self._first = 0

    def append(self, first: int, rows: torch.Tensor) -> None:
        if not self._held.numel():
            self._first, self._held = first, rows.narrow(self._along, 0, 0)
        kept = self._held.clone()
        shape = list(rows.shape)
        shape[self._along] += kept.shape[self._along]
        self._held = self._room_of(shape, rows.device)
        torch.cat([kept, rows], self._along, out=self._held)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self._held.narrow(self._along, start - self._first, stop - start)

    def forget(self, before: int) -> None:
        count = self._held.shape[self._along]
        unneeded = min(count, before - self._first)
        self._held = self._held.narrow(self._along, unneeded, count - unneeded)
        self._first += unneeded

    def _room_of(self, shape: list[int], device: torch.device) -> torch.Tensor:
        size = math.prod(shape)
        if self._room.numel() < size:
            self._room = torch.empty(size, device=device)
        return self._room[:size].view(shape)


def reach(prepared: Prepared, axis: int) -> _Reach | None:
    """Return which rows along an axis each slice of a case needs, or None where their axes are not parallel."""
    grid, factor = prepared.case.reference.geometry, prepared.case.scaling_factor
    inverse = np.linalg.inv(prepared.affine)
    order = parallel_axes(inverse @ grid.affine, grid.shape[::-1])
    if order is None:
        return None
    along, world = 2 - order[axis], inverse @ grid.refined(factor).affine
    indices = np.arange(grid.shape[along] * factor[along])
    positions = world[axis, order[axis]] * indices + world[axis, 3]
    positions = np.clip(positions, 0, prepared.inputs.shape[axis + 1] - 1).reshape(-1, factor[along])
    return _Reach(along, np.floor(positions.min(1)).astype(int), np.ceil(positions.max(1)).astype(int))


def part_of(case: Case, along: int, slices: slice) -> Case:
    """Return some slices of a case's reference, along an axis (z, y, x), as a case."""
    grid = case.reference.geometry
    start = np.zeros(4)
    start[2 - along], start[3] = slices.start, 1.0
    x, y, z, _ = (float(value) for value in grid.affine @ start)
    shape = list(grid.shape)
    shape[along] = slices.stop - slices.start
    geometry = replace(grid, shape=(shape[0], shape[1], shape[2]), origin_mm=(x, y, z))
    within = (*[slice(None)] * along, slices)
    name, volume = next(iter(case.channels.items()))
    return Case({name: Volume(volume.array[within], geometry)}, scaling_factor=case.scaling_factor)
