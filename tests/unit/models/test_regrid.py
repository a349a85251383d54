"""Labels brought onto another grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nifti_files import GEOMETRY_BYTES, affine, nifti, oblique

from inference_server.imaging.nifti_header import NiftiHeader, parse_header
from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.case import Case, Report, Result, Segmentation
from inference_server.models.manifest import LabelName
from inference_server.models.regrid import MOVED, on_labels_grid

NAMES = {1: LabelName(name="ONE"), 65_535: LabelName(name="LAST")}


def header(shape: tuple[int, int, int], matrix: np.ndarray) -> NiftiHeader:
    """Return the header of an image of `shape` (x, y, z)."""
    return parse_header(nifti(np.zeros(shape, np.uint8), matrix)[:348])


def labels(geometry: Geometry, dtype: type = np.uint16) -> np.ndarray:
    random = np.random.default_rng(5)
    return random.choice(np.array([0, 1, np.iinfo(dtype).max], dtype), geometry.shape)


def moved(array: np.ndarray, geometry: Geometry, target: NiftiHeader) -> Volume:
    case = Case({"image": Volume(np.zeros(geometry.shape, np.int16), geometry)}, labels_grid=target)
    result = Result((Segmentation("organs", Volume(array, geometry), NAMES),), report=Report(notes=("Before.",)))
    found = on_labels_grid(result, case)
    (one,) = found.segmentations
    assert (one.name, one.names, found.report.notes) == ("organs", NAMES, ("Before.", MOVED))
    assert (one.labels.geometry, case.result_grid) == (target.geometry, target.geometry)
    assert one.labels.array.dtype == array.dtype
    assert one.labels.nifti_header is not None
    assert [one.labels.nifti_header[part] for part in GEOMETRY_BYTES] == [target.raw[part] for part in GEOMETRY_BYTES]
    return one.labels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("matrix", [affine(np.eye(3)), oblique(3)])
def test_labels_of_the_same_grid_stay_as_they_are(dtype: type, matrix: np.ndarray) -> None:
    grid = header((7, 6, 5), matrix)
    array = labels(grid.geometry, dtype)
    array.flags.writeable = False
    np.testing.assert_array_equal(moved(array, grid.geometry, grid).array, array)


def shifted(x: float, y: float, z: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = (x, y, z)
    return matrix


CHANGES: dict[str, tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]] = {
    "half as large voxels": (  # the first of which has its centre a quarter of a voxel before the other's
        shifted(-0.25, -0.25, -0.25) @ np.diag([0.5, 0.5, 0.5, 1]),
        lambda array: np.kron(array, np.ones((2, 2, 2), array.dtype)),
    ),
    "the other way round": (shifted(6, 0, 0) @ np.diag([-1.0, 1, 1, 1]), lambda array: array[:, :, ::-1]),
    "two voxels further": (
        shifted(2, 0, 0),
        lambda array: np.concatenate([array[:, :, 2:], np.zeros_like(array[:, :, :2])], 2),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_world_positions_are_kept_and_outside_is_background(change: str) -> None:
    matrix, expected = CHANGES[change]
    source = header((7, 6, 5), affine(np.eye(3)))
    array = labels(source.geometry)
    wanted = expected(array)
    x, y, z = wanted.shape[::-1]
    target = header((x, y, z), affine(np.eye(3)) @ matrix)
    np.testing.assert_array_equal(moved(array, source.geometry, target).array, wanted)


def test_an_oblique_grid_gets_what_simpleitk_finds() -> None:
    source, target = header((14, 12, 10), affine(np.eye(3))), header((11, 13, 12), affine(np.eye(3)) @ _turned())
    array = labels(source.geometry)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(source.geometry.spacing_mm)
    image.SetOrigin(source.geometry.origin_mm)
    image.SetDirection(source.geometry.direction)
    like = sitk.Image([11, 13, 12], sitk.sitkUInt8)
    like.SetSpacing(target.geometry.spacing_mm)
    like.SetOrigin(target.geometry.origin_mm)
    like.SetDirection(target.geometry.direction)
    expected = sitk.GetArrayFromImage(sitk.Resample(image, like, sitk.Transform(), sitk.sitkNearestNeighbor, 0))
    found = moved(array, source.geometry, target).array
    assert (found > 0).mean() > 0.2
    # A hundredth of a voxel beside an edge the two may see it on different sides.
    assert (found != expected).mean() < 0.01


def _turned() -> np.ndarray:
    angle = np.deg2rad(20)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    spacing = np.array([0.7, 1.3, 2.9])
    matrix[:3, :3] = np.diag(1 / spacing) @ matrix[:3, :3] @ np.diag(spacing)
    matrix[:3, 3] = (1.3, 0.4, -0.3)
    return matrix


def test_a_case_that_wants_no_other_grid_gets_the_result_as_it_is() -> None:
    geometry = Geometry((5, 6, 7))
    case = Case({"image": Volume(np.zeros(geometry.shape, np.int16), geometry)})
    result = Result((Segmentation("organs", Volume(labels(geometry), geometry), NAMES),))
    assert on_labels_grid(result, case) is result
    wanting = replace(case, labels_grid=header((2, 2, 2), affine(np.eye(3))))
    texts = Result(texts={"said": "nothing"})
    assert on_labels_grid(texts, wanting) is texts
