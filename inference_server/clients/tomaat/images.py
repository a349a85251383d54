"""Images on their way to a service, and labels on their way back.

Any file that SimpleITK reads becomes an MHA file; labels on its grid become a file like it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from inference_server.clients.native import ServerError
from inference_server.errors import InvalidVolume
from inference_server.imaging.nifti import read_header, write_labels
from inference_server.imaging.volume import Geometry, Volume

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813

NIFTI_ENDINGS = (".nii", ".nii.gz")
_ELEMENTS = {
    "i1": "MET_CHAR", "u1": "MET_UCHAR", "i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_INT", "u4": "MET_UINT",
    "i8": "MET_LONG_LONG", "u8": "MET_ULONG_LONG", "f4": "MET_FLOAT", "f8": "MET_DOUBLE",
}  # fmt: skip
_ON_GRID = 0.01
"""How many voxels a label volume may be off to lie on the image's grid: single precision is, in large files."""


def open_as_mha(source: Path) -> BinaryIO:
    """Return an image as an MHA file: its voxels and geometry as they are, and nothing else that its file tells.

    Args:
        source: NIfTI, MHA, NRRD or another format of SimpleITK; 2-D or 3-D, one number a voxel.

    Returns:
        A file without a name, at its beginning: it goes with this process, however that ends.

    Raises:
        InvalidVolume: it cannot be read, or is another image.
        MalformedMessage: it is a NIfTI file that is damaged.
    """
    import SimpleITK as sitk  # noqa: N813 - 0.2 s, and only here

    image = _read(source)
    voxels = sitk.GetArrayViewFromImage(image)
    with ExitStack() as on_error:
        file = on_error.enter_context(tempfile.TemporaryFile())
        file.write(_header(image, voxels.dtype).encode("ascii"))
        file.write(memoryview(voxels).cast("B"))
        file.seek(0)
        on_error.pop_all()
    return file


def _read(source: Path) -> sitk.Image:
    import SimpleITK as sitk  # noqa: N813

    if _is_nifti(source):
        read_header(source)  # its sentences say what is wrong
    try:
        image = sitk.ReadImage(str(source))
    except RuntimeError as exc:
        raise InvalidVolume(
            "The image cannot be read: it is damaged, in a format that is not known here, or sheared (its axes are not "
            "perpendicular)."
        ) from exc
    if image.GetNumberOfComponentsPerPixel() != 1 or image.GetDimension() not in (2, 3):
        raise InvalidVolume(
            "A 2-D or 3-D image with one number a voxel was expected; this one has colours or time points."
        )
    return image


def _header(image: sitk.Image, dtype: np.dtype[Any]) -> str:
    """Return the header of an MHA file, with all digits of the geometry."""
    if dtype.str[1:] not in _ELEMENTS:
        raise InvalidVolume("An image of whole or decimal numbers was expected; this one has complex ones.")
    count = image.GetDimension()
    axes = np.reshape(image.GetDirection(), (count, count)).T.ravel().tolist()
    lines = {
        "ObjectType": "Image",
        "NDims": count,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": sys.byteorder == "big",
        "CompressedData": False,
        "TransformMatrix": _spaced(axes),
        "Offset": _spaced(image.GetOrigin()),
        "ElementSpacing": _spaced(image.GetSpacing()),
        "DimSize": _spaced(image.GetSize()),
        "ElementType": _ELEMENTS[dtype.str[1:]],
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items())


def _spaced(numbers: Iterable[float]) -> str:
    return " ".join(map(repr, numbers))


def labels_like(labels: Path, images: Sequence[Path], folder: Path, stem: str) -> Path:
    """Put a label volume that came into a folder.

    Labels on the grid of a NIfTI image become a NIfTI file with that image's geometry, byte for byte; others stay the
    MHA file that they are.

    Args:
        labels: MHA file; it is moved away where it stays one.
        images: those that were sent.
        folder: where to.
        stem: the new file's name without its ending.

    Raises:
        ServerError: it is not a label volume.
    """
    import SimpleITK as sitk  # noqa: N813

    try:
        read = sitk.ReadImage(str(labels))
    except RuntimeError as exc:
        raise ServerError("The label volume that the service sent cannot be read.", status=200) from exc
    headers = [read_header(image) for image in images if _is_nifti(image)]
    header = next((header for header in headers if _lies_on(read, header.geometry)), None)
    small = _small(sitk.GetArrayViewFromImage(read))
    if header is None or small is None:
        return labels.replace(folder / f"{stem}.mha")
    target = folder / f"{stem}.nii.gz"
    write_labels(target, Volume(small, header.geometry, header.raw))
    return target


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(NIFTI_ENDINGS)


def _small(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Return whole numbers as uint8 or uint16, None where they are others or do not fit."""
    if array.dtype.kind not in "ui" or array.ndim != 3 or array.min() < 0 or array.max() > np.iinfo(np.uint16).max:
        return None
    return array.astype(np.uint8 if array.max() <= np.iinfo(np.uint8).max else np.uint16)


def _lies_on(image: Any, grid: Geometry) -> bool:
    """Tell whether all corners of an image lie where those of the grid do."""
    if image.GetSize() != grid.shape[::-1]:
        return False
    own = Geometry(grid.shape, image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    last = np.asarray(grid.shape[::-1]) - 1
    corners = np.array([[*(last * at), 1] for at in np.ndindex(2, 2, 2)]).T
    apart = np.abs((own.affine - grid.affine) @ corners).max()
    return bool(apart <= _ON_GRID * min(grid.spacing_mm))
