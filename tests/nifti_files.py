"""NIfTI files for tests, made by nibabel, which shares no code with the reader under test."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterator
from typing import Any

import nibabel
import numpy as np

SPACING = (0.7, 1.3, 2.9)
ORIGIN = (-101.3, 57.7, 12.1)
GEOMETRY_BYTES = (slice(76, 108), slice(123, 124), slice(252, 328))
"""pixdim; unit; codes, quaternion, offsets and sform."""


def nifti(array: np.ndarray, affine: np.ndarray | None = None, *, big_endian: bool = False, **fields: Any) -> bytes:
    """A plain NIfTI-1 file; `array` in (x, y, z), `affine` to RAS, `fields` set in the header afterwards."""
    header = nibabel.Nifti1Header(endianness=">" if big_endian else "<")
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    if affine is not None:
        header.set_sform(affine, code=1)
        header.set_qform(affine, code=1, strip_shears=True)
    header["vox_offset"] = 352
    header["scl_slope"], header["scl_inter"] = 1, 0
    for name, value in fields.items():
        header[name] = value
    order = ">" if big_endian else "<"
    return header.binaryblock + bytes(4) + array.astype(array.dtype.newbyteorder(order)).tobytes(order="F")


def packed(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def orientations() -> Iterator[np.ndarray]:
    """The 48 ways in which array axes can run along patient axes, as affines to RAS."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            yield affine(np.eye(3)[:, order] * signs)


def affine(rotation: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * SPACING
    matrix[:3, 3] = ORIGIN
    return matrix


def oblique(seed: int) -> np.ndarray:
    """A random rotation, a mirrored one for odd seeds."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    if (np.linalg.det(q) < 0) != bool(seed % 2):
        q[:, 0] *= -1
    return affine(q)
