"""2-D pictures in common formats (PNG, JPEG, DICOM), read as a volume of one slice."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import InvalidVolume, MalformedMessage, TooLarge
from inference_server.imaging.jpeg import LIMIT_BYTES, MAGIC, UNREADABLE, GreyJpeg, open_grey_jpeg
from inference_server.imaging.sizes import size_text
from inference_server.imaging.volume import Geometry, Volume

_PNG = b"\x89PNG\r\n\x1a\n"
_FORMATS = ((_PNG, "PNGImageIO"), (MAGIC, "JPEGImageIO"))
_CHUNK = struct.Struct(">I4x")
_CHECKSUM_BYTES = 4
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def read_picture_header(path: Path) -> tuple[Geometry, int]:
    """Return a picture's geometry (of shape (1, Y, X), axes assumed) and its bytes in memory, from its header alone.

    Raises:
        MalformedMessage: the file cannot be read.
        InvalidVolume: it is not one picture, or its spacing is no valid one.
    """
    jpeg = _grey_jpeg(path)
    return (jpeg.geometry, jpeg.array_bytes) if jpeg else _header(_reader(path))


def _header(reader: Any) -> tuple[Geometry, int]:
    with _itk_errors():
        reader.ReadImageInformation()
        size, spacing = reader.GetSize(), reader.GetSpacing()
        components = reader.GetNumberOfComponents()
    if len(size) < 2 or any(length != 1 for length in size[2:]):
        raise InvalidVolume("One 2-D picture was expected; this file has several slices, frames or time points.")
    geometry = Geometry((1, int(size[1]), int(size[0])), (float(spacing[0]), float(spacing[1]), 1.0))
    return geometry, geometry.voxels * components * 4


def read_picture(path: Path, *, max_bytes: int) -> Volume:
    """Read a picture.

    Returns:
        Volume ``(1, Y, X)`` in the type of the file; colours become their luminance, float32. A DICOM image whose
        lowest values are the brightest is turned round, so that in every picture more is brighter.

    Raises:
        MalformedMessage: the file cannot be read.
        InvalidVolume: it is not one picture, or its spacing is no valid one.
        TooLarge: it takes more than `max_bytes` in memory.

    Source:
        ITU-R BT.601 for the luminance, DICOM PS3.3 C.7.6.3.1.2 for MONOCHROME1.
    """
    jpeg = _grey_jpeg(path)
    if jpeg:
        check_size(jpeg.array_bytes, max_bytes)
        return jpeg.volume()
    reader = _reader(path)
    geometry, size_bytes = _header(reader)
    check_size(size_bytes, max_bytes)
    import SimpleITK as sitk  # noqa: N813 - 0.2 s, and only for pictures

    with _itk_errors():
        pixels = sitk.GetArrayFromImage(reader.Execute())  # MONOCHROME1 is inverted by ITK
    rows_columns = pixels.reshape(*geometry.shape, -1)
    return Volume(_grey(rows_columns), geometry)


def check_size(size_bytes: int, max_bytes: int) -> None:
    """Refuse a picture that takes too much memory.

    Raises:
        TooLarge: it takes more than `max_bytes`.
    """
    if size_bytes > max_bytes:
        raise TooLarge(
            f"The picture takes {size_text(size_bytes)} in memory; this server takes {size_text(max_bytes)} at most."
        )


def _grey_jpeg(path: Path) -> GreyJpeg | None:
    with path.open("rb") as file:
        is_small = file.read(len(MAGIC)) == MAGIC and os.fstat(file.fileno()).st_size <= LIMIT_BYTES
    return open_grey_jpeg(path.read_bytes()) if is_small else None


def _grey(pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.shape[-1] < 3:
        return np.ascontiguousarray(pixels[..., 0])
    grey: NDArray[Any] = pixels[..., :3].astype(np.float32) @ _LUMA
    return grey


def _reader(path: Path) -> Any:
    import SimpleITK as sitk  # noqa: N813

    with path.open("rb") as file:
        head = file.read(len(_PNG))
        if head == _PNG:
            _check_chunks(file)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    # Left to itself, ITK also takes formats that may name other files of the machine for their voxels.
    reader.SetImageIO(next((name for magic, name in _FORMATS if head.startswith(magic)), "GDCMImageIO"))
    return reader


def _check_chunks(file: BinaryIO) -> None:
    """Refuse a PNG with a chunk that goes beyond its end: libpng makes room for what a chunk declares.

    Raises:
        MalformedMessage: there is such a chunk.
    """
    size_bytes = os.fstat(file.fileno()).st_size
    while len(head := file.read(_CHUNK.size)) == _CHUNK.size:
        if file.seek(_CHUNK.unpack(head)[0] + _CHECKSUM_BYTES, os.SEEK_CUR) > size_bytes:
            raise MalformedMessage(UNREADABLE)


@contextmanager
def _itk_errors() -> Iterator[None]:
    """The cause is left out, because ITK quotes paths and values of the file."""
    try:
        yield
    except RuntimeError:
        raise MalformedMessage(UNREADABLE) from None
