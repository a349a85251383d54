"""The surface of a label lies on the label, however the image lies in the patient."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from nifti_files import oblique
from scipy.spatial import cKDTree

from inference_server.imaging.volume import Geometry, Volume
from inference_server.models import surfaces as surfaces_module
from inference_server.models.case import Segmentation
from inference_server.models.manifest import LabelName
from inference_server.models.mesh import Mesh
from inference_server.models.surfaces import mesh_of, surfaces

SPACING = (0.7, 1.3, 2.9)
NAMES = {1: LabelName(name="BALL"), 2: LabelName(name="BOX"), 7: LabelName(name="NOWHERE")}


def grid(seed: int, shape: tuple[int, int, int] = (24, 50, 90)) -> Geometry:
    """An oblique grid, left-handed for odd seeds."""
    direction = (oblique(seed)[:3, :3] / SPACING).ravel().tolist()
    return Geometry(shape, SPACING, (-101.3, 57.7, 12.1), tuple(direction))  # type: ignore[arg-type]


def places(geometry: Geometry) -> np.ndarray:
    """The centres of all voxels, (z, y, x, 3), in LPS mm."""
    z, y, x = np.indices(geometry.shape)
    return np.stack([x, y, z, np.ones_like(x)], -1) @ geometry.affine[:3].T


def ball_and_box(geometry: Geometry) -> Segmentation:
    centre = geometry.affine @ [30, 25, 12, 1]
    labels = (np.linalg.norm(places(geometry) - centre[:3], axis=-1) < 18).astype(np.uint8)
    labels[14:, 5:20, 70:] = 2  # it touches the image's edge on two sides
    return Segmentation("organs", Volume(labels, geometry), NAMES)


def border(segmentation: Segmentation, value: int) -> np.ndarray:
    """The middles of all faces between voxels with and without a label, in LPS mm."""
    geometry = segmentation.labels.geometry
    inside = np.pad(segmentation.labels.array == value, 1)
    found = []
    for axis in range(3):
        index = np.argwhere(np.diff(inside, axis=axis)).astype(float) - 1
        index[:, axis] += 0.5
        found.append(index)
    index = np.concatenate(found)[:, ::-1]
    return index @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]


@pytest.mark.parametrize("seed", [None, *range(4)])
def test_a_surface_lies_on_its_label_and_encloses_its_volume(seed: int | None) -> None:
    geometry = grid(0 if seed is None else seed)
    if seed is None:
        geometry = Geometry(geometry.shape, SPACING, (5, 6, 7))
    segmentation = ball_and_box(geometry)
    found = dict(surfaces(segmentation))
    assert list(found) == [1, 2]
    for value, mesh in found.items():
        expected_mm3 = np.count_nonzero(segmentation.labels.array == value) * geometry.voxel_volume_mm3
        assert mesh.enclosed_mm3 == pytest.approx(expected_mm3, rel=0.01)  # positive: seen from outside
        edges = border(segmentation, value)
        voxel_mm = np.linalg.norm(SPACING)
        assert cKDTree(edges).query(mesh.vertices)[0].max() < voxel_mm
        assert cKDTree(mesh.vertices).query(edges)[0].max() < voxel_mm
        is_closed(mesh)


def is_closed(mesh: Mesh) -> None:
    """Every edge is passed once in each direction."""
    passed = mesh.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    there = {tuple(edge) for edge in passed.tolist()}
    assert len(there) == len(passed)
    assert there == {(b, a) for a, b in there}


def test_the_ball_is_where_it_was_put_to_a_tenth_of_a_millimetre() -> None:
    for seed in range(2):
        geometry = grid(seed)
        mesh = dict(surfaces(ball_and_box(geometry)))[1]
        centre = (geometry.affine @ [30, 25, 12, 1])[:3]
        assert np.linalg.norm((mesh.vertices.max(0) + mesh.vertices.min(0)) / 2 - centre) < 1
        assert np.linalg.norm(mesh.vertices.mean(0) - centre) < 0.1
        assert np.linalg.norm(mesh.vertices - centre, axis=1).mean() == pytest.approx(18, abs=0.4)


def test_a_surface_is_smooth() -> None:
    """Facets of a ball look away from its centre, and not along the axes of the image."""
    geometry = grid(1)
    mesh = dict(surfaces(ball_and_box(geometry)))[1]
    a, b, c = (mesh.vertices[mesh.triangles[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    outward = (a + b + c) / 3 - (geometry.affine @ [30, 25, 12, 1])[:3]
    cosines = (normals * outward).sum(1) / np.linalg.norm(normals, axis=1) / np.linalg.norm(outward, axis=1)
    assert np.median(cosines) > 0.95


@pytest.mark.parametrize(("most", "left"), [(5000, range(4990, 5001)), (10, range(3000, 4000))])
def test_a_large_surface_is_reduced_and_stays_where_it_is(
    monkeypatch: pytest.MonkeyPatch, most: int, left: range
) -> None:
    """As far as it may be: what the shape needs is kept, however few are wished for."""
    segmentation = ball_and_box(grid(1))
    whole = dict(surfaces(segmentation))[1]
    assert len(whole.triangles) > 7000
    monkeypatch.setattr(surfaces_module, "TRIANGLES", most)
    mesh = dict(surfaces(segmentation))[1]
    assert len(mesh.triangles) in left
    is_closed(mesh)
    assert mesh.enclosed_mm3 == pytest.approx(whole.enclosed_mm3, rel=0.005)
    assert cKDTree(whole.vertices).query(mesh.vertices)[0].max() < 1e-4  # nothing new, only less
    apart_mm = [distances_mm(mesh, whole.vertices).max(), distances_mm(whole, points_on(mesh)).max()]
    assert max(apart_mm) < 0.5 * min(SPACING)


def points_on(mesh: Mesh) -> np.ndarray:
    """The middles of all triangles and of their sides."""
    a, b, c = (mesh.vertices[mesh.triangles[:, corner]] for corner in range(3))
    return np.concatenate([(a + b + c) / 3, (a + b) / 2, (b + c) / 2, (c + a) / 2])


def distances_mm(mesh: Mesh, points: np.ndarray) -> np.ndarray:
    """How far points are from a surface, by VTK."""
    from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
    from vtkmodules.vtkFiltersCore import vtkImplicitPolyDataDistance

    corners, triangles, surface = vtkPoints(), vtkCellArray(), vtkPolyData()
    corners.SetData(numpy_to_vtk(mesh.vertices, deep=True))
    triangles.SetData(3, numpy_to_vtkIdTypeArray(mesh.triangles.ravel(), deep=True))
    surface.SetPoints(corners)
    surface.SetPolys(triangles)
    distance = vtkImplicitPolyDataDistance()
    distance.SetInput(surface)
    return np.abs([distance.EvaluateFunction(point) for point in points.tolist()])


@pytest.mark.parametrize("radius", [4.0, 6.0, 10.0])
def test_small_structures_keep_their_volume(radius: float) -> None:
    geometry = grid(0, (10, 20, 30))
    centre = (geometry.affine @ [14.5, 9.5, 4.5, 1])[:3]
    labels = (np.linalg.norm(places(geometry) - centre, axis=-1) < radius).astype(np.uint8)
    ((_, mesh),) = surfaces(Segmentation("a", Volume(labels, geometry), NAMES))
    expected_mm3 = np.count_nonzero(labels) * geometry.voxel_volume_mm3
    assert mesh.enclosed_mm3 == pytest.approx(expected_mm3, rel=0.04)


def test_speckles_that_touch_at_corners_are_enclosed_too() -> None:
    labels = (np.random.default_rng(0).random((12, 12, 12)) < 0.3).astype(np.uint8)
    ((_, mesh),) = surfaces(Segmentation("a", Volume(labels, Geometry(labels.shape)), NAMES))  # type: ignore[arg-type]
    assert np.isfinite(mesh.vertices).all()
    assert -1 <= mesh.vertices.min() <= mesh.vertices.max() <= 12
    assert 0 < mesh.enclosed_mm3 < float(labels.sum())


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 5)])
def test_a_label_of_few_voxels_has_a_closed_surface(shape: tuple[int, int, int]) -> None:
    labels = np.full(shape, 300, np.uint16)
    segmentation = Segmentation("a", Volume(labels, Geometry(shape, SPACING)), {300: LabelName(name="x")})
    ((value, mesh),) = surfaces(segmentation)
    assert value == 300
    assert mesh.enclosed_mm3 > 0
    is_closed(mesh)


def test_labels_without_a_voxel_have_no_surface() -> None:
    nothing = Volume(np.zeros((3, 3, 3), np.uint8), Geometry((3, 3, 3)))
    assert list(surfaces(Segmentation("a", nothing, NAMES))) == []


def test_what_vtk_made_becomes_triangles() -> None:
    from vtkmodules.vtkFiltersSources import vtkCubeSource

    cube = vtkCubeSource()
    cube.SetCenter(10, 20, 30)
    cube.Update()
    mesh = mesh_of(cube.GetOutput())
    assert len(mesh.triangles) == 12
    assert mesh.enclosed_mm3 == pytest.approx(1)
    corners = [(10 + x, 20 + y, 30 + z) for x, y, z in itertools.product((-0.5, 0.5), repeat=3)]
    assert {tuple(vertex) for vertex in mesh.vertices.tolist()} == set(corners)


def test_vtk_is_loaded_only_when_a_surface_is_made() -> None:
    code = (
        "import sys, inference_server.tasks.runner, inference_server.models.answer; print('vtkmodules' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
