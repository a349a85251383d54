"""A surface of triangles, and its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_HEADER = """\
# vtk DataFile Version 4.2
inference-server SPACE=RAS
ASCII
DATASET POLYDATA
"""
"""3D Slicer reads from the second line where the axes point, and takes coordinates for RAS in versions that do not look
there. Programs that were built with VTK 8 read no later version of the file."""
_ROWS = 8192


@dataclass(frozen=True, eq=False)
class Mesh:
    """A surface of triangles.

    `vertices` is (N, 3) float64 in LPS mm, `triangles` (M, 3) int64, indices of vertices; seen from outside they go
    round counter-clockwise.

    Raises:
        ValueError: the arrays are of another shape, a coordinate is not finite, or a triangle names no vertex.
    """

    vertices: NDArray[np.float64]
    triangles: NDArray[np.int64]

    def __post_init__(self) -> None:
        if any(array.ndim != 2 or array.shape[1] != 3 for array in (self.vertices, self.triangles)):
            raise ValueError("A mesh has vertices (N, 3) and triangles (M, 3).")
        if not np.isfinite(self.vertices).all():
            raise ValueError("A vertex of the mesh is not finite.")
        if self.triangles.size and not 0 <= self.triangles.min() <= self.triangles.max() < len(self.vertices):
            raise ValueError("A triangle of the mesh names a vertex that there is not.")

    @property
    def enclosed_mm3(self) -> float:
        """The volume that a closed mesh encloses; negative where its triangles go round the other way."""
        a, b, c = (self.vertices[self.triangles[:, corner]] - self.vertices.mean(0) for corner in range(3))
        return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def write_vtk(target: IO[bytes], mesh: Mesh) -> None:
    """Write a mesh as a legacy VTK file of text (PolyData), in RAS mm with nine digits."""
    target.write(_HEADER.encode())
    target.write(f"POINTS {len(mesh.vertices)} double\n".encode())
    _write_rows(target, "%.9g %.9g %.9g\n", mesh.vertices * [-1, -1, 1])
    target.write(f"POLYGONS {len(mesh.triangles)} {4 * len(mesh.triangles)}\n".encode())
    _write_rows(target, "3 %d %d %d\n", mesh.triangles)


def _write_rows(target: IO[bytes], row: str, array: NDArray[Any]) -> None:
    for start in range(0, len(array), _ROWS):
        part = array[start : start + _ROWS]
        target.write((row * len(part) % tuple(part.ravel().tolist())).encode())
