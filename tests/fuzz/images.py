"""Damage to NIfTI files and to gzip around them."""

from __future__ import annotations

import gzip
import struct
import zlib
from random import Random

from fuzz.noise import damage, number, number_bytes

HEADER_BYTES = 348
FIELDS = (
    # offset, layout, how many
    (0, "i", 1), (40, "h", 8), (56, "f", 3), (68, "h", 1), (70, "h", 1), (72, "h", 1), (76, "f", 8), (108, "f", 1),
    (112, "f", 1), (116, "f", 1), (123, "B", 1), (252, "h", 1), (254, "h", 1), (256, "f", 3), (268, "f", 3),
    (280, "f", 12), (344, "B", 4),
)  # fmt: skip
"""The header's fields that a reader looks at."""
TYPES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304)
MAGIC = b"\x1f\x8b"
UNPACKED_BYTES = 256 * 1024


def nifti_damage(content: bytes, random: Random) -> bytes:
    """Return a NIfTI file with something changed in its header, its voxels or the gzip around it."""
    plain = unpacked(content) if content.startswith(MAGIC) else content
    if plain is None or random.random() < 0.1:
        return gzip_damage(content, random)
    changed = header_damage(plain, random) if random.random() < 0.7 else damage(plain, random)
    if content.startswith(MAGIC) != (random.random() < 0.1):
        return gzip_damage(packed(changed), random) if random.random() < 0.2 else packed(changed)
    return changed


def header_damage(plain: bytes, random: Random) -> bytes:
    """Return a header, or a file that begins with one, with a field changed or all of it in the other byte order."""
    content = bytearray(plain.ljust(HEADER_BYTES, b"\0"))
    if random.random() < 0.05:
        return _swapped(content)
    order = "<" if content[:4] == struct.pack("<i", HEADER_BYTES) else ">"
    offset, layout, count = random.choice(FIELDS)
    size = struct.calcsize(layout)
    at = offset + size * random.randrange(count)
    content[at : at + size] = _value(order + layout, offset, random)
    return bytes(content)


def gzip_damage(content: bytes, random: Random) -> bytes:
    """Return gzipped bytes cut off, twice there, in several members, with something behind them, or damaged."""
    plain = unpacked(content)
    match random.randrange(6):
        case 0:
            return content + content
        case 1:
            return content + random.choice((b"\0" * 9, MAGIC, b"behind", content[:11]))
        case 2 if plain:
            half = random.randrange(len(plain))
            return packed(plain[:half]) + packed(plain[half:])
        case 3 if len(content) > 8:  # the checksum and the length
            at = len(content) - 1 - random.randrange(8)
            return content[:at] + bytes((random.randrange(256),)) + content[at + 1 :]
        case 4 if plain:
            return packed(plain + bytes(random.choice((1, 4096, UNPACKED_BYTES))))
    return damage(content, random)


def packed(plain: bytes) -> bytes:
    """Return bytes gzipped, the same ones for the same."""
    return gzip.compress(plain, 1, mtime=0)


def unpacked(content: bytes) -> bytes | None:
    """Return what is gzipped in bytes, its beginning if that is much, or None if it cannot be told."""
    try:
        return zlib.decompressobj(31).decompress(content, UNPACKED_BYTES) or None
    except zlib.error:
        return None


def _value(layout: str, offset: int, random: Random) -> bytes:
    is_type = offset == 70 and random.random() < 0.8
    return number_bytes(layout, random.choice(TYPES) if is_type else number(random))


def _swapped(content: bytearray) -> bytes:
    for offset, layout, count in FIELDS:
        size = struct.calcsize(layout)
        for at in range(offset, offset + size * count, size):
            content[at : at + size] = content[at : at + size][::-1]
    return bytes(content)
