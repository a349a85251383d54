"""Making MIM's image out of an image file."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import SimpleITK

from .mim_objects import MimImage


def image_from_file(path: Path, *, scaling_factor: Sequence[int] = (1, 2, 2)) -> MimImage:
    """Read an image as MIM would hold it.

    Args:
        path: a 3-D scalar image in any format that SimpleITK reads.
        scaling_factor: contour voxels per image voxel along z, y, x.

    Returns:
        The image with its geometry, without contours or DICOM values.

    Raises:
        RuntimeError: SimpleITK cannot read the file.
        ValueError: the image is not 3-D.
    """
    image = SimpleITK.ReadImage(str(path))
    return MimImage(
        SimpleITK.GetArrayFromImage(image),
        spacing=image.GetSpacing(),
        origin=image.GetOrigin(),
        direction=image.GetDirection(),
        scaling_factor=scaling_factor,
    )
