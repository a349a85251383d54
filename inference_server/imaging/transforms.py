"""Files of spatial transforms, by SimpleITK. All transforms map points in LPS millimetres to such points."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inference_server.errors import MalformedMessage, TooLarge
from inference_server.imaging.sizes import size_text

if TYPE_CHECKING:
    from SimpleITK import Image, Transform

FIELD = "nii.gz"
LINEAR = "mat"
OTHER = "h5"


def read_transform(path: Path, *, max_bytes: int) -> Transform:
    """Read a transform.

    Args:
        path: it ends in `.nii.gz` (a displacement field, an image of three numbers per voxel), or in `.h5`, `.mat`,
            `.tfm`.
        max_bytes: most bytes that a displacement field may take in memory.

    Raises:
        MalformedMessage: the file is damaged, or is no transform of three dimensions with finite numbers.
        TooLarge: a displacement field declares more than `max_bytes`.
    """
    import SimpleITK as sitk  # noqa: N813 - 0.2 s, and only for transforms

    with _itk_errors():
        if path.name.endswith(f".{FIELD}"):
            transform = sitk.DisplacementFieldTransform(_read_field(path, max_bytes))
        else:
            transform = sitk.ReadTransform(str(path)).Downcast()
        if transform.GetDimension() != 3 or not _is_finite(transform):
            raise MalformedMessage("The transform was expected to be of three dimensions and of finite numbers.")
    return transform


def write_transform(folder: Path, transform: Transform) -> Path:
    """Write a transform to a new file `transform.<ending>` of a folder, and return its path.

    Displacement fields become `.nii.gz` in single precision, linear transforms `.mat`, all others `.h5`.
    """
    import SimpleITK as sitk  # noqa: N813

    transform = transform.Downcast()
    ending = transform_ending(transform)
    path = folder / f"transform.{ending}"
    if ending == FIELD:
        field = sitk.Cast(sitk.DisplacementFieldTransform(transform).GetDisplacementField(), sitk.sitkVectorFloat32)
        sitk.WriteImage(field, str(path), useCompression=True)
    else:
        sitk.WriteTransform(_affine(transform) if ending == LINEAR else transform, str(path))
    return path


def transform_ending(transform: Transform) -> str:
    """Return what the file of a transform ends in."""
    if transform.GetName() == "DisplacementFieldTransform":
        return FIELD
    return LINEAR if transform.IsLinear() else OTHER


def _read_field(path: Path, max_bytes: int) -> Image:
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 3:
        raise MalformedMessage("A displacement field of three dimensions, with three numbers per voxel, was expected.")
    declared_bytes = int(np.prod(reader.GetSize(), dtype=object)) * 3 * 8
    if declared_bytes > max_bytes:
        raise TooLarge(
            f"The displacement field takes {size_text(declared_bytes)} in memory; "
            f"this server takes {size_text(max_bytes)} at most."
        )
    return sitk.Cast(reader.Execute(), sitk.sitkVectorFloat64)


def _affine(transform: Transform) -> Transform:
    """Return a linear transform in the one form that every program reads."""
    import SimpleITK as sitk  # noqa: N813

    if transform.GetName() == "AffineTransform":
        return transform
    offset = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(axis)) - offset for axis in np.eye(3).tolist()]
    return sitk.AffineTransform(np.transpose(columns).ravel().tolist(), offset.tolist())


def _is_finite(transform: Transform) -> bool:
    import SimpleITK as sitk  # noqa: N813

    if isinstance(transform, sitk.CompositeTransform):
        return all(_is_finite(transform.GetNthTransform(number)) for number in range(transform.GetNumberOfTransforms()))
    if isinstance(transform, sitk.DisplacementFieldTransform):
        field = sitk.GetArrayViewFromImage(transform.GetDisplacementField())
        return bool(np.isfinite(field.min()) and np.isfinite(field.max()))
    return bool(np.isfinite([*transform.GetParameters(), *transform.GetFixedParameters()]).all())


@contextmanager
def _itk_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as exc:
        raise MalformedMessage("The transform is damaged, or of a kind that is not known here.") from exc
