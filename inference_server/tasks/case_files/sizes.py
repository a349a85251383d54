"""The limits on what a case's headers declare, checked before any of it is read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from inference_server.errors import TooLarge
from inference_server.imaging.nifti_header import LARGEST_AXIS
from inference_server.imaging.sizes import size_text
from inference_server.imaging.volume import Geometry, ScalingFactor
from inference_server.settings import Settings


def check_image(array_bytes: int, limits: Settings) -> None:
    """Refuse one image that declares too much.

    Raises:
        TooLarge: it takes more than `image_limit_bytes` in memory.
    """
    if array_bytes > limits.image_limit_bytes:
        raise TooLarge(
            f"The image declares {size_text(array_bytes)} of voxels; "
            f"this server takes {size_text(limits.image_limit_bytes)} at most."
        )


def check_sum(array_bytes: Sequence[int], limits: Settings) -> None:
    """Refuse images and contours that declare too much together.

    Raises:
        TooLarge: they take more than `unpacked_limit_bytes` in memory.
    """
    if sum(array_bytes) > limits.unpacked_limit_bytes:
        raise TooLarge(
            f"Images and contours declare {size_text(sum(array_bytes))} of voxels together; "
            f"this server takes {size_text(limits.unpacked_limit_bytes)} at most."
        )


def check_labels(geometry: Geometry, factor: ScalingFactor, limits: Settings) -> None:
    """Refuse a contour grid on which the labels would be too large.

    Raises:
        TooLarge: they would have more voxels than `labels_limit_bytes`, or a longer axis than NIfTI can say.
    """
    longest = max(length * part for length, part in zip(geometry.shape, factor, strict=True))
    if geometry.voxels * math.prod(factor) > limits.labels_limit_bytes or longest > LARGEST_AXIS:
        where = "On this grid" if factor == (1, 1, 1) else "With this scaling factor"
        raise TooLarge(
            f"{where} the labels would be larger than this server makes: "
            f"{size_text(limits.labels_limit_bytes)} at a byte a voxel, {LARGEST_AXIS} voxels along an axis."
        )
