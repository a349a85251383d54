"""Linear interpolation of one grid at the voxel centres of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from inference_server.models.slabs import SLAB_BYTES, for_each_slab

Affine = NDArray[np.float64]
Size = tuple[int, int, int]

ALIGNED_VOXELS = 1e-2
"""Two grids count as parallel where this is the most that their axes drift apart, in source voxels."""
SNAP_VOXELS = 1e-4
MATRIX_VOXELS = 128
"""Up to this length a product with a matrix is faster along the last axis than picking neighbours."""


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

    def __getitem__(self, part: slice | torch.Tensor) -> Axis:
        return Axis(self.size, self.lower[part], self.upper[part], self.weight[part])

    def on(self, device: torch.device) -> Axis:
        """Return the same on a device."""
        return Axis(self.size, self.lower.to(device), self.upper.to(device), self.weight.to(device))

    def counted_from(self, voxel: int) -> Axis:
        """Return the same with source voxels counted from one of them."""
        return Axis(self.size, self.lower - voxel, self.upper - voxel, self.weight)

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
    """Interpolate linearly along three axes, in the order in which they lie in memory.

    Args:
        source: ``(C, A, B, C)`` floating. Not modified.
        axes: samples along A, B and C.

    Returns:
        ``(C, len(axes[0]), len(axes[1]), len(axes[2]))`` float32, in the source's order in memory.
    """
    order = sorted(range(3), key=lambda axis: -source.stride(axis + 1))
    ordered = source.permute(0, *(axis + 1 for axis in order))
    sampled = _in_slabs(ordered, (axes[order[0]], axes[order[1]], axes[order[2]]))
    return sampled.permute(0, *(order.index(axis) + 1 for axis in range(3)))


def _in_slabs(source: torch.Tensor, axes: Axes) -> torch.Tensor:
    """Interpolate in slabs that fit a processor's cache."""
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


def parallel_axes(matrix: Affine, size: Sequence[int]) -> Size | None:
    """Return for each source axis the output axis along it, or None where the axes are not parallel."""
    drift = np.abs(matrix[:3, :3]) * np.asarray(size)
    order = np.argmax(np.abs(matrix[:3, :3]), axis=1)
    drift[np.arange(3), order] = 0.0
    if sorted(order) != [0, 1, 2] or drift.sum(axis=1).max() > ALIGNED_VOXELS:
        return None
    return int(order[0]), int(order[1]), int(order[2])
