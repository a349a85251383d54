"""The two transforms of a NIfTI-1 header, and which of them counts.

Both lead from the index to the patient's right, front and head (RAS) in the header's unit of length.

Source:
    nifti1.h (2007), methods 1, 2 and 3; the choice between them is SimpleITK's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import InvalidVolume
from inference_server.imaging.directions import check_perpendicular

SCANNER = 1
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def index_to_lps(fields: NDArray[Any]) -> NDArray[np.float64]:
    """Return the 4 x 4 matrix from the index (x, y, z, 1) to LPS, in the unit of a header's fields.

    A header without a transform gives its spacing along LPS axes from the origin, as SimpleITK does.

    Raises:
        InvalidVolume: a transform holds NaN or infinity, or the sform says that the scanner's own grid is sheared.
    """
    has_qform, has_sform = fields["qform_code"] > 0, fields["sform_code"] > 0
    if not has_qform and not has_sform:
        return np.diag([*_finite(fields["pixdim"][1:4]), 1.0])
    if fields["sform_code"] == SCANNER:  # a qform beside it cannot say so; in other spaces shear comes of registration
        _check_not_sheared(sform(fields)[:3, :3])
    if has_sform and (not has_qform or _sform_wins(fields)):
        return TO_LPS @ sform(fields)
    return TO_LPS @ qform(fields)


def sform(fields: NDArray[Any]) -> NDArray[np.float64]:
    """Return the sform's 4 x 4 matrix to RAS.

    Raises:
        InvalidVolume: it holds NaN or infinity.
    """
    return np.vstack([_finite(fields["srow"]), [0.0, 0.0, 0.0, 1.0]])


def qform(fields: NDArray[Any]) -> NDArray[np.float64]:
    """Return the qform's 4 x 4 matrix to RAS: quaternion, spacing, handedness and offset.

    Raises:
        InvalidVolume: one of them is NaN or infinity.
    """
    affine = np.eye(4)
    handedness = -1 if fields["pixdim"][0] < 0 else 1
    affine[:3, :3] = _rotation(*_finite(fields["quatern"])) * _finite(fields["pixdim"][1:4]) * [1, 1, handedness]
    affine[:3, 3] = _finite(fields["qoffset"])
    return affine


def _sform_wins(fields: NDArray[Any]) -> bool:
    """As in SimpleITK: a qform is left only for an sform that is rigid, and is the scanner's space or the same one."""
    rotation = sform(fields)[:3, :3] / fields["pixdim"][1:4].astype(np.float64)
    rigid = np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-3)
    return bool(rigid and (fields["sform_code"] == 1 or np.allclose(sform(fields), qform(fields), atol=1e-3)))


def _check_not_sheared(matrix: NDArray[np.float64]) -> None:
    lengths = np.linalg.norm(matrix, axis=0)
    if lengths.min() > 0:
        check_perpendicular(matrix / lengths)


def _rotation(b: float, c: float, d: float) -> NDArray[np.float64]:
    rest = 1.0 - (b * b + c * c + d * d)
    if rest < 1e-7:
        b, c, d = np.array([b, c, d]) / np.sqrt(b * b + c * c + d * d)
    a = np.sqrt(rest) if rest >= 1e-7 else 0.0
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def quaternion(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """b, c, d of the unit quaternion nearest to a proper rotation, its a being positive.

    Source:
        Bar-Itzhack, New method for extracting the quaternion from a rotation matrix, J. Guid. Control Dyn. 23 (2000).
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    matrix = [
        [xx - yy - zz, xy + yx, xz + zx, zy - yz],
        [xy + yx, yy - xx - zz, yz + zy, xz - zx],
        [xz + zx, yz + zy, zz - xx - yy, yx - xy],
        [zy - yz, xz - zx, yx - xy, xx + yy + zz],
    ]
    x, y, z, w = np.linalg.eigh(matrix).eigenvectors[:, 3]
    return np.round(np.array([x, y, z]) * (-1.0 if w < 0 else 1.0), 12)


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    if not np.isfinite(values).all():
        raise InvalidVolume("The image's geometry (qform or sform) holds a value that is not a finite number.")
    return values.astype(np.float64)
