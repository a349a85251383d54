"""A mesh and its file, as VTK reads it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from inference_server.models.mesh import Mesh, write_vtk

CORNERS = np.array([[0.1 + 0.2, 0, 0], [-200.123456789, 0, 0], [0, 300, 0], [0, 0, 1e-5]])
FACES = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])


def test_the_file_is_read_by_vtk_in_ras_and_its_header_says_so(tmp_path: Path) -> None:
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkIOLegacy import vtkPolyDataReader

    with (tmp_path / "a.vtk").open("wb") as file:
        write_vtk(file, Mesh(CORNERS, FACES))
    reader = vtkPolyDataReader()
    reader.SetFileName(str(tmp_path / "a.vtk"))
    assert reader.IsFilePolyData()
    reader.Update()
    found = reader.GetOutput()
    assert reader.GetHeader().endswith("SPACE=RAS")
    assert (tmp_path / "a.vtk").read_bytes().startswith(b"# vtk DataFile Version 4.2\n")
    assert np.allclose(vtk_to_numpy(found.GetPoints().GetData()), CORNERS * [-1, -1, 1], rtol=1e-8, atol=0)
    assert np.array_equal(vtk_to_numpy(found.GetPolys().GetConnectivityArray()).reshape(-1, 3), FACES)


def test_a_mesh_of_many_rows_is_written_whole() -> None:
    target = io.BytesIO()
    vertices = np.random.default_rng(0).normal(size=(20_000, 3))
    write_vtk(target, Mesh(vertices, np.arange(20_000).repeat(3).reshape(-1, 3)))
    lines = target.getvalue().decode().splitlines()
    assert lines[4] == "POINTS 20000 double"
    assert np.allclose(np.loadtxt(lines[5:20_005]), vertices * [-1, -1, 1], rtol=1e-8)
    assert lines[20_005] == "POLYGONS 20000 80000"
    assert lines[-1] == "3 19999 19999 19999"
    assert len(lines) == 6 + 2 * 20_000


def test_an_empty_mesh_is_a_file_too() -> None:
    target = io.BytesIO()
    write_vtk(target, Mesh(np.empty((0, 3)), np.empty((0, 3), np.int64)))
    assert target.getvalue().endswith(b"POINTS 0 double\nPOLYGONS 0 0\n")


def test_a_mesh_knows_what_it_encloses() -> None:
    corner = Mesh(
        np.array([[5.0, 5, 5], [6, 5, 5], [5, 6, 5], [5, 5, 6]]), np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    )
    assert corner.enclosed_mm3 == pytest.approx(1 / 6)
    assert Mesh(corner.vertices, corner.triangles[:, ::-1]).enclosed_mm3 == pytest.approx(-1 / 6)


@pytest.mark.parametrize(
    ("vertices", "triangles"),
    [
        (np.zeros((3, 2)), np.array([[0, 1, 2]])),
        (np.zeros((3, 3)), np.array([0, 1, 2])),
        (np.full((3, 3), np.nan), np.array([[0, 1, 2]])),
        (np.zeros((3, 3)), np.array([[0, 1, 3]])),
        (np.zeros((3, 3)), np.array([[0, 1, -1]])),
    ],
)
def test_what_is_no_mesh_is_refused(vertices: np.ndarray, triangles: np.ndarray) -> None:
    with pytest.raises(ValueError, match="mesh"):
        Mesh(vertices, triangles)
