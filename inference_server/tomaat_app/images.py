"""Volumes as images of SimpleITK, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from inference_server.imaging.volume import Geometry, Volume

_UNKNOWN = {np.dtype(np.bool_): np.uint8, np.dtype(np.float16): np.float32}
"""Types that SimpleITK has not, and those that hold the same."""


def image_of(volume: Volume) -> sitk.Image:
    """Return a volume as an image on the same grid, with the same values."""
    geometry = volume.geometry
    array = volume.array.astype(_UNKNOWN.get(volume.array.dtype, volume.array.dtype.newbyteorder("=")), copy=False)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    return image


def volume_of(image: sitk.Image) -> Volume:
    """Return a 3-D image of numbers as a volume on the same grid.

    Raises:
        InvalidVolume: it has no three axes, or its geometry is none.
    """
    array = sitk.GetArrayFromImage(image)
    return Volume(array, Geometry(array.shape, image.GetSpacing(), image.GetOrigin(), image.GetDirection()))


def label_image(labels: Any, like: sitk.Image) -> sitk.Image:
    """Return an array of labels as an image that lies where another one does.

    Args:
        labels: array (z, y, x) of whole numbers or flags, numpy's or torch's.
        like: an image of the same size.

    Returns:
        An image of uint8 or, where a label is above 255, of uint16.
    """
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu()
    array: NDArray[Any] = np.asarray(labels)
    image = sitk.GetImageFromArray(array.astype(np.uint8 if array.max(initial=0) <= 255 else np.uint16))
    image.CopyInformation(like)
    return image
