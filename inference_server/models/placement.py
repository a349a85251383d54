"""Where the voxels of one grid lie in another, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from inference_server.imaging.volume import Geometry, ScalingFactor
from inference_server.models.sampling import Affine, Axis, Size, parallel_axes
from inference_server.models.scattered import Places
from inference_server.models.slabs import parts

Block = tuple[slice, slice, slice]
"""A part of a grid, (z, y, x)."""
Voxels = tuple[torch.Tensor, ...]
"""Indices (z, y, x) of some voxels of a block, each ``(n,)`` int64."""

BORDER_VOXELS = 0.51
"""A voxel lies outside the source when its centre is farther than this from the outermost source centres."""
ROUNDING_VOXELS = 1e-3
"""More than positions in single precision are off by within a block."""
_LINE_VOXELS = 128


class Part(Protocol):
    """A block of the output grid, seen from the source. Indices count from the beginning of `box`.

    Attributes:
        box: the part of the source that the block's samples lie in.
        covered: which voxels of the block lie in the source; None means all of them.
    """

    box: Block
    covered: torch.Tensor | None

    def spread(self, cells: torch.Tensor) -> torch.Tensor:
        """Return the value of the cell that each voxel lies in, in the shape of the block.

        Args:
            cells: values of the cells of `box`; a cell is named by the lowest of the voxels that it lies between.
        """

    def nearest(self, source: torch.Tensor) -> torch.Tensor:
        """Return the value of the voxel of `box` that is nearest to each voxel of the block."""

    def places(self, voxels: Voxels) -> Places:
        """Return where some voxels of the block lie."""


class Placement(Protocol):
    """Where an output grid's voxels lie in a source, whose axes are taken in the order of `view`.

    Sample positions are clamped to the source's outermost voxel centres.

    Attributes:
        shape: of the output grid, (z, y, x).
        whole: for each axis of the source whether every sample lies on one of its voxels.
    """

    shape: Size
    whole: tuple[bool, bool, bool]

    def view(self, source: torch.Tensor) -> torch.Tensor:
        """Return a source ``(…, A, B, C)`` with its last three axes in the order that fits the output's best."""

    def part(self, block: Block) -> Part:
        """Return a block of the output grid, seen from the source."""


def make_placement(
    source: Affine,
    source_size: Size,
    grid: Geometry,
    factor: ScalingFactor = (1, 1, 1),
    *,
    device: torch.device | None = None,
) -> Placement:
    """Return where a grid's voxels lie in a source, the grid being refined into its contour grid by `factor` (z, y, x).

    A voxel is covered when the centre of the unrefined voxel that it is part of lies within the source's edges.

    Args:
        source: 4 x 4 from an index of the source to LPS millimetres.
        source_size: shape of the source, in the order of the affine's index.
        grid: the output grid before refinement.
        factor: how many parts each voxel is split into.
        device: where the source's values are.
    """
    inverse = np.linalg.inv(source)
    fine, coarse = inverse @ grid.refined(factor).affine, inverse @ grid.affine
    order = parallel_axes(coarse, grid.shape[::-1])
    along = (2, 1, 0) if order is None else (order.index(2), order.index(1), order.index(0))
    turned = [*along, 3], [2, 1, 0, 3]
    frame = _Frame(
        (source_size[along[0]], source_size[along[1]], source_size[along[2]]),
        grid.shape,
        factor,
        fine[np.ix_(*turned)],
        coarse[np.ix_(*turned)],
        along,
        device or torch.device("cpu"),
    )
    return ObliquePlacement(frame) if order is None else AlignedPlacement(frame)


def blocks(shape: Size, voxels: int) -> Iterator[Block]:
    """Cut a grid into blocks of about so many voxels at most, compact ones."""
    x = min(shape[2], _LINE_VOXELS)
    y = min(shape[1], max(1, math.isqrt(voxels // x)))
    z = min(shape[0], max(1, voxels // (x * y)))
    return (
        (rows, columns, line)
        for rows in parts(shape[0], z)
        for columns in parts(shape[1], y)
        for line in parts(shape[2], x)
    )


@dataclass(frozen=True, eq=False)
class _Frame:
    """A source and an output: `fine` and `coarse` lead to the former from an index (z, y, x) of the refined and the
    unrefined output.

    `along` are the source's own axes in the order in which they are taken here, as `size` and the matrices have them.
    """

    size: Size
    shape: Size
    factor: ScalingFactor
    fine: Affine
    coarse: Affine
    along: Size
    device: torch.device

    @property
    def refined(self) -> Size:
        z, y, x = (count * split for count, split in zip(self.shape, self.factor, strict=True))
        return z, y, x

    @property
    def covers_all(self) -> bool:
        """Whether the corners of the output, and with them all of it, lie in the source."""
        last = np.asarray(self.shape) - 1
        corners = np.array([[*(last * sides), 1] for sides in np.ndindex(2, 2, 2)])
        return bool(self.within(corners @ self.coarse[:3].T).all())

    def within(self, positions: NDArray[np.float64]) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_] = (positions >= -BORDER_VOXELS) & (
            positions <= np.asarray(self.size) - 1 + BORDER_VOXELS
        )
        return inside

    def view(self, source: torch.Tensor) -> torch.Tensor:
        before = source.ndim - 3
        return source.permute(*range(before), *(before + axis for axis in self.along))


class AlignedPlacement:
    """For grids whose axes are parallel: along each of them samples lie in the same places everywhere."""

    def __init__(self, frame: _Frame) -> None:
        self.view = frame.view
        self.shape = frame.refined
        axes = [_axis(frame, number) for number in range(3)]
        self.whole = (axes[0].whole, axes[1].whole, axes[2].whole)
        self._axes = [_in_cells(axis) for axis in axes]
        self._inside = None if frame.covers_all else [_inside(frame, number) for number in range(3)]

    def part(self, block: Block) -> AlignedPart:
        axes = [axis[part] for axis, part in zip(self._axes, block, strict=True)]
        inside = None if self._inside is None else [line[part] for line, part in zip(self._inside, block, strict=True)]
        return AlignedPart(axes, inside)


class AlignedPart:
    """A block of an output whose axes are parallel to the source's."""

    def __init__(self, axes: list[Axis], inside: list[torch.Tensor] | None) -> None:
        first, second, last = (slice(int(axis.lower.min()), int(axis.upper.max()) + 1) for axis in axes)
        self.box: Block = (first, second, last)
        self._axes = [axis.counted_from(span.start) for axis, span in zip(axes, self.box, strict=True)]
        self.covered = None if inside is None else inside[0][:, None, None] & inside[1][:, None] & inside[2]

    def spread(self, cells: torch.Tensor) -> torch.Tensor:
        return self._pick(cells, [axis.lower for axis in self._axes])

    def nearest(self, source: torch.Tensor) -> torch.Tensor:
        return self._pick(source, [axis.nearest for axis in self._axes])

    def places(self, voxels: Voxels) -> Places:
        return tuple((axis.lower[voxel], axis.weight[voxel]) for axis, voxel in zip(self._axes, voxels, strict=True))

    @staticmethod
    def _pick(values: torch.Tensor, indices: list[torch.Tensor]) -> torch.Tensor:
        for axis in (2, 1, 0):  # picking along the last axis is slowest and comes while there is little to pick
            values = values.index_select(axis, indices[axis])
        return values


class ObliquePlacement:
    """For grids at any angle."""

    def __init__(self, frame: _Frame) -> None:
        self.view = frame.view
        self.shape = frame.refined
        self.whole = (frame.size[0] == 1, frame.size[1] == 1, frame.size[2] == 1)
        self._frame = frame
        self._covers_all = frame.covers_all

    def part(self, block: Block) -> ObliquePart:
        return ObliquePart(self._frame, block, covers_all=self._covers_all)


class ObliquePart:
    """A block of an output at any angle to the source."""

    def __init__(self, frame: _Frame, block: Block, *, covers_all: bool) -> None:
        steps = [_steps(frame.fine[axis], block) for axis in range(3)]
        first, second, last = (_span(lines, size) for lines, size in zip(steps, frame.size, strict=True))
        self.box: Block = (first, second, last)
        self.covered = None if covers_all else _covered(frame, block)
        self._size = tuple(span.stop - span.start for span in self.box)
        self._lines = [
            [torch.as_tensor(line, dtype=torch.float32, device=frame.device) for line in (z - span.start, y, x)]
            for (z, y, x), span in zip(steps, self.box, strict=True)
        ]

    def spread(self, cells: torch.Tensor) -> torch.Tensor:
        return _take(cells, [self._lower(axis, self._positions(axis)) for axis in range(3)])

    def nearest(self, source: torch.Tensor) -> torch.Tensor:
        return _take(source, [self._positions(axis).round().int() for axis in range(3)])

    def places(self, voxels: Voxels) -> Places:
        return tuple(self._place(axis, voxels) for axis in range(3))

    def _positions(self, axis: int) -> torch.Tensor:
        z, y, x = self._lines[axis]
        return self._inside(axis, z[:, None, None] + y[:, None] + x)

    def _inside(self, axis: int, position: torch.Tensor) -> torch.Tensor:
        return position.clamp_(0, self._size[axis] - 1)

    def _lower(self, axis: int, position: torch.Tensor) -> torch.Tensor:
        return position.int().clamp_(max=max(0, self._size[axis] - 2))

    def _place(self, axis: int, voxels: Voxels) -> tuple[torch.Tensor, torch.Tensor]:
        z, y, x = (line[voxel] for line, voxel in zip(self._lines[axis], voxels, strict=True))
        position = self._inside(axis, z + y + x)
        lower = self._lower(axis, position)
        return lower.long(), position - lower


def _axis(frame: _Frame, number: int) -> Axis:
    positions = frame.fine[number, number] * np.arange(frame.refined[number]) + frame.fine[number, 3]
    return Axis.at(positions, frame.size[number]).on(frame.device)


def _in_cells(axis: Axis) -> Axis:
    """Return the same samples, each between two different voxels, or all of them on a voxel."""
    if axis.whole:
        return Axis(axis.size, axis.lower, axis.lower, axis.weight)
    lower = axis.lower.clamp(max=axis.size - 2)
    return Axis(axis.size, lower, lower + 1, axis.weight + (axis.lower - lower))


def _inside(frame: _Frame, number: int) -> torch.Tensor:
    positions = frame.coarse[number, number] * np.arange(frame.shape[number]) + frame.coarse[number, 3]
    inside = (positions >= -BORDER_VOXELS) & (positions <= frame.size[number] - 1 + BORDER_VOXELS)
    return torch.as_tensor(np.repeat(inside, frame.factor[number]), device=frame.device)


def _steps(row: NDArray[np.float64], block: Block, split: ScalingFactor = (1, 1, 1)) -> list[NDArray[np.float64]]:
    """Return three lines (z, y, x) whose sum is the position of a block's voxels along an axis of the source."""
    indices = [np.arange(part.start, part.stop) // parts for part, parts in zip(block, split, strict=True)]
    steps = [row[axis] * (index - index[0]) for axis, index in enumerate(indices)]
    steps[0] = steps[0] + row[:3] @ [index[0] for index in indices] + row[3]
    return steps


def _span(lines: list[NDArray[np.float64]], size: int) -> slice:
    """Return which source voxels positions lie between, with a margin for rounding; at least two, if there are."""
    low = math.floor(sum(line.min() for line in lines) - ROUNDING_VOXELS)
    high = math.floor(sum(line.max() for line in lines) + ROUNDING_VOXELS) + 1
    start = min(max(low, 0), max(size - 2, 0))
    return slice(start, min(max(high, start + 1), size - 1) + 1)


def _covered(frame: _Frame, block: Block) -> torch.Tensor:
    covered = torch.ones([part.stop - part.start for part in block], dtype=torch.bool, device=frame.device)
    for axis, size in enumerate(frame.size):
        lines = _steps(frame.coarse[axis], block, frame.factor)
        z, y, x = (torch.as_tensor(line, device=frame.device) for line in lines)
        positions = z[:, None, None] + y[:, None] + x
        covered &= (positions >= -BORDER_VOXELS) & (positions <= size - 1 + BORDER_VOXELS)
    return covered


def _take(values: torch.Tensor, indices: list[torch.Tensor]) -> torch.Tensor:
    first, second, last = indices
    flat = (first * values.shape[1] + second) * values.shape[2] + last
    return values.flatten().index_select(0, flat.flatten()).view(flat.shape)
