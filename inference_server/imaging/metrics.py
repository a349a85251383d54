"""How large a structure is and how far two of them agree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import InvalidVolume
from inference_server.imaging.volume import Geometry


def dice(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the Dice coefficient of two masks, 2 |a ∩ b| / (|a| + |b|).

    Args:
        a: mask of any shape; what is not zero belongs to it. Not modified.
        b: mask of the same shape. Not modified.

    Returns:
        From 0 (nothing in common) to 1 (equal); 1 where both are empty.

    Raises:
        InvalidVolume: the shapes differ.

    Source:
        Dice, Measures of the amount of ecologic association between species, Ecology 26 (1945).
    """
    if a.shape != b.shape:
        raise InvalidVolume(f"Two masks of one shape were expected; they have {a.shape} and {b.shape} voxels.")
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    common = int(np.count_nonzero(np.logical_and(a, b)))
    return 2 * common / total if total else 1.0


def volume_cc(mask: NDArray[Any], geometry: Geometry) -> float:
    """Return the volume of a mask's voxels that are not zero, in cubic centimetres.

    Args:
        mask: ``(Z, Y, X)``. Not modified.
        geometry: of the mask's own grid.

    Raises:
        InvalidVolume: mask and geometry have different shapes.
    """
    if mask.shape != geometry.shape:
        raise InvalidVolume(f"The mask has {mask.shape} voxels, its geometry {geometry.shape}.")
    return int(np.count_nonzero(mask)) * geometry.voxel_volume_mm3 / 1000
