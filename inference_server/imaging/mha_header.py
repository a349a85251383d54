"""The header of an MHA file: lines of `Key = value`, the last of which says that the voxels follow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np

from inference_server.errors import InvalidVolume, MalformedMessage
from inference_server.imaging.directions import check_perpendicular
from inference_server.imaging.volume import IDENTITY, Direction, Geometry, Vector

_LINE_BYTES = 64 * 1024
_HEADER_BYTES = 1024**2
_LAST = "ElementDataFile"
_NO_MHA = "The volume is not an MHA file (MetaImage with its voxels in the same file), which was expected."
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_NAMES = {name: met for met, name in _TYPES.items() if "LONG" not in met or name.endswith("8")}
_KEYS = {
    "ObjectType", "NDims", "BinaryData", "BinaryDataByteOrderMSB", "CompressedData", "TransformMatrix", "Offset",
    "ElementSpacing", "ElementSize", "DimSize", "HeaderSize", "ElementNumberOfChannels", "ElementType", _LAST,
}  # fmt: skip
_ALIASES = {
    "Rotation": "TransformMatrix", "Orientation": "TransformMatrix", "Position": "Offset", "Origin": "Offset",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}  # fmt: skip


@dataclass(frozen=True)
class MhaHeader:
    """What the header of an MHA file says.

    `dtype` is the type in the file, byte order included; `array_bytes` is what the voxels take, unpacked.
    """

    geometry: Geometry
    dtype: np.dtype[Any]
    compressed: bool
    array_bytes: int


def read_lines(stream: BinaryIO) -> dict[str, str]:
    """Read a header's lines, up to the one after which the voxels begin, and return the values of those that matter.

    Other names of one key are brought to one.

    Raises:
        MalformedMessage: the bytes are no such lines, or a key stands there twice.
    """
    found: dict[str, str] = {}
    for key, value in _pairs(stream):
        if key not in _KEYS:
            continue
        if key in found:
            raise MalformedMessage(f"The volume's header says '{key}' twice; the file is damaged.")
        found[key] = value
    return found


def parse_mha_header(said: Mapping[str, str], *, dimensions: Literal[2, 3]) -> MhaHeader:
    """Decode and check what a header says.

    Raises:
        MalformedMessage: a key is missing or not what it should be, or the voxels are elsewhere or written as text.
        InvalidVolume: the image is not of the dimensions asked for, has several values per voxel, or its type or
            geometry is not a valid one.
    """
    _check_kind(said)
    dtype = _dtype(said)
    geometry = _geometry(said, dimensions)
    return MhaHeader(geometry, dtype, _flag(said, "CompressedData"), geometry.voxels * dtype.itemsize)


def mha_header_text(geometry: Geometry, dtype: np.dtype[Any], *, compressed_bytes: int) -> str:
    """Return the header of a file with compressed voxels. Numbers are written so that they come back as they are."""
    axes = np.reshape(geometry.direction, (3, 3)).T.ravel().tolist()
    lines = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": dtype.str[0] == ">",
        "CompressedData": True,
        "CompressedDataSize": compressed_bytes,
        "TransformMatrix": _spaced(axes),
        "Offset": _spaced(geometry.origin_mm),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": _spaced(geometry.spacing_mm),
        "DimSize": _spaced(geometry.shape[::-1]),
        "ElementType": _NAMES[dtype.str[1:]],
        _LAST: "LOCAL",
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items())


def _pairs(stream: BinaryIO) -> Iterator[tuple[str, str]]:
    left_bytes = _HEADER_BYTES
    while left_bytes > 0:
        line = stream.readline(min(left_bytes, _LINE_BYTES))
        left_bytes -= len(line)
        key, sign, value = line.decode("latin-1").partition("=")
        if not sign or not line.endswith(b"\n"):
            raise MalformedMessage(_NO_MHA)
        key = key.strip()
        yield _ALIASES.get(key, key), value.strip()
        if key == _LAST:
            return
    raise MalformedMessage(_NO_MHA)


def _check_kind(said: Mapping[str, str]) -> None:
    if said.get("ObjectType", "Image") != "Image" or "NDims" not in said:
        raise MalformedMessage(_NO_MHA)
    if said[_LAST].upper() != "LOCAL":
        raise MalformedMessage("The volume's voxels are in another file; an MHA file with its voxels was expected.")
    if not _flag(said, "BinaryData", default=True):
        raise MalformedMessage("The volume's voxels are written as text; please save it as a binary MHA file.")
    if int(_number(said.get("HeaderSize", "0"), "HeaderSize")):
        raise MalformedMessage("The volume's header has a HeaderSize, which is for voxels in files of their own.")
    if _number(said.get("ElementNumberOfChannels", "1"), "ElementNumberOfChannels") != 1:
        raise InvalidVolume("A volume with one number per voxel was expected; this one has several (colours, vectors).")


def _dtype(said: Mapping[str, str]) -> np.dtype[Any]:
    name = _TYPES.get(_required(said, "ElementType"))
    if name is None:
        raise InvalidVolume(
            "A volume with one whole or decimal number per voxel was expected; this one's ElementType is another."
        )
    return np.dtype((">" if _flag(said, "BinaryDataByteOrderMSB") else "<") + name)


def _geometry(said: Mapping[str, str], dimensions: Literal[2, 3]) -> Geometry:
    axes = int(_number(said["NDims"], "NDims"))
    if axes not in (dimensions, 3):
        raise InvalidVolume(f"A {dimensions}-D image was expected; this one is {axes}-D.")
    if "ElementSpacing" not in said and "ElementSize" not in said:
        raise InvalidVolume("The volume's header does not say how large its voxels are (ElementSpacing).")
    x, y, z = _padded(_numbers(said, "DimSize", axes), 1)
    if dimensions == 2 and z != 1:
        raise InvalidVolume(f"A 2-D image was expected; this one has {z:g} slices.")
    direction = _direction(_numbers(said, "TransformMatrix", axes * axes)) if "TransformMatrix" in said else IDENTITY
    check_perpendicular(np.reshape(direction, (3, 3)))
    spacing = "ElementSpacing" if "ElementSpacing" in said else "ElementSize"
    origin = _numbers(said, "Offset", axes) if "Offset" in said else (0.0,) * axes
    return Geometry(
        (_whole(z), _whole(y), _whole(x)), _padded(_numbers(said, spacing, axes), 1.0), _padded(origin, 0.0), direction
    )


def _direction(rows: tuple[float, ...]) -> Direction:
    """Return the direction matrix, row by row, of which a file lists the columns."""
    axes = math.isqrt(len(rows))
    matrix = np.eye(3)
    matrix[:axes, :axes] = np.reshape(rows, (axes, axes)).T
    a, b, c, d, e, f, g, h, i = matrix.ravel().tolist()
    return a, b, c, d, e, f, g, h, i


def _padded(values: tuple[float, ...], third: float) -> Vector:
    x, y, z = (*values, third)[:3]
    return x, y, z


def _whole(length: float) -> int:
    if length != int(length):
        raise MalformedMessage("The volume's header does not say its size in whole numbers (DimSize).")
    return int(length)


def _required(said: Mapping[str, str], key: str) -> str:
    if key not in said:
        raise MalformedMessage(f"The volume's header does not say its {key}; the file is damaged.")
    return said[key]


def _numbers(said: Mapping[str, str], key: str, count: int) -> tuple[float, ...]:
    words = _required(said, key).split()
    if len(words) != count:
        raise MalformedMessage(f"The volume's header has {len(words)} numbers as {key}; {count} were expected.")
    return tuple(_number(word, key) for word in words)


def _number(word: str, key: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise MalformedMessage(f"The volume's header has something else than a finite number as {key}.")
    return number


def _flag(said: Mapping[str, str], key: str, *, default: bool = False) -> bool:
    value = said.get(key)
    if value is None:
        return default
    if value.lower() not in ("true", "false", "1", "0"):
        raise MalformedMessage(f"The volume's header says neither True nor False as {key}.")
    return value.lower() in ("true", "1")


def _spaced(values: tuple[float, ...] | list[float]) -> str:
    return " ".join(repr(value) for value in values)
