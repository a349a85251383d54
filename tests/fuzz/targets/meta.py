"""The JSON members of a case. The first byte of an input says which of them the rest is."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np

from fuzz.noise import json_damage
from fuzz.target import SECRET, Target, expect
from inference_server.imaging.volume import Geometry
from inference_server.tasks.case_files.meta import decode_contour_name, decode_dicom_tags, decode_meta

GRID = Geometry((4, 3, 2), (1.0, 1.0, 2.5))
IMAGE_META, TAGS, CONTOUR = b"m", b"t", b"c"
FULL = {
    "scaling_factor": [1, 2, 2],
    "spacing": [0.7, 0.7, 3.0],
    "origin": [-120.5, 33.25, 1e3],
    "direction": [0, 1, 0, 1, 0, 0, 0, 0, -1],
}


def seeds() -> list[bytes]:
    """Return one of each, and metas with parts of what they may say."""
    metas = [FULL, {}, *({key: value} for key, value in FULL.items())]
    tags = {"1048592": SECRET, "2097165": "1.2.840", "528528": ["a", 1]}
    return [
        *(IMAGE_META + json.dumps(meta).encode() for meta in metas),
        TAGS + json.dumps(tags).encode(),
        CONTOUR + json.dumps({"name": SECRET, "colour": [255, 0, 0]}).encode(),
    ]


def decode(content: bytes, _folder: Path) -> str:
    """Decode one, and lay an image's grid where a meta says."""
    kind, text = content[:1], content[1:]
    if kind == TAGS:
        tags = decode_dicom_tags(text, field="f")
        expect(all(isinstance(key, int) and isinstance(value, str) for key, value in tags.items()), "not tags")
        return "tags"
    if kind == CONTOUR:
        expect(bool(decode_contour_name(text, field="f").strip()), "a contour without a name")
        return "contour"
    meta = decode_meta(text, field="f")
    if meta.scaling_factor:
        expect(min(meta.scaling_factor) >= 1, "a factor below one")
    expect(bool(np.isfinite(meta.applied(GRID).affine).all()), "the affine is not finite")
    return "meta"


def mutate(content: bytes, random: Random) -> bytes:
    """Damage the JSON, seldom the byte before it."""
    kind = random.choice((IMAGE_META, TAGS, CONTOUR)) if random.random() < 0.05 else content[:1]
    return kind + json_damage(content[1:], random)


META = Target("meta", seeds, decode, mutate)
