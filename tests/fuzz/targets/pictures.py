"""2-D pictures: PNG, JPEG and DICOM."""

from __future__ import annotations

import struct
import tempfile
import zlib
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from pictures import save_picture

from fuzz.noise import INTEGERS, damage
from fuzz.target import SECRET, Target, expect
from inference_server.imaging.picture import read_picture, read_picture_header

LIMIT_BYTES = 256 * 1024
PNG = b"\x89PNG\r\n\x1a\n"
CHUNK_HEAD_BYTES = 8


@cache
def pictures() -> dict[str, bytes]:
    """Return one of each format, by the ending of its name."""
    grey = np.arange(96, dtype=np.uint8).reshape(8, 12)
    with tempfile.TemporaryDirectory() as folder:
        made = {ending: save_picture(Path(folder, f"p.{ending}"), grey) for ending in ("png", "jpg")}
        made["dcm"] = save_picture(Path(folder, "p.dcm"), grey, {"0010|0010": SECRET})
        return {ending: path.read_bytes() for ending, path in made.items()}


def read(content: bytes, folder: Path) -> str:
    """Read a picture's header and the picture."""
    path = folder / "picture"
    path.write_bytes(content)
    try:
        geometry, size_bytes = read_picture_header(path)
        expect(size_bytes > 0, "the header declares nothing")
        volume = read_picture(path, max_bytes=LIMIT_BYTES)
    finally:
        path.unlink()
    expect(volume.geometry == geometry, "header and picture differ in geometry")
    expect(volume.array.nbytes <= LIMIT_BYTES, f"the array has {volume.array.nbytes} bytes")
    return volume.array.dtype.str


def picture_damage(content: bytes, random: Random) -> bytes:
    """Return a picture with a number of a PNG's chunk changed and its checksum made good, or with damaged bytes."""
    if content.startswith(PNG) and random.random() < 0.6:
        return _png_damage(content, random)
    return damage(content, random)


def _png_damage(content: bytes, random: Random) -> bytes:
    chunks = _chunks(content)
    if not chunks:
        return damage(content, random)
    place = random.randrange(len(chunks))
    kind, body = chunks[place]
    if kind == b"IHDR" and len(body) == 13 and random.random() < 0.7:
        at = random.choice((0, 4))
        body = body[:at] + struct.pack(">I", random.choice(INTEGERS) % 2**32) + body[at + 4 :]
    else:
        body = damage(body, random)
    chunks[place] = (kind, body)
    return PNG + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], len(PNG)
    while at + CHUNK_HEAD_BYTES <= len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        at += CHUNK_HEAD_BYTES
        chunks.append((kind, content[at : at + size]))
        at += size + 4
    return chunks


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


PICTURE = Target("picture", lambda: list(pictures().values()), read, picture_damage)
