"""Labels on another grid: each voxel there gets the value of the voxel that it lies in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from inference_server.imaging.nifti_header import NiftiHeader
from inference_server.imaging.volume import Volume
from inference_server.models.case import Case, Result, Segmentation
from inference_server.models.decision import BLOCK_VOXELS
from inference_server.models.placement import Placement, blocks, make_placement
from inference_server.models.slabs import for_each_slab

MOVED = (
    "The model's labels lie on the grid of its first image; they were brought onto the grid that was asked for, each "
    "voxel with the label at its centre."
)


def on_labels_grid(result: Result, case: Case) -> Result:
    """Bring the segmentations of a result onto the grid that the case wants them on, and say so in its report.

    World positions are kept; what lies outside the model's image is background.

    Args:
        result: not modified.
        case: that it is of; without a `labels_grid` the result is returned as it is.
    """
    header = case.labels_grid
    if header is None or not result.segmentations:
        return result
    moved = tuple(_moved(segmentation, header) for segmentation in result.segmentations)
    return replace(result, segmentations=moved, report=replace(result.report, notes=(*result.report.notes, MOVED)))


def nearest(labels: torch.Tensor, placement: Placement, dtype: DTypeLike) -> NDArray[Any]:
    """Return the label nearest to each voxel of the output; exact for labels that already lie on its grid.

    Args:
        labels: ``(A, B, C)`` of any type and on any device.
        placement: of the output in them.
        dtype: of the array returned.
    """
    found = np.empty(placement.shape, dtype)
    cut = list(blocks(placement.shape, BLOCK_VOXELS))
    source = placement.view(labels)

    def pick(some: slice) -> None:
        for block in cut[some]:
            part = placement.part(block)
            picked = part.nearest(source[part.box])
            found[block] = (picked if part.covered is None else picked * part.covered).cpu().numpy()

    for_each_slab(pick, len(cut), 1)
    return found


def _moved(segmentation: Segmentation, header: NiftiHeader) -> Segmentation:
    labels = segmentation.labels
    # Torch picks from signed numbers only; these are picked as they are, and read as what they were.
    signed = np.dtype(np.int16) if labels.array.dtype == np.uint16 else labels.array.dtype
    array = np.require(labels.array, requirements=["C", "W"]).view(signed)
    source = torch.from_numpy(array).permute(2, 1, 0)
    x, y, z = source.shape
    placement = make_placement(labels.geometry.affine, (x, y, z), header.geometry)
    found = nearest(source, placement, signed).view(labels.array.dtype)
    return replace(segmentation, labels=Volume(found, header.geometry, header.raw))
