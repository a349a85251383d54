"""A volume: an array and where its voxels are in the patient."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import InvalidVolume

Shape = tuple[int, int, int]
Vector = tuple[float, float, float]
Direction = tuple[float, float, float, float, float, float, float, float, float]
ScalingFactor = tuple[int, int, int]

DEGENERATE = "The image's axes do not span three dimensions; its direction matrix is degenerate."
IDENTITY: Direction = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a grid are.

    `shape` is in (z, y, x); `spacing_mm`, `origin_mm` and `direction` are in (x, y, z), LPS, as SimpleITK has them:
    `direction` is the 3 x 3 matrix row by row, whose columns are the world directions of the x, y and z index.

    Raises:
        InvalidVolume: an axis is empty, a number is not finite, a spacing is not positive or the directions are not
            independent.
    """

    shape: Shape
    spacing_mm: Vector = (1.0, 1.0, 1.0)
    origin_mm: Vector = (0.0, 0.0, 0.0)
    direction: Direction = IDENTITY

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InvalidVolume(
                f"An image of three axes with at least one voxel each was expected, its shape is {self.shape}."
            )
        if not all(math.isfinite(value) for value in (*self.spacing_mm, *self.origin_mm, *self.direction)):
            raise InvalidVolume("The image's spacing, origin or direction holds a value that is not a finite number.")
        if min(self.spacing_mm) <= 0:
            raise InvalidVolume(f"The image's spacing must be positive along every axis, it is {self.spacing_mm} mm.")
        if abs(np.linalg.det(np.reshape(self.direction, (3, 3)))) < 1e-3:
            raise InvalidVolume(DEGENERATE)

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in cubic millimetres."""
        return abs(float(np.linalg.det(self.affine[:3, :3])))

    @property
    def affine(self) -> NDArray[np.float64]:
        """4 x 4 float64 matrix from the index (x, y, z, 1) to LPS millimetres."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing_mm)
        matrix[:3, 3] = self.origin_mm
        return matrix

    def refined(self, factor: ScalingFactor) -> Geometry:
        """Return the contour grid: each voxel split into `factor` (z, y, x) parts, voxel edges coinciding."""
        if factor == (1, 1, 1):
            return self
        split = np.asarray(factor[::-1], dtype=np.float64)
        first_centre = np.append(0.5 / split - 0.5, 1.0)
        origin = (self.affine @ first_centre)[:3]
        return replace(
            self,
            shape=_shape(np.asarray(self.shape) * factor),
            spacing_mm=_vector(np.asarray(self.spacing_mm) / split),
            origin_mm=_vector(origin),
        )


@dataclass(frozen=True, eq=False)
class Volume:
    """An array (z, y, x) of intensities or integer labels, and its geometry.

    `nifti_header` is the header of the NIfTI file it was read from (348 bytes), so that what is written back can copy
    its geometry fields byte for byte. For an image of `dimensions: 2` the array is (1, y, x).

    Raises:
        InvalidVolume: the array's shape is not the geometry's.
    """

    array: NDArray[Any]
    geometry: Geometry
    nifti_header: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise InvalidVolume(f"The array's shape is {self.array.shape}, its geometry says {self.geometry.shape}.")


def _shape(values: NDArray[Any]) -> Shape:
    z, y, x = (int(value) for value in values)
    return z, y, x


def _vector(values: NDArray[Any]) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z
