"""Zips of cases for tests, as MIM clients and other people send them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nifti_files import nifti, packed

from inference_server.models.manifest import Manifest, parse_manifest
from inference_server.settings import Settings

SHAPE = (4, 3, 2)
ARRAY = np.arange(24, dtype=np.int16).reshape(SHAPE)
LIMITS = Settings(labels_limit_bytes=10_000, image_limit_bytes=10_000, unpacked_limit_bytes=100_000, member_limit=20)
MIM_AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])
"""Identity direction in LPS, as MIM clients write it."""


def model(*, images: int = 1, optional: int = 0, **declared: Any) -> Manifest:
    channels = [{"name": f"C{i}", "required": i < images} for i in range(images + optional)]
    return parse_manifest({"id": "m", "channels": channels, **declared})


def image(array: np.ndarray = ARRAY, affine: np.ndarray = MIM_AFFINE, **fields: Any) -> bytes:
    """A gzipped NIfTI file of an array in (z, y, x)."""
    return packed(nifti(np.ascontiguousarray(array.transpose()), affine, **fields))


def zipped(path: Path, members: Mapping[str, Any], *, method: int = zipfile.ZIP_STORED) -> Path:
    """A zip; what is not bytes becomes JSON."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content if isinstance(content, bytes) else json.dumps(content))
    return path
