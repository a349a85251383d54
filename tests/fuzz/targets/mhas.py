"""MHA files: read as NIfTI, and written back."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from random import Random

import numpy as np
from mha_files import HEADER

from fuzz.images import UNPACKED_BYTES
from fuzz.noise import FLOATS, INTEGERS, damage
from fuzz.target import Target, expect
from inference_server.imaging.mha import mha_to_nifti, nifti_to_mha, read_mha_header
from inference_server.imaging.nifti_header import HEADER_BYTES

LIMIT_BYTES = 64 * 1024
VOXELS_AT = HEADER_BYTES + 4
MARK = b"ElementDataFile = LOCAL\n"
TURNED = HEADER.encode().removesuffix(MARK)
VOXELS = np.arange(60, dtype="<i2").tobytes()
KEYS = (
    "ObjectType", "NDims", "BinaryData", "BinaryDataByteOrderMSB", "CompressedData", "CompressedDataSize", "Offset",
    "TransformMatrix", "Rotation", "Origin", "ElementSpacing", "ElementSize", "DimSize", "HeaderSize", "ElementType",
    "ElementNumberOfChannels", "ElementDataFile", "Comment",
)  # fmt: skip
WORDS = (
    "Image", "True", "False", "LOCAL", "LIST", "/etc/passwd", "MET_UCHAR", "MET_DOUBLE", "MET_ULONG_LONG", "MET_NONE",
    "1 1 1", "2 3 4", "65535 65535 65535", "5 4", "0 0 0", "1e-300 1 1", "1 0 0 0 1 0 0 0 1", "0 0 0 0 0 0 0 0 0",
    "nan nan nan", "1_0 1 1", "", "=", "\x00", "-1", "٣ 1 1", "0x10 1 1", "1e999 1 1", *map(str, (*INTEGERS, *FLOATS)),
)  # fmt: skip


def seeds() -> list[bytes]:
    """Return files as ITK writes them: turned, compressed, in the other byte order, of other types, of two axes."""
    turned = TURNED + MARK + VOXELS
    packed = TURNED.replace(b"CompressedData = False", b"CompressedData = True") + MARK + zlib.compress(VOXELS)
    swapped = turned.replace(b"OrderMSB = False", b"OrderMSB = True")
    bare = b"NDims = 3\nDimSize = 5 4 3\nElementSize = 1 1 1\nElementType = MET_UCHAR\n" + MARK + VOXELS[:60]
    flat = b"NDims = 2\nDimSize = 5 4\nElementSpacing = 1 2\nElementType = MET_FLOAT\n" + MARK + bytes(80)
    return [turned, packed, swapped, bare, flat]


def read_file(content: bytes, _folder: Path) -> str:
    """Make a NIfTI file of it and an MHA file of that: the same voxels, on the same grid to the last digit."""
    header = read_mha_header(io.BytesIO(content))
    nifti, again = io.BytesIO(), io.BytesIO()
    geometry = mha_to_nifti(io.BytesIO(content), nifti, limit_bytes=LIMIT_BYTES)
    expect(geometry == header.geometry, "header and volume differ in geometry")
    expect(bool(np.isfinite(geometry.affine).all()), "the affine is not finite")
    expect(
        len(nifti.getvalue()) == VOXELS_AT + header.array_bytes <= VOXELS_AT + LIMIT_BYTES, "more came than declared"
    )
    nifti.seek(0)
    nifti_to_mha(nifti, again, geometry)
    again.seek(0)
    back = io.BytesIO()
    expect(mha_to_nifti(again, back, limit_bytes=LIMIT_BYTES) == geometry, "the grid came back as another")
    expect(back.getvalue()[VOXELS_AT:] == nifti.getvalue()[VOXELS_AT:], "voxels came back as others")
    return f"{header.dtype.str} {'packed' if header.compressed else 'plain'}"


def mutate(content: bytes, random: Random) -> bytes:
    """Change a line of the header, or the voxels, or pack them where they are not."""
    head, mark, voxels = content.partition(MARK)
    kind = random.random()
    if not mark or kind < 0.15:
        return damage(content, random)
    if kind < 0.3:
        return head + mark + damage(voxels, random)
    if kind < 0.4:
        wrap = random.choice((0, 16))  # zlib, gzip
        return head + mark + _deflated((voxels * random.choice((1, 1, 2, 5000)))[:UNPACKED_BYTES], 15 + wrap)
    return _line_changed(head + mark, random) + voxels


def _deflated(voxels: bytes, bits: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, bits)
    return packer.compress(voxels) + packer.flush()


def _line_changed(head: bytes, random: Random) -> bytes:
    lines = head.splitlines(keepends=True)
    at = random.randrange(len(lines))
    key = lines[at].partition(b"=")[0].strip() if random.random() < 0.7 else random.choice(KEYS).encode()
    line = key + b" = " + random.choice(WORDS).encode(errors="surrogatepass") + b"\n"
    match random.randrange(5):
        case 0:
            lines.insert(at, line)
        case 1 if len(lines) > 1:
            del lines[at]
        case 2:
            lines[at] = damage(lines[at], random)
        case _:
            lines[at] = line
    return b"".join(lines)


MHA = Target("mha", seeds, read_file, mutate)
