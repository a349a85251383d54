"""Zips of results, as clients and other doors read them back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from nifti_files import affine, nifti, packed

from fuzz.target import Target, expect
from fuzz.zips import make_zip, zip_damage
from inference_server.tasks.result_zip import read_result


def seeds() -> list[bytes]:
    """Return results with labels, and with classes."""
    labels = packed(nifti(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), affine(np.eye(3))))
    names = json.dumps({"1": "LIVER", "2": "SPLEEN"}).encode()
    one = [("organs.nii.gz", labels), ("organs.json", names)]
    return [
        make_zip(one),
        make_zip([*one, ("b.nii.gz", labels), ("b.json", b"{}"), ("classifications.csv", b"class,probability\n")]),
        make_zip([]),
    ]


def read(content: bytes, folder: Path) -> str:
    """Read a result."""
    path = folder / "result.zip"
    path.write_bytes(content)
    try:
        found = read_result(path)
    finally:
        path.unlink()
    expect(all(value >= 0 for one in found for value in one.names), "a label below zero")
    return f"{len(found)} segmentations"


RESULT = Target("result", seeds, read, zip_damage)
