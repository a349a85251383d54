"""The directions of an image's axes, made perpendicular where noise made them slightly oblique to each other."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import InvalidVolume
from inference_server.imaging.volume import DEGENERATE, Direction

logger = logging.getLogger(__name__)

ROUNDING = 1e-6
"""Directions that are off by less are taken as they are: it is what single precision does to them."""
TOLERANCE = 1e-3
"""Directions that are off by more are refused. It is an angle of 0.06 degrees, or half a millimetre in half a metre."""


def perpendicular(direction: Direction) -> Direction:
    """Return the nearest perpendicular unit vectors, of the same handedness, and log that there was something to do.

    How far directions are off is the largest difference between the scalar products of the axes and those of
    perpendicular unit vectors.

    Raises:
        InvalidVolume: they are off by more than `TOLERANCE`, so that the image is sheared.

    Source:
        Higham, Computing the polar decomposition, SIAM J. Sci. Stat. Comput. 7 (1986), for the nearest matrix.
    """
    axes = np.reshape(direction, (3, 3))
    check_perpendicular(axes)
    off = _off_by(axes)
    if off <= ROUNDING:
        return direction
    logger.info("image axes made perpendicular", extra={"off_by": round(off, 7)})
    left, _, right = np.linalg.svd(axes)
    a, b, c, d, e, f, g, h, i = (left @ right).ravel().tolist()
    return a, b, c, d, e, f, g, h, i


def check_perpendicular(axes: NDArray[np.float64]) -> None:
    """Refuse directions, the columns of ``(3, 3)``, that are off by more than `TOLERANCE`.

    Raises:
        InvalidVolume: they are. The message says by what angle, and what to do.
    """
    if _off_by(axes) <= TOLERANCE:
        return
    lengths = np.linalg.norm(axes, axis=0)
    if abs(np.linalg.det(axes)) < 1e-3 * lengths.prod() or not lengths.all():
        raise InvalidVolume(DEGENERATE)
    cosines = (axes.T @ axes / np.outer(lengths, lengths))[np.triu_indices(3, 1)]
    angle = np.rad2deg(np.arcsin(np.abs(cosines).max()))
    if angle < np.rad2deg(TOLERANCE):
        raise InvalidVolume("The image's direction must consist of three vectors of length 1; they are of another one.")
    raise InvalidVolume(
        f"The image is sheared: two of its axes are {angle:.1f} degrees off the right angle that was expected. A CT "
        "taken with a tilted gantry is, until its tilt is corrected. Please send it resampled to a rectangular grid; "
        "dcm2niix writes one, with _Tilt in its name."
    )


def _off_by(axes: NDArray[np.float64]) -> float:
    return float(np.abs(axes.T @ axes - np.eye(3)).max())
