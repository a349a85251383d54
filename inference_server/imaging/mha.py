"""MHA files (MetaImage with its voxels in the same file), turned into NIfTI and back as streams.

Memory does not grow with the image, and no number of the geometry passes through single precision. As in ITK, whose
format it is, `Offset` is the centre of the first voxel in LPS millimetres and `TransformMatrix` lists the world
directions of the x, y and z index one after the other; intensity scales of the header are not applied.
"""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Literal

from inference_server.errors import InvalidVolume, MalformedMessage
from inference_server.imaging.mha_header import MhaHeader, mha_header_text, parse_mha_header, read_lines
from inference_server.imaging.nifti import open_voxels
from inference_server.imaging.nifti_header import image_header
from inference_server.imaging.sizes import check_declared
from inference_server.imaging.volume import Geometry

__all__ = ["MhaHeader", "mha_to_nifti", "nifti_to_mha", "read_mha_header"]

_STEP_BYTES = 1024**2
_SPOOL_BYTES = 8 * 1024**2
_ZLIB_OR_GZIP = 47
_COMPRESSION = 1
_SHORT = "The volume is cut off: fewer voxels came than its header declares. Please send it again."


def read_mha_header(stream: BinaryIO, *, dimensions: Literal[2, 3] = 3) -> MhaHeader:
    """Read and check a header. The stream stands at the first byte of the voxels afterwards.

    Args:
        stream: a buffered stream at the beginning of the file.
        dimensions: 2 asks for a picture, which becomes one slice.

    Raises:
        MalformedMessage: the bytes are not those of an MHA file, or a key is missing or not what it should be.
        InvalidVolume: the image's shape, type or geometry is not a valid one.
    """
    return parse_mha_header(read_lines(stream), dimensions=dimensions)


def mha_to_nifti(
    source: BinaryIO | Path, target: BinaryIO | Path, *, limit_bytes: int, dimensions: Literal[2, 3] = 3
) -> Geometry:
    """Write an MHA file as a plain NIfTI file whose voxels are byte for byte the same.

    A NIfTI header keeps the geometry in single precision only; what is returned is exact.

    Args:
        source: a path, or a stream at the beginning of the file; what follows the last voxel is left alone.
        target: a path, or a stream that is left open. If anything is raised, what was written is not to be used.
        limit_bytes: most bytes of voxels.
        dimensions: 2 asks for a picture, which becomes one slice.

    Returns:
        The geometry, in float64 as it stands in the file; axes may be slightly oblique to each other.

    Raises:
        MalformedMessage, InvalidVolume: as `read_mha_header`; also if the voxels are damaged, cut off, or more than
            the header declares.
        TooLarge: the header declares more than `limit_bytes`.
    """
    with _reader(source) as stream, _writer(target) as out:
        header = read_mha_header(stream, dimensions=dimensions)
        check_declared(header.geometry.shape, header.array_bytes, limit_bytes)
        out.write(image_header(header.geometry, header.dtype) + bytes(4))
        pieces = _inflated(stream, header.array_bytes) if header.compressed else _plain(stream, header.array_bytes)
        out.writelines(pieces)
    return header.geometry


def nifti_to_mha(source: BinaryIO | Path, target: BinaryIO | Path, geometry: Geometry) -> None:
    """Write a NIfTI file, gzipped or plain, as a compressed MHA file with another, exact geometry.

    Args:
        source: a path, or a stream at the beginning of the file. Its intensity scale is not applied.
        target: a path, or a stream that is left open.
        geometry: of the same shape; written so that every float64 comes back as it is.

    Raises:
        MalformedMessage, InvalidVolume: the file is not a valid NIfTI image, or its shape is not that of `geometry`.
    """
    with open_voxels(source) as (found, stream), tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as packed:
        if found.geometry.shape != geometry.shape:
            raise InvalidVolume(f"The labels' shape is {found.geometry.shape}, their geometry says {geometry.shape}.")
        size_bytes = _deflate(_plain(stream, geometry.voxels * found.dtype.itemsize), packed)
        stream.read(1)  # makes the gzip reader compare its checksum
        packed.seek(0)
        with _writer(target) as out:
            out.write(mha_header_text(geometry, found.dtype, compressed_bytes=size_bytes).encode("ascii"))
            shutil.copyfileobj(packed, out, _STEP_BYTES)


def _plain(stream: BinaryIO, count: int) -> Iterator[bytes]:
    while count:
        piece = stream.read(min(count, _STEP_BYTES))
        if not piece:
            raise MalformedMessage(_SHORT)
        count -= len(piece)
        yield piece


def _inflated(stream: BinaryIO, count: int) -> Iterator[bytes]:
    """Yield exactly `count` bytes; what a stream would inflate to beyond them is never made."""
    unpacker = zlib.decompressobj(_ZLIB_OR_GZIP)
    step = _stepper(stream, unpacker)
    while count:
        piece = step(min(count, _STEP_BYTES))
        if not piece:
            raise MalformedMessage(_SHORT)
        count -= len(piece)
        yield piece
    if step(1):
        raise MalformedMessage("The volume is damaged: more voxels came than its header declares.")
    if not unpacker.eof:
        raise MalformedMessage(_SHORT)


def _stepper(stream: BinaryIO, unpacker: zlib._Decompress) -> Callable[[int], bytes]:
    """Return what gives the next bytes, at most as many as it is asked for; none at the end."""

    def step(limit: int) -> bytes:
        while not unpacker.eof:
            packed = unpacker.unconsumed_tail or stream.read(_STEP_BYTES)
            try:
                piece = unpacker.decompress(packed, limit)
            except zlib.error as exc:
                raise MalformedMessage("The volume's compressed voxels are damaged. Please send it again.") from exc
            if piece or not packed:
                return piece
        return b""

    return step


def _deflate(pieces: Iterator[bytes], target: IO[bytes]) -> int:
    packer = zlib.compressobj(_COMPRESSION)
    for piece in pieces:
        target.write(packer.compress(piece))
    target.write(packer.flush())
    return target.tell()


@contextmanager
def _reader(source: BinaryIO | Path) -> Iterator[BinaryIO]:
    with ExitStack() as stack:
        yield stack.enter_context(source.open("rb")) if isinstance(source, Path) else source


@contextmanager
def _writer(target: BinaryIO | Path) -> Iterator[BinaryIO]:
    with ExitStack() as stack:
        yield stack.enter_context(target.open("wb")) if isinstance(target, Path) else target
