"""NIfTI-1 files, gzipped or plain, read from and written to paths and streams.

A reader never trusts a size: it takes as many bytes as the header declares, after that number was compared with a
limit, and stops there.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from isal import igzip, igzip_lib
from numpy.typing import NDArray

from inference_server.errors import InvalidVolume, MalformedMessage
from inference_server.imaging.nifti_header import (
    HEADER_BYTES,
    NiftiHeader,
    byte_order,
    label_header,
    parse_header,
    refined_header,
    rescaled_dtype,
)
from inference_server.imaging.sizes import check_declared
from inference_server.imaging.volume import Volume

__all__ = ["NiftiHeader", "open_voxels", "read_header", "read_volume", "refined_header", "write_labels"]

_GZIP_MAGIC = b"\x1f\x8b"
_COMPRESSION = 1
_STEP_BYTES = 1024**2
_WRITE_BYTES = 16 * 1024**2
"""One write's compressed bytes are held in memory."""


def read_header(source: BinaryIO | Path) -> NiftiHeader:
    """Read and check an image's header; of a gzipped file only the first kilobytes are decompressed.

    Raises:
        MalformedMessage: the bytes are not those of a NIfTI-1 image.
        InvalidVolume: the image's shape, type or geometry is not a valid one.
    """
    with _unpacked(source) as stream:
        return parse_header(_read_header_bytes(stream))


def read_volume(source: BinaryIO | Path, *, max_bytes: int) -> Volume:
    """Read an image.

    Args:
        source: a path, or a stream at the beginning of the file; it is read to the end of the array.
        max_bytes: most bytes that the array may take in memory.

    Returns:
        Volume ``(Z, Y, X)`` in the type of the file (native byte order), or float32 (float64 for float64 files) where
        the header has a slope and an intercept, which are applied. A 2-D image comes as ``(1, Y, X)``, a 4-D one with
        one time point as 3-D.

    Raises:
        MalformedMessage: the bytes are not those of a NIfTI-1 image, are damaged or cut off.
        InvalidVolume: the image's shape, type or geometry is not a valid one.
        TooLarge: the header declares more than `max_bytes`.
    """
    with open_voxels(source) as (header, stream):
        check_declared(header.geometry.shape, header.array_bytes, max_bytes)
        array = np.empty(header.geometry.shape, header.dtype)
        _fill(stream, array)
        stream.read(1)  # makes the gzip reader compare its checksum
    return Volume(_intensities(array, header), header.geometry, header.raw)


@contextmanager
def open_voxels(source: BinaryIO | Path) -> Iterator[tuple[NiftiHeader, BinaryIO]]:
    """Give an image's header and, for the length of a `with` block, its voxels as they are stored, unpacked.

    Raises:
        MalformedMessage: the bytes are not those of a NIfTI-1 image; in the block: they are damaged.
        InvalidVolume: the image's shape, type or geometry is not a valid one.
    """
    with _unpacked(source) as stream:
        header = parse_header(_read_header_bytes(stream))
        _skip(stream, header.offset - HEADER_BYTES)
        yield header, stream


def write_labels(target: BinaryIO | Path, volume: Volume) -> None:
    """Write a label map: gzipped, or plain to a path that does not end in ``.gz``.

    With a `nifti_header` its spacing, transforms, codes and unit are copied byte for byte; without one they are
    written from the geometry.

    Args:
        target: a path, or a stream that is left open.
        volume: uint8, uint16 or bool ``(Z, Y, X)``. Not modified.

    Raises:
        InvalidVolume: the labels are of another type, or an axis is longer than the format can say.
    """
    labels = volume.array.view(np.uint8) if volume.array.dtype == np.bool_ else volume.array
    if labels.dtype not in (np.uint8, np.uint16):
        raise InvalidVolume(f"Labels of type uint8 or uint16 were expected; these are {labels.dtype}.")
    like = volume.nifti_header or volume.geometry
    header = label_header(volume.geometry.shape, labels.dtype, like=like)
    label_dtype = np.dtype(byte_order(header) + labels.dtype.str[1:])
    stored = np.ascontiguousarray(labels, label_dtype)
    with _packed(target) as stream:
        stream.write(header + bytes(4))
        for start in range(0, stored.nbytes, _WRITE_BYTES):
            stream.write(_bytes_view(stored)[start : start + _WRITE_BYTES])


def _intensities(array: NDArray[Any], header: NiftiHeader) -> NDArray[Any]:
    if not array.dtype.isnative:
        array = array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))
    if header.rescale is None:
        return array
    slope, intercept = header.rescale
    scaled = array.astype(rescaled_dtype(array.dtype), copy=False)
    scaled *= slope
    scaled += intercept
    return scaled


def _read_header_bytes(stream: BinaryIO) -> bytes:
    parts = io.BytesIO()
    while missing := HEADER_BYTES - parts.tell():
        part = stream.read(missing)
        if not part:
            break
        parts.write(part)
    return parts.getvalue()


def _skip(stream: BinaryIO, count: int) -> None:
    while count > 0 and (part := stream.read(min(count, _STEP_BYTES))):
        count -= len(part)


def _fill(stream: BinaryIO, array: NDArray[Any]) -> None:
    rest = _bytes_view(array)
    while rest:
        count = cast(io.BufferedIOBase, stream).readinto(rest)
        if not count:
            raise MalformedMessage("The image is cut off: fewer voxels came than declared. Please send it again.")
        rest = rest[count:]


def _bytes_view(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


@contextmanager
def _unpacked(source: BinaryIO | Path) -> Iterator[BinaryIO]:
    """Give the source's bytes, decompressed where they are gzipped; a stream that was passed in stays open."""
    with ExitStack() as stack, _gzip_errors():
        if isinstance(source, Path):
            reader: Any = stack.enter_context(source.open("rb"))
        elif hasattr(source, "peek"):
            reader = source
        else:
            reader = io.BufferedReader(source)
            stack.callback(reader.detach)
        is_gzip = reader.peek(2)[:2] == _GZIP_MAGIC
        yield igzip.IGzipFile(fileobj=reader, mode="rb") if is_gzip else reader


@contextmanager
def _packed(target: BinaryIO | Path) -> Iterator[BinaryIO]:
    with ExitStack() as stack:
        stream = stack.enter_context(target.open("wb")) if isinstance(target, Path) else target
        if isinstance(target, Path) and target.suffix != ".gz":
            yield stream
        else:
            # No time and no name in the gzip header: the same labels give the same bytes.
            yield stack.enter_context(
                igzip.IGzipFile(filename="", fileobj=stream, mode="wb", compresslevel=_COMPRESSION, mtime=0)
            )


@contextmanager
def _gzip_errors() -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, igzip_lib.IsalError, zlib.error) as exc:  # type: ignore[misc] # a stub's flaw
        raise MalformedMessage("The image's compressed data are damaged or cut off. Please send it again.") from exc
