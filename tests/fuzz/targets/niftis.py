"""NIfTI headers and files."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
from nifti_files import affine, nifti, oblique, packed

from fuzz.images import header_damage, nifti_damage
from fuzz.target import Target, expect
from inference_server.imaging.nifti import read_header, read_volume, refined_header, write_labels
from inference_server.imaging.nifti_header import HEADER_BYTES, NiftiHeader, label_header, parse_header
from inference_server.imaging.volume import Geometry, Volume

LIMIT_BYTES = 64 * 1024
ARRAY = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
SCALED = {"scl_slope": 2.5, "scl_inter": -1024}


@cache
def files() -> tuple[bytes, ...]:
    """Return valid files of several kinds: types, byte orders, transforms, scales, axes."""
    plain = [nifti(ARRAY.astype(kind), affine(np.eye(3))) for kind in ("u1", "i2", "f4", "f8", "u4", "i8")]
    turned = [nifti(ARRAY, oblique(seed), big_endian=bool(seed % 2)) for seed in range(4)]
    others = [
        nifti(ARRAY, affine(np.eye(3)), **SCALED),
        nifti(ARRAY[0], pixdim=[1, 2, 2, 1, 1, 1, 1, 1]),
        nifti(ARRAY[..., None]),
        nifti(ARRAY),
    ]
    return (*plain, *turned, *others, *(packed(content) for content in (*plain[:3], *turned[:2], others[0])))


def headers() -> list[bytes]:
    """Return the headers of those that are not gzipped."""
    return [content[:HEADER_BYTES] for content in files() if not content.startswith(b"\x1f\x8b")]


def use_header(content: bytes, _folder: Path) -> str:
    """Read a header and do with it what the worker does: write labels on its grid and on a finer one."""
    header = parse_header(content)
    _check(header.geometry)
    again = _again(header, (1, 1, 1))
    _same_grid(header, again)
    finer = _again(header, (1, 2, 2))
    _check(finer.geometry)
    expect(finer.geometry.shape == header.geometry.refined((1, 2, 2)).shape, "the finer grid has another shape")
    return f"{header.ndim}-D {header.dtype.str}"


def read_file(content: bytes, folder: Path) -> str:
    """Read a file by its header and whole, from a stream and from a path, and write labels on its grid."""
    volume = read_volume(io.BytesIO(content), max_bytes=LIMIT_BYTES)
    header = read_header(io.BytesIO(content))
    expect(header.geometry == volume.geometry, "header and volume differ in geometry")
    expect(volume.array.nbytes <= LIMIT_BYTES, f"the array has {volume.array.nbytes} bytes")
    expect(volume.array.dtype.isnative, "the array is not in the byte order of this machine")
    written = folder / "labels.nii.gz"
    labels = np.ones(volume.geometry.shape, np.uint8)
    write_labels(written, Volume(labels, volume.geometry, volume.nifti_header))
    again = read_volume(written, max_bytes=LIMIT_BYTES)
    written.unlink()
    expect(bool((again.array == 1).all()), "labels came back as others")
    _same_grid(header, read_header(io.BytesIO(again.nifti_header or b"")))
    return f"{header.ndim}-D {volume.array.dtype.str}"


def _check(geometry: Geometry) -> None:
    expect(bool(np.isfinite(geometry.affine).all()), "the affine is not finite")
    expect(geometry.voxel_volume_mm3 >= 0, "the voxel has no volume")


def _again(header: NiftiHeader, factor: tuple[int, int, int]) -> NiftiHeader:
    """Return the header that labels of the finer grid get, as a reader sees it."""
    shape = tuple(length * part for length, part in zip(header.geometry.shape, factor, strict=True))
    finer = refined_header(header.raw, factor)
    return parse_header(label_header(shape, np.dtype(np.uint8), like=finer))  # type: ignore[arg-type]


def _same_grid(one: NiftiHeader, other: NiftiHeader) -> None:
    expect(one.geometry.shape == other.geometry.shape, "the labels have another shape")
    if one.ndim == other.ndim:
        expect(one.geometry == other.geometry, "the labels lie elsewhere")


HEADER = Target("header", headers, use_header, header_damage)
VOLUME = Target("nifti", files, read_file, nifti_damage)
