"""Linear interpolation of one grid at the voxel centres of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from inference_server.imaging.volume import Geometry, ScalingFactor
from inference_server.models.slabs import SLAB_BYTES, for_each_slab

Affine = NDArray[np.float64]
Size = tuple[int, int, int]

ALIGNED_VOXELS = 1e-2
"""Two grids count as parallel where this is the most that their axes drift apart, in source voxels."""
SNAP_VOXELS = 1e-4
MATRIX_VOXELS = 128
"""Up to this length a product with a matrix is faster along the last axis than picking neighbours."""
BORDER_VOXELS = 0.51
"""A voxel lies outside the source when its centre is farther than this from the outermost source centres."""


@dataclass(frozen=True, eq=False)
class Axis:
    """Where samples lie along one axis of a source: between `lower` and `upper`, the share of `upper` being `weight`.

    Attributes:
        size: number of source voxels.
        lower, upper: ``(n,)`` int64.
        weight: ``(n,)`` float32, 0 to 1.
    """

    size: int
    lower: torch.Tensor
    upper: torch.Tensor
    weight: torch.Tensor

    @classmethod
    def at(cls, coordinates: NDArray[np.float64], size: int) -> Axis:
        """Return the axis of samples at source coordinates, clamped to the outermost voxel centres."""
        inside = np.clip(coordinates, 0, size - 1)
        near = np.round(inside)
        inside = np.where(np.abs(inside - near) < SNAP_VOXELS, near, inside)
        lower = np.floor(inside)
        upper = np.minimum(lower + 1, size - 1)
        weight = torch.from_numpy((inside - lower).astype(np.float32))
        return cls(size, torch.from_numpy(lower.astype(np.int64)), torch.from_numpy(upper.astype(np.int64)), weight)

    def __len__(self) -> int:
        return len(self.lower)

    def __getitem__(self, part: slice) -> Axis:
        return Axis(self.size, self.lower[part], self.upper[part], self.weight[part])

    @cached_property
    def whole(self) -> bool:
        """Whether every sample lies on a source voxel."""
        return not bool(self.weight.any())

    @cached_property
    def exact(self) -> bool:
        """Whether sample i is source voxel i and there are no others."""
        return self.whole and len(self) == self.size and torch.equal(self.lower, torch.arange(self.size))

    @cached_property
    def nearest(self) -> torch.Tensor:
        """``(n,)`` int64: the source voxel nearest to each sample."""
        return torch.where(self.weight > 0.5, self.upper, self.lower)

    @cached_property
    def matrix(self) -> torch.Tensor:
        """``(size, n)`` float32: samples are ``source @ matrix``."""
        columns = torch.arange(len(self))
        matrix = torch.zeros(self.size, len(self))
        matrix[self.lower, columns] = 1 - self.weight
        matrix[self.upper, columns] += self.weight
        return matrix


Axes = tuple[Axis, Axis, Axis]


def interpolate(source: torch.Tensor, axes: Axes, *, rows: slice = slice(None)) -> torch.Tensor:
    """Interpolate linearly along three axes.

    Args:
        source: ``(C, A, B, C)`` floating, contiguous for speed. Not modified.
        axes: samples along A, B and C.
        rows: which samples along A are wanted.

    Returns:
        ``(C, rows, len(axes[1]), len(axes[2]))`` float32; a view of the source where nothing has to be computed.
    """
    first, second, last = axes
    block = source[:, rows] if first.exact else _lerp(source, first[rows], dim=1)
    if len(second) > second.size:  # what makes the block larger comes last
        return _along(_along(block, last, dim=3), second, dim=2)
    return _along(_along(block, second, dim=2), last, dim=3)


def resample(source: torch.Tensor, axes: Axes) -> torch.Tensor:
    """Interpolate linearly along three axes, in slabs that fit a processor's cache.

    Args:
        source: ``(C, A, B, C)`` floating. Not modified.
        axes: samples along A, B and C.

    Returns:
        ``(C, len(axes[0]), len(axes[1]), len(axes[2]))`` float32.
    """
    size = (len(axes[0]), len(axes[1]), len(axes[2]))
    output = torch.empty(len(source), *size)

    def fill(rows: slice) -> None:
        output[:, rows] = interpolate(source, axes, rows=rows)

    widest = max(size[1], source.shape[2]) * max(size[2], source.shape[3])
    for_each_slab(fill, size[0], max(1, SLAB_BYTES // (4 * widest * len(source))))
    return output


def _along(block: torch.Tensor, axis: Axis, *, dim: int) -> torch.Tensor:
    if axis.exact:
        return block.float()
    if dim == 3 and not axis.whole and axis.size <= MATRIX_VOXELS:
        return block.float() @ axis.matrix
    return _lerp(block, axis, dim=dim)


def _lerp(source: torch.Tensor, axis: Axis, *, dim: int) -> torch.Tensor:
    lower = source.index_select(dim, axis.lower).float()
    if axis.whole:
        return lower
    weight = axis.weight.view([-1 if dim == other else 1 for other in range(source.ndim)])
    return torch.lerp(lower, source.index_select(dim, axis.upper).float(), weight)


class Sampler(Protocol):
    """Samples a source grid at the voxel centres of an output grid, walking the latter in its own order."""

    shape: Size
    exact: bool
    """Whether the samples are the source's own values."""

    def sample(self, source: torch.Tensor, rows: slice) -> torch.Tensor:
        """Return ``(C, rows, shape[1], shape[2])`` float32 of a source ``(C, A, B, C)``, interpolated linearly."""

    def nearest(self, source: torch.Tensor, rows: slice) -> torch.Tensor:
        """Return the source's values nearest to the samples."""

    def covered(self, rows: slice) -> torch.Tensor | None:
        """Return which voxels lie in the source, broadcastable to (rows, shape[1], shape[2]); None: all of them."""

    def arrange(self, output: NDArray[Any]) -> NDArray[Any]:
        """Return a view of an output array (z, y, x) in this sampler's order."""


def make_sampler(source: Affine, source_size: Size, grid: Geometry, factor: ScalingFactor = (1, 1, 1)) -> Sampler:
    """Return the sampler of a grid, refined into its contour grid by `factor` (z, y, x).

    Sample positions are clamped to the source's outermost voxel centres. A voxel is covered when the centre of
    the unrefined voxel that it is part of lies within the source's edges.

    Args:
        source: 4 x 4 from an index of the source to LPS millimetres.
        source_size: shape of the source, in the order of the affine's index.
        grid: the output grid before refinement.
        factor: how many parts each voxel is split into.
    """
    inverse = np.linalg.inv(source)
    grids = _Grids(source_size, grid.shape, factor, inverse @ grid.refined(factor).affine, inverse @ grid.affine)
    order = parallel_axes(grids.coarse, grid.shape[::-1])
    return ObliqueSampler(grids) if order is None else AlignedSampler(grids, order)


@dataclass(frozen=True, eq=False)
class _Grids:
    """A source and an output grid; `fine` and `coarse` lead from the refined and the unrefined output to the source."""

    source_size: Size
    shape: Size
    factor: ScalingFactor
    fine: Affine
    coarse: Affine


class AlignedSampler:
    """Samples for grids whose axes are parallel: one axis after the other, in the order and direction of the source."""

    def __init__(self, grids: _Grids, order: Size) -> None:
        self._order = order
        self._steps = tuple(int(np.sign(grids.coarse[axis, output])) for axis, output in enumerate(order))
        axes, inside = [], []
        for axis, (output, step) in enumerate(zip(order, self._steps, strict=True)):
            size, count, split = grids.source_size[axis], grids.shape[2 - output], grids.factor[2 - output]
            axes.append(Axis.at(_line(grids.fine, axis, output, count * split)[::step], size))
            within = _within(_line(grids.coarse, axis, output, count), size)[::step]
            inside.append(torch.from_numpy(np.repeat(within, split)))
        self._axes: Axes = (axes[0], axes[1], axes[2])
        self._inside = inside
        self.shape: Size = (len(axes[0]), len(axes[1]), len(axes[2]))
        self.exact = all(axis.whole for axis in axes)

    def sample(self, source: torch.Tensor, rows: slice) -> torch.Tensor:
        return interpolate(source, self._axes, rows=rows)

    def nearest(self, source: torch.Tensor, rows: slice) -> torch.Tensor:
        first, second, last = self._axes
        block = source.index_select(1, first.nearest[rows])
        return block.index_select(2, second.nearest).index_select(3, last.nearest)

    def covered(self, rows: slice) -> torch.Tensor | None:
        first, second, last = self._inside[0][rows], self._inside[1], self._inside[2]
        if first.all() and second.all() and last.all():
            return None
        return first[:, None, None] & second[:, None] & last

    def arrange(self, output: NDArray[Any]) -> NDArray[Any]:
        first, second, third = self._steps
        return output.transpose(2, 1, 0).transpose(self._order)[::first, ::second, ::third]


class ObliqueSampler:
    """Samples for grids at any angle: trilinear, walking in the order of the output (z, y, x)."""

    exact = False

    def __init__(self, grids: _Grids) -> None:
        self._size = torch.tensor(grids.source_size, dtype=torch.float64)
        self._fine, self._coarse = torch.from_numpy(grids.fine), torch.from_numpy(grids.coarse)
        self._factor = grids.factor
        z, y, x = (count * split for count, split in zip(grids.shape, grids.factor, strict=True))
        self.shape: Size = (z, y, x)

    def sample(self, source: torch.Tensor, rows: slice) -> torch.Tensor:
        return self._grid_sample(source, rows, "bilinear")

    def nearest(self, source: torch.Tensor, rows: slice) -> torch.Tensor:
        return self._grid_sample(source, rows, "nearest")

    def covered(self, rows: slice) -> torch.Tensor | None:
        lines = zip(self._indices(rows), self._factor, strict=True)
        parts = [torch.div(line, split, rounding_mode="floor") for line, split in lines]
        positions = self._positions(self._coarse, parts)
        low, high = -BORDER_VOXELS, self._size - 1 + BORDER_VOXELS
        return ((positions >= low) & (positions <= high)).all(-1)

    def arrange(self, output: NDArray[Any]) -> NDArray[Any]:
        return output

    def _grid_sample(self, source: torch.Tensor, rows: slice, mode: str) -> torch.Tensor:
        positions = self._positions(self._fine, self._indices(rows))
        grid = ((2 * positions + 1) / self._size - 1).flip(-1).float()[None]
        sampled = torch.nn.functional.grid_sample(
            source[None].float(), grid, mode=mode, padding_mode="border", align_corners=False
        )
        return sampled[0]

    def _indices(self, rows: slice) -> list[torch.Tensor]:
        z, y, x = (torch.arange(count, dtype=torch.float64) for count in self.shape)
        return [z[rows], y, x]

    @staticmethod
    def _positions(matrix: torch.Tensor, lines: list[torch.Tensor]) -> torch.Tensor:
        z, y, x = torch.meshgrid(*lines, indexing="ij")
        return torch.stack([x, y, z], -1) @ matrix[:3, :3].T + matrix[:3, 3]


def parallel_axes(matrix: Affine, size: Sequence[int]) -> Size | None:
    """Return for each source axis the output axis along it, or None where the axes are not parallel."""
    drift = np.abs(matrix[:3, :3]) * np.asarray(size)
    order = np.argmax(np.abs(matrix[:3, :3]), axis=1)
    drift[np.arange(3), order] = 0.0
    if sorted(order) != [0, 1, 2] or drift.sum(axis=1).max() > ALIGNED_VOXELS:
        return None
    return int(order[0]), int(order[1]), int(order[2])


def _line(matrix: Affine, axis: int, output: int, count: int) -> NDArray[np.float64]:
    positions: NDArray[np.float64] = matrix[axis, output] * np.arange(count) + matrix[axis, 3]
    return positions


def _within(positions: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (positions >= -BORDER_VOXELS) & (positions <= size - 1 + BORDER_VOXELS)
    return inside
