"""The surfaces of labels, by VTK, which is imported once the first one is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.case import Segmentation
from inference_server.models.mesh import Mesh

if TYPE_CHECKING:
    from vtkmodules.vtkCommonDataModel import vtkImageData, vtkPolyData


ROUNDS = 20
PASS_BAND = 0.05
"""What of a surface's shape is kept: lower is smoother, and takes more of small structures."""
TRIANGLES = 100_000
"""Surfaces of more are reduced to so many, as far as their shape allows."""
MOVED_VOXELS = 0.05
"""What reducing may accumulate of error at a place, as VTK estimates it, in parts of the shortest side of a voxel."""


def surfaces(segmentation: Segmentation) -> Iterator[tuple[int, Mesh]]:
    """Yield the smoothed surface of every label that has a voxel, one after the other.

    What it encloses is the label's volume within a percent, or a few for structures of a few voxels; the smoothing of
    surface nets themselves takes a third off those. Where a structure touches the image's edge it is closed there.
    Large surfaces are reduced, by no more than lies within half a voxel's shortest side: of a chest's skin of 665,000
    triangles 100,000 are left, 0.25 mm apart from it at most, with voxels of 0.98 x 0.98 x 3 mm.

    Yields:
        The label's value, and a closed mesh in LPS mm.

    Source:
        Frisken, SurfaceNets for multi-label segmentations with preservation of sharp boundaries, J. Comput. Graph.
        Tech. 11 (2022); Taubin, Zhang, Golub, Optimal surface smoothing as filter design, ECCV (1996); Schroeder,
        Zarge, Lorensen, Decimation of triangle meshes, SIGGRAPH (1992).
    """
    from scipy.ndimage import find_objects

    boxes = find_objects(segmentation.labels.array)
    for value in sorted(segmentation.names):
        if value <= len(boxes) and boxes[value - 1] is not None:
            yield value, _surface(segmentation.labels, value, boxes[value - 1])


def mesh_of(polydata: vtkPolyData) -> Mesh:
    """Return VTK's surface as a mesh; polygons are cut into triangles, lines and points left out.

    Raises:
        ValueError: it is no valid mesh.
    """
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkFiltersCore import vtkTriangleFilter

    cut = vtkTriangleFilter()
    cut.SetInputData(polydata)
    cut.PassLinesOff()
    cut.PassVertsOff()
    cut.Update()
    found = cut.GetOutput()
    vertices = vtk_to_numpy(found.GetPoints().GetData()) if found.GetNumberOfPoints() else np.empty((0, 3))
    return Mesh(vertices.astype(np.float64), _triangles(found))


def _surface(labels: Volume, value: int, box: tuple[slice, slice, slice]) -> Mesh:
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkFiltersCore import vtkSurfaceNets3D, vtkWindowedSincPolyDataFilter

    nets = vtkSurfaceNets3D()
    nets.SetInputData(_image(labels.array[box] == value, labels.geometry))
    nets.SetValue(0, 1)
    nets.SetOutputMeshTypeToTriangles()
    nets.SmoothingOff()
    smoother = vtkWindowedSincPolyDataFilter()
    smoother.SetInputConnection(nets.GetOutputPort())
    smoother.SetNumberOfIterations(ROUNDS)
    smoother.SetPassBand(PASS_BAND)
    smoother.NormalizeCoordinatesOn()
    smoother.NonManifoldSmoothingOn()
    smoother.Update()
    found = _reduced(smoother.GetOutput(), MOVED_VOXELS * min(labels.geometry.spacing_mm))
    place = vtk_to_numpy(found.GetPoints().GetData()) / labels.geometry.spacing_mm
    index = place + [side.start - 1 for side in reversed(box)]
    affine = labels.geometry.affine
    triangles = _triangles(found)
    if np.linalg.det(affine) < 0:
        triangles = np.ascontiguousarray(triangles[:, ::-1])
    return Mesh(index @ affine[:3, :3].T + affine[:3, 3], triangles)


def _reduced(surface: vtkPolyData, error_mm: float) -> vtkPolyData:
    """Return a surface of fewer triangles where it has many, as closed as it was."""
    from vtkmodules.vtkFiltersCore import vtkDecimatePro

    count = surface.GetNumberOfPolys()
    if count <= TRIANGLES:
        return surface
    reducer = vtkDecimatePro()
    reducer.SetInputData(surface)
    reducer.SetTargetReduction(1 - TRIANGLES / count)
    reducer.PreserveTopologyOn()
    reducer.SplittingOff()
    reducer.SetErrorIsAbsolute(1)
    reducer.SetAbsoluteError(error_mm)
    reducer.AccumulateErrorOn()
    reducer.Update()
    found: vtkPolyData = reducer.GetOutput()
    return found


def _image(inside: NDArray[np.bool_], geometry: Geometry) -> vtkImageData:
    """Return flags, with a voxel of background around them, as an image at VTK's origin."""
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonDataModel import vtkImageData

    padded = np.pad(inside, 1).view(np.uint8)
    image = vtkImageData()
    image.SetDimensions(padded.shape[::-1])
    image.SetSpacing(geometry.spacing_mm)
    image.GetPointData().SetScalars(numpy_to_vtk(padded.ravel()))
    return image


def _triangles(polydata: vtkPolyData) -> NDArray[np.int64]:
    from vtkmodules.util.numpy_support import vtk_to_numpy

    corners: NDArray[np.int64] = vtk_to_numpy(polydata.GetPolys().GetConnectivityArray()).astype(np.int64)
    return corners.reshape(-1, 3)
