"""The header of a NIfTI-1 file: what it says of the array and of the patient's space, and how to write one.

The codes, the quaternion and the byte layout are those of the NIfTI-1 standard (nifti1.h, 2007). Which of the two
transforms of a header counts follows SimpleITK, so that users see here what they see there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import InvalidVolume, MalformedMessage
from inference_server.imaging.directions import perpendicular
from inference_server.imaging.nifti_transforms import TO_LPS, index_to_lps, qform, quaternion, sform
from inference_server.imaging.volume import Direction, Geometry, ScalingFactor, Shape, Vector

HEADER_BYTES = 348
LARGEST_AXIS = 32_767
"""The header keeps the length of an axis in 16 bits."""

_OFFSET_LIMIT_BYTES = 64 * 1024**2
_LAYOUT: list[Any] = [
    ("sizeof_hdr", "i4"),
    ("unused", "S36"),
    ("dim", "i2", 8),
    ("intent_p", "f4", 3),
    ("intent_code", "i2"),
    ("datatype", "i2"),
    ("bitpix", "i2"),
    ("slice_start", "i2"),
    ("pixdim", "f4", 8),
    ("vox_offset", "f4"),
    ("scl_slope", "f4"),
    ("scl_inter", "f4"),
    ("slice_end", "i2"),
    ("slice_code", "u1"),
    ("xyzt_units", "u1"),
    ("display", "f4", 4),
    ("gl", "i4", 2),
    ("text", "S104"),
    ("qform_code", "i2"),
    ("sform_code", "i2"),
    ("quatern", "f4", 3),
    ("qoffset", "f4", 3),
    ("srow", "f4", (3, 4)),
    ("intent_name", "S16"),
    ("magic", "S4"),
]
_GEOMETRY_FIELDS = ("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern", "qoffset", "srow")
_LITTLE, _BIG = struct.pack("<i", HEADER_BYTES), struct.pack(">i", HEADER_BYTES)
_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_CODES = {name: code for code, name in _TYPES.items()}
_MILLIMETRES = {1: 1e3, 3: 1e-3}


@dataclass(frozen=True)
class NiftiHeader:
    """What the header of a NIfTI file says.

    `dtype` is the type in the file, byte order included; `ndim` is 2 or 3 (one time point counts as none);
    `array_bytes` is what the array takes in memory, `offset` where it begins in the unpacked file. `rescale` is slope
    and intercept, or None where the stored values count. `oriented` tells whether the file says where the patient's
    left is at all; where it does not, the axes are taken to run to the left, back and head.
    """

    geometry: Geometry
    dtype: np.dtype[Any]
    ndim: int
    raw: bytes
    array_bytes: int
    offset: int
    rescale: tuple[float, float] | None
    oriented: bool


def parse_header(raw: bytes) -> NiftiHeader:
    """Decode and check the 348 bytes that a NIfTI-1 file begins with.

    Raises:
        MalformedMessage: they are not the header of a single-file NIfTI-1 image.
        InvalidVolume: the image is not 2-D or 3-D with one value per voxel, or its geometry is no valid one.
    """
    fields = _fields(raw)
    dtype = _dtype(fields)
    shape, ndim = _shape(fields)
    rescale = _rescale(fields)
    in_memory = dtype if rescale is None else rescaled_dtype(dtype)
    return NiftiHeader(
        geometry=_geometry(fields, shape, ndim),
        dtype=dtype,
        ndim=ndim,
        raw=bytes(raw),
        array_bytes=int(np.prod(shape, dtype=object)) * max(dtype.itemsize, in_memory.itemsize),
        offset=_offset(fields),
        rescale=rescale,
        oriented=bool(fields["qform_code"] > 0 or fields["sform_code"] > 0),
    )


def rescaled_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that values of `dtype` get when slope and intercept are applied."""
    return np.dtype("f8") if dtype.kind == "f" and dtype.itemsize == 8 else np.dtype("f4")


def refined_header(raw: bytes, factor: ScalingFactor) -> bytes:
    """Return an input's header for its contour grid: each voxel split into `factor` (z, y, x) parts.

    Voxel edges coincide, in both of the header's transforms. With a factor of one the bytes come back as they are.

    Raises:
        InvalidVolume: an axis of the contour grid is longer than a NIfTI-1 header can say.
    """
    if factor == (1, 1, 1):
        return bytes(raw)
    fields = _as_slice(_fields(raw)).copy()
    split = np.asarray(factor[::-1], dtype=np.float64)
    first_centre = np.append(0.5 / split - 0.5, 1.0)
    fields["dim"][1:4] = _axes(np.maximum(fields["dim"][1:4], 1) * np.asarray(factor[::-1]))
    fields["dim"][0] = max(int(fields["dim"][0]), 3)
    if fields["qform_code"] > 0:
        fields["qoffset"] = (qform(fields) @ first_centre)[:3]
    if fields["sform_code"] > 0:
        affine = sform(fields)
        fields["srow"] = np.column_stack([affine[:3, :3] / split, (affine @ first_centre)[:3]])
    fields["pixdim"][1:4] = fields["pixdim"][1:4] / split
    return fields.tobytes()


def label_header(shape: Shape, dtype: np.dtype[Any], *, like: bytes | Geometry) -> bytes:
    """Return the header of a label file.

    Args:
        shape: of the labels, (z, y, x).
        dtype: uint8 or uint16.
        like: the header whose geometry fields are copied byte for byte (the new header takes over its byte order),
            or a geometry, written as both qform and sform.

    Raises:
        InvalidVolume: an axis is longer than a NIfTI-1 header can say.
    """
    source = _as_slice(_fields(like)) if isinstance(like, bytes) else _geometry_fields(like)
    return _filled(source, shape, dtype).tobytes()


def image_header(geometry: Geometry, dtype: np.dtype[Any]) -> bytes:
    """Return the header of an image file of any type of the format, in the byte order of `dtype`.

    Raises:
        InvalidVolume: an axis is longer than a NIfTI-1 header can say.
    """
    fields = _filled(_geometry_fields(geometry), geometry.shape, dtype)
    return fields.astype(np.dtype(_LAYOUT).newbyteorder(dtype.byteorder)).tobytes()


def byte_order(raw: bytes) -> Literal["<", ">"]:
    """Return `<` or `>`: the byte order that a header is written in.

    Raises:
        MalformedMessage: the bytes are not the header of a NIfTI-1 image.
    """
    size = raw[:4]
    if size in (struct.pack("<i", 540), struct.pack(">i", 540)):
        raise MalformedMessage("The image is in the NIfTI-2 format; NIfTI-1 was expected. Please save it as NIfTI-1.")
    if len(raw) != HEADER_BYTES or size not in (_LITTLE, _BIG):
        raise MalformedMessage("The image is not a NIfTI file, or it is cut off within its header.")
    return "<" if size == _LITTLE else ">"


def _fields(raw: bytes) -> NDArray[Any]:
    layout = np.dtype(_LAYOUT).newbyteorder(byte_order(raw))
    fields = np.frombuffer(raw, layout)[0]
    if fields["magic"] != b"n+1":
        raise MalformedMessage("The image is not a single-file NIfTI-1 image (.nii or .nii.gz), which was expected.")
    return np.asarray(fields)


def _dtype(fields: NDArray[Any]) -> np.dtype[Any]:
    name = _TYPES.get(int(fields["datatype"]))
    if name is None:
        raise InvalidVolume(
            "An image with one whole or decimal number per voxel was expected; "
            f"this one has another type (NIfTI code {int(fields['datatype'])}: colour, complex or a rare one)."
        )
    return np.dtype(byte_order(fields.tobytes()) + name)


def _shape(fields: NDArray[Any]) -> tuple[Shape, int]:
    axes = int(fields["dim"][0])
    if not 2 <= axes <= 7:
        raise InvalidVolume(f"An image of two or three axes was expected; this one declares {axes}.")
    lengths = [int(length) for length in fields["dim"][1 : axes + 1]]
    if min(lengths) < 1:
        raise InvalidVolume(f"The image has an axis without voxels: its lengths are {lengths} (x, y, z, …).")
    if max(lengths[3:], default=1) > 1:
        raise InvalidVolume(
            f"A 3-D image was expected; this one has {axes} axes of lengths {lengths}. Please send a single time point."
        )
    x, y, z = (*lengths[:3], 1)[:3]
    return (z, y, x), min(axes, 3)


def _offset(fields: NDArray[Any]) -> int:
    offset = fields["vox_offset"]
    if not np.isfinite(offset) or not 0 <= offset <= _OFFSET_LIMIT_BYTES:
        raise MalformedMessage("The image's header does not say where its voxels begin; the file is damaged.")
    return max(int(offset), HEADER_BYTES) if offset else HEADER_BYTES + 4


def _rescale(fields: NDArray[Any]) -> tuple[float, float] | None:
    slope, intercept = fields["scl_slope"], fields["scl_inter"]
    if slope == 0 or np.isnan(slope) or (slope == 1 and intercept == 0):
        return None
    if not np.isfinite(slope) or not np.isfinite(intercept):
        raise InvalidVolume("The image's intensity scale (slope and intercept) is not a finite number.")
    return float(slope), float(intercept)


def _geometry(fields: NDArray[Any], shape: Shape, ndim: int) -> Geometry:
    pixdim = fields["pixdim"][1 : ndim + 1]
    if not np.isfinite(pixdim).all() or pixdim.min() <= 0:
        raise InvalidVolume("The image's spacing must be a positive finite number of millimetres along every axis.")
    if ndim == 2:
        x, y = (float(value) for value in pixdim)
        return Geometry(shape, (x, y, 1.0))
    scale = _MILLIMETRES.get(int(fields["xyzt_units"]) & 7, 1.0)
    return _from_affine(np.diag([scale, scale, scale, 1.0]) @ index_to_lps(fields), shape)


def _from_affine(affine: NDArray[np.float64], shape: Shape) -> Geometry:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.min() <= 0:
        raise InvalidVolume("The image's spacing must be positive along every axis; an axis has length 0.")
    direction = perpendicular(_direction(affine[:3, :3] / spacing + 0.0))
    return Geometry(shape, _vector(spacing), _vector(affine[:3, 3] + 0.0), direction)


def _geometry_fields(geometry: Geometry) -> NDArray[Any]:
    fields = np.zeros((), np.dtype(_LAYOUT).newbyteorder("<"))
    affine = TO_LPS @ geometry.affine
    rotation = affine[:3, :3] / geometry.spacing_mm
    handedness = -1.0 if np.linalg.det(rotation) < 0 else 1.0
    fields["pixdim"] = (handedness, *geometry.spacing_mm, 1, 1, 1, 1)
    fields["xyzt_units"], fields["sform_code"], fields["srow"] = 2, 1, affine[:3]
    if np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-4):
        fields["qform_code"], fields["qoffset"] = 1, affine[:3, 3]
        fields["quatern"] = quaternion(rotation * [1, 1, handedness])
    return fields


def _as_slice(fields: NDArray[Any]) -> NDArray[Any]:
    """Return a header's fields; those of a 2-D image without what cannot be read of it as a slice of a 3-D one."""
    if fields["dim"][0] != 2:
        return fields
    try:
        _geometry(fields, (1, 1, 1), 3)
    except InvalidVolume:
        fields = fields.copy()
        fields["qform_code"] = fields["sform_code"] = 0
        fields["pixdim"][3] = 1
    return fields


def _filled(source: NDArray[Any], shape: Shape, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the fields of a header that has its geometry from another one."""
    fields = np.zeros((), source.dtype)
    for name in _GEOMETRY_FIELDS:
        fields[name] = source[name]
    fields["sizeof_hdr"], fields["vox_offset"], fields["magic"] = HEADER_BYTES, HEADER_BYTES + 4, b"n+1"
    fields["dim"] = (3, *_axes(np.asarray(shape[::-1])), 1, 1, 1, 1)
    fields["datatype"], fields["bitpix"] = _CODES[dtype.str[1:]], 8 * dtype.itemsize
    fields["scl_slope"] = 1
    return fields


def _axes(lengths: NDArray[Any]) -> tuple[int, ...]:
    if lengths.max() > LARGEST_AXIS:
        raise InvalidVolume(f"An axis of {lengths.max()} voxels is longer than a NIfTI file can hold ({LARGEST_AXIS}).")
    return tuple(int(length) for length in lengths)


def _vector(values: NDArray[np.float64]) -> Vector:
    x, y, z = values.tolist()
    return x, y, z


def _direction(values: NDArray[np.float64]) -> Direction:
    a, b, c, d, e, f, g, h, i = values.ravel().tolist()
    return a, b, c, d, e, f, g, h, i
