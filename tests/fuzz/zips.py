"""Damage to zips: to what is in them, to their names and order, and to what their directory says."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from random import Random

from fuzz.images import nifti_damage
from fuzz.noise import INTEGERS, damage, json_damage
from fuzz.target import SECRET

NAMES = (
    "tmp_0000.nii.gz", "tmp_0000.nii", "tmp_0001.nii.gz", "tmp_0002.nii", "tmp_9999.nii.gz", "meta.json",
    "tmp_0000.meta.json", "tmp_0000.dicom_info.json", "contour.nii.gz", "contour.json", "tmp_0000.png", "tmp_0000.dcm",
    "tmp_0000.jpg", "tmp_0000.mha", "../tmp_0000.nii.gz", "/tmp/tmp_0000.nii.gz", "a/b", "..", ".", "", " ", "\0",
    "tmp_0000.nii.gz\0.txt", "CON", "\ud7ff\ue000", "tmp_٠٠٠٠.nii.gz", SECRET, "x" * 5000,
)  # fmt: skip
DIRECTORY, LOCAL, END, END_64 = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06"
FIELDS: Mapping[bytes, Sequence[tuple[int, str]]] = {
    DIRECTORY: ((4, "H"), (6, "H"), (8, "H"), (10, "H"), (16, "I"), (20, "I"), (24, "I"), (28, "H"), (30, "H"),
                (32, "H"), (34, "H"), (36, "H"), (38, "I"), (42, "I")),
    LOCAL: ((4, "H"), (6, "H"), (8, "H"), (14, "I"), (18, "I"), (22, "I"), (26, "H"), (28, "H")),
    END: ((4, "H"), (6, "H"), (8, "H"), (10, "H"), (12, "I"), (16, "I"), (20, "H")),
    END_64: ((4, "Q"), (12, "H"), (24, "Q"), (32, "Q"), (40, "Q"), (48, "Q")),
}  # fmt: skip
"""Offsets of the numbers in each kind of record."""
UNPACKED_BYTES = 512 * 1024

Members = list[tuple[str, bytes]]
Damage = Callable[[bytes, Random], bytes]


def zip_damage(content: bytes, random: Random) -> bytes:
    """Return a zip with something changed in a member, its names, its directory or its bytes."""
    members = read_members(content)
    if not members or random.random() < 0.1:
        return damage(content, random)
    if random.random() < 0.25:
        return _lying(content, random)
    return make_zip(_changed(members, random), random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def make_zip(members: Members, method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip of members, whatever their names; the same one for the same members."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as archive:
        warnings.simplefilter("ignore")  # names that are there twice
        for name, content in members:
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = name
            info.compress_type = method
            archive.writestr(info, content)
    return file.getvalue()


def read_members(content: bytes) -> Members:
    """Return the members of a zip that can be read, as far as they can be within bounds; none of what is no zip."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = [info for info in archive.infolist()[:40] if info.file_size <= UNPACKED_BYTES]
            return [(info.filename, archive.read(info)) for info in infos]
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError, RuntimeError,
            OSError, OverflowError):  # fmt: skip
        return []


def member_damage(name: str) -> Damage:
    """Return what damages a member of such a name."""
    if name.endswith((".nii.gz", ".nii")):
        return nifti_damage
    return json_damage if name.endswith(".json") else damage


def _changed(members: Members, random: Random) -> Members:
    place = random.randrange(len(members))
    name, content = members[place]
    match random.randrange(12):
        case 0:
            members[place] = (random.choice(NAMES), content)
        case 1:
            del members[place]
        case 2:
            members.append((random.choice(NAMES), content))
        case 3:
            members.append((random.choice(NAMES), random.choice(members)[1]))
        case 4:
            random.shuffle(members)
        case _:
            members[place] = (name, member_damage(name)(content, random))
    return members


def _lying(content: bytes, random: Random) -> bytes:
    """Change a number of one of the records."""
    signature = random.choice((DIRECTORY, DIRECTORY, LOCAL, END, END_64))
    starts = [found.start() for found in re.finditer(re.escape(signature), content)]
    if not starts:
        return damage(content, random)
    offset, layout = random.choice(FIELDS[signature])
    at, size = random.choice(starts) + offset, struct.calcsize("<" + layout)
    changed = bytearray(content.ljust(at + size, b"\0"))
    changed[at : at + size] = struct.pack("<" + layout, random.choice(INTEGERS) % 256**size)
    return bytes(changed)
