"""Linear interpolation of many channels at places that lie anywhere in a source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from inference_server.models.slabs import parts

Places = tuple[tuple[torch.Tensor, torch.Tensor], ...]
"""For each axis of a source the voxel below each of n places, int64, and the share of the voxel above it, float32."""
STEP_PLACES = 2**14


def interpolate_at(
    source: torch.Tensor,
    places: Places,
    *,
    whole: Sequence[bool],
    values: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Interpolate at n places.

    Only the voxels that are needed are read, each once.

    Args:
        source: ``(C, A, B, C)``. Not modified.
        places: at least one.
        whole: for each axis whether all places lie on its voxels.
        values: makes float32 of the source's ``(m, C)``: what is interpolated.

    Returns:
        ``(n, C)`` float32.
    """
    shape = source.shape[1:]
    strides = (shape[1] * shape[2], shape[2], 1)
    lowest = sum_of([lower * stride for (lower, _), stride in zip(places, strides, strict=True)])
    needed = _needed(lowest, shape, whole)
    rows = needed.flatten().cumsum(0) - 1
    table = values(source[:, needed].T).contiguous()
    steps = torch.tensor(_steps(strides, whole), device=source.device)[:, None]
    found = torch.empty(len(lowest), len(source), device=source.device)
    for some in parts(len(lowest), STEP_PLACES):
        weights = _weights([share[some] for _, share in places], whole)
        corners = rows.take(lowest[some] + steps)
        found[some] = torch.nn.functional.embedding_bag(
            corners.T.contiguous(), table, per_sample_weights=weights.T.contiguous(), mode="sum"
        )
    return found


def sum_of(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the sum of some tensors of one shape."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def _needed(lowest: torch.Tensor, shape: torch.Size, whole: Sequence[bool]) -> torch.Tensor:
    """Return which voxels of the source are around the places."""
    needed = torch.zeros(shape.numel(), dtype=torch.bool, device=lowest.device)
    needed.index_fill_(0, lowest, True)
    needed = needed.view(shape)
    for axis, on_voxels in enumerate(whole):
        if not on_voxels:
            above = needed.narrow(axis, 0, shape[axis] - 1).clone()
            needed.narrow(axis, 1, shape[axis] - 1).logical_or_(above)
    return needed


def _steps(strides: Sequence[int], whole: Sequence[bool]) -> list[int]:
    """Return how far the voxels around a place are from the lowest of them, in the flattened source."""
    steps = [0]
    for stride, on_voxels in zip(strides, whole, strict=True):
        steps += [] if on_voxels else [step + stride for step in steps]
    return steps


def _weights(shares: Sequence[torch.Tensor], whole: Sequence[bool]) -> torch.Tensor:
    """Return the weights ``(voxels, n)`` of the voxels around each place, in the order of `_steps`."""
    weights = torch.ones(1, len(shares[0]), device=shares[0].device)
    for share, on_voxels in zip(shares, whole, strict=True):
        if not on_voxels:
            weights = torch.cat([weights * (1 - share), weights * share])
    return weights
