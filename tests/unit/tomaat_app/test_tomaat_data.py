"""What an app gets of a case, and what becomes of its answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from inference_server.errors import PredictionError
from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.answer import as_result
from inference_server.models.case import Case, Result
from inference_server.models.manifest import parse_manifest
from inference_server.tomaat_app.answers import result_of
from inference_server.tomaat_app.given import data_of
from inference_server.tomaat_app.images import label_image, volume_of
from inference_server.tomaat_app.interface import check_inputs, check_outputs

OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0)
GRID = Geometry((3, 4, 5), (0.7, 1.1, 2.5), (-12.5, 30.0, 7.25), OBLIQUE)
VALUES = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
TIPS_LPS = np.array([[1.0, -2.0, 3.0], [0.0, 0.5, -0.25]])
TIPS_RAS = [[-1.0, 2.0, 3.0], [0.0, -0.5, -0.25]]
INPUTS = check_inputs(
    [
        {"type": "volume", "destination": "images"},
        {"type": "slider", "destination": "level", "minimum": 0, "maximum": 9},
        {"type": "checkbox", "destination": "ras", "text": "RAS?"},
        {"type": "radiobutton", "destination": "unit", "text": "Unit", "options": ["mm", "m"]},
        {"type": "fiducials", "destination": "tips"},
        {"type": "transform", "destination": "start"},
    ]
)
SHIFT = sitk.TranslationTransform(3, (1.0, 2.0, 3.0))


def field_transform() -> sitk.DisplacementFieldTransform:
    field = sitk.GetImageFromArray(np.full((2, 2, 2, 3), (1.0, 2.0, 3.0)), isVector=True)
    field.SetOrigin((5.0, 6.0, 7.0))
    return sitk.DisplacementFieldTransform(field)


def case(transform: sitk.Transform = SHIFT, array: Any = VALUES, **parameters: Any) -> Case:
    return Case(
        {"images": Volume(array, GRID)},
        points={"tips": TIPS_LPS},
        transforms={"start": transform},
        parameters={"level": 3, "ras": True, "unit": "m", **parameters},
    )


def test_an_app_gets_one_element_for_each_input() -> None:
    data = data_of(case(), INPUTS)
    assert {name: len(value) for name, value in data.items()} == dict.fromkeys(data, 1)
    [image] = data["images"]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), VALUES)
    assert image.GetPixelID() == sitk.sitkInt16
    assert (image.GetSpacing(), image.GetOrigin(), image.GetDirection()) == (GRID.spacing_mm, GRID.origin_mm, OBLIQUE)
    assert (data["level"], data["ras"], data["unit"]) == ([3.0], ["True"], ["m"])
    assert data["tips"][0].tolist() == TIPS_RAS
    assert data["start"][0].TransformPoint((0.0, 0.0, 0.0)) == (1.0, 2.0, 3.0)


def test_a_box_that_is_not_checked_is_the_text_false() -> None:
    assert data_of(case(ras=False), INPUTS)["ras"] == ["False"]


@pytest.mark.parametrize("dtype", [">i2", "<f4", "?", "f2", "u2"])
def test_an_app_gets_images_of_every_type_with_their_values(dtype: str) -> None:
    [image] = data_of(case(array=VALUES.astype(dtype)), INPUTS)["images"]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), VALUES.astype(dtype))


def test_a_displacement_field_comes_as_the_image_of_its_vectors() -> None:
    [field] = data_of(case(field_transform()), INPUTS)["start"]
    assert isinstance(field, sitk.Image)
    assert (field.GetSize(), field.GetOrigin()) == ((2, 2, 2), (5.0, 6.0, 7.0))
    assert field.GetPixel(1, 0, 1) == (1.0, 2.0, 3.0)


def test_images_and_transforms_come_as_files_where_the_config_says_so(tmp_path: Path) -> None:
    data = data_of(case(), INPUTS, lambda: tmp_path, as_files=True)
    image = sitk.ReadImage(data["images"][0])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), VALUES)
    assert sitk.ReadTransform(data["start"][0]).TransformPoint((0.0, 0.0, 0.0)) == (1.0, 2.0, 3.0)
    assert data["level"] == [3.0]
    (tmp_path / "other").mkdir()
    field = data_of(case(field_transform()), INPUTS, lambda: tmp_path / "other", as_files=True)["start"][0]
    assert sitk.ReadImage(field).GetPixel(0, 0, 0) == (1.0, 2.0, 3.0)


def answered(kind: str, value: Any, label: str | None = None) -> Result:
    outputs = check_outputs([{"type": kind, "field": "x", **({"label": label} if label else {})}], INPUTS)
    return result_of({"x": value}, outputs, case())


def checked(result: Result) -> Result:
    """Return a result as the worker checks it, for a model without labels in its manifest."""
    manifest = parse_manifest({"id": "app", "runtime": "python-app", "app": "app.py:app"})
    return as_result(result, case(), manifest)


def image(array: Any = VALUES) -> sitk.Image:
    found = sitk.GetImageFromArray(array)
    found.SetSpacing(GRID.spacing_mm)
    found.SetOrigin(GRID.origin_mm)
    found.SetDirection(GRID.direction)
    return found


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float64])
def test_labels_come_back_on_the_images_grid_whatever_their_type(dtype: Any) -> None:
    labels = (VALUES > 30).astype(dtype) * 7
    [segmentation] = checked(answered("LabelVolume", [image(labels)], label="Liver")).segmentations
    np.testing.assert_array_equal(segmentation.labels.array, labels)
    assert segmentation.labels.array.dtype == np.uint8
    assert (segmentation.name, segmentation.names[7].name) == ("Liver", "Liver")


def test_labels_may_be_an_array_and_need_no_list() -> None:
    for labels in (VALUES > 30, VALUES):
        [segmentation] = checked(answered("LabelVolume", labels)).segmentations
        np.testing.assert_array_equal(segmentation.labels.array, labels)
    assert segmentation.names[59].name == "x 59"


def test_no_label_at_all_is_an_answer() -> None:
    [segmentation] = checked(answered("LabelVolume", image(0 * VALUES))).segmentations
    assert segmentation.labels.array.max() == 0


def test_labels_on_another_grid_are_brought_onto_the_images() -> None:
    """A finer grid whose voxels are halves of the image's along x: each voxel's centre is in no doubt."""
    fine = GRID.refined((1, 1, 3))
    labels = np.repeat(VALUES, 3, axis=2).astype(np.uint8)
    given = image(labels)
    given.SetSpacing(fine.spacing_mm)
    given.SetOrigin(fine.origin_mm)
    [segmentation] = checked(answered("LabelVolume", [given])).segmentations
    np.testing.assert_array_equal(segmentation.labels.array, VALUES)


def test_texts_points_meshes_and_transforms_get_the_name_that_the_client_sees() -> None:
    outputs = check_outputs(
        [
            {"type": "PlainText", "field": "x", "label": "Report"},
            {"type": "Fiducials", "field": "tips"},
            {"type": "VTKMesh", "field": "surface"},
            {"type": "TransformLinear", "field": "x2", "label": "T"},
        ],
        INPUTS,
    )
    triangle = ([[1, 2, 3], [4, 5, 6], [7, 8, 10]], [[0, 1, 2]])
    answer = {"x": [4.5], "tips": [np.array(TIPS_RAS)], "surface": [triangle], "x2": [SHIFT]}
    result = checked(result_of(answer, outputs, case()))
    assert result.texts == {"Report": "4.5"}
    assert {name: points.tolist() for name, points in result.points.items()} == {"tips": TIPS_LPS.tolist()}
    assert result.meshes["surface"].vertices.tolist() == [[-1, -2, 3], [-4, -5, 6], [-7, -8, 10]]
    assert result.transforms["T"].TransformPoint((0.0, 0.0, 0.0)) == (1.0, 2.0, 3.0)


def test_a_surface_of_vtk_is_taken_in_the_coordinates_of_slicer() -> None:
    from vtkmodules.vtkFiltersSources import vtkCubeSource

    cube = vtkCubeSource()
    cube.SetBounds(1, 2, 10, 20, 100, 200)
    cube.Update()
    mesh = answered("VTKMesh", [cube.GetOutput()]).meshes["x"]
    np.testing.assert_allclose([mesh.vertices.min(0), mesh.vertices.max(0)], [[-2, -20, 100], [-1, -10, 200]])
    assert mesh.enclosed_mm3 == pytest.approx(1000)


def test_no_points_are_an_answer() -> None:
    assert answered("Fiducials", [[]]).points["x"].shape == (0, 3)


def test_a_transform_is_of_the_kind_that_the_interface_says() -> None:
    field = field_transform().GetDisplacementField()
    spline = sitk.BSplineTransformInitializer(sitk.Image(4, 4, 4, sitk.sitkUInt8), (2, 2, 2))
    grids = [answered("TransformGrid", [given]).transforms["x"] for given in (field, field_transform())]
    assert [grid.TransformPoint((5.5, 6.5, 7.5)) for grid in grids] == 2 * [(6.5, 8.5, 10.5)]
    assert field.GetSize() == (2, 2, 2)  # its content was not taken away
    assert answered("TransformBSpline", [spline]).transforms["x"].GetName() == "BSplineTransform"
    for kind, given in (("TransformGrid", SHIFT), ("TransformBSpline", SHIFT), ("TransformLinear", field)):
        with pytest.raises(PredictionError, match=f"is no {kind}: "):
            answered(kind, [given])


@pytest.mark.parametrize(
    ("kind", "value", "sentence"),
    [
        ("LabelVolume", [image(VALUES - 1)], "whole numbers from 0 to 65535 was expected"),
        ("LabelVolume", [image(VALUES * np.nan)], "whole numbers from 0 to 65535 was expected"),
        ("LabelVolume", [image(VALUES * 0.5)], "an image of whole numbers was expected"),
        ("LabelVolume", [VALUES[:2]], "an image of SimpleITK, or an array of the image's size, was expected"),
        ("LabelVolume", ["none"], "an image of SimpleITK, or an array"),
        ("LabelVolume", [image(), image()], "has 2 values; one was expected"),
        ("LabelVolume", [sitk.Image(4, 4, sitk.sitkUInt8)], "labels that are no 3-D image of single numbers"),
        ("Fiducials", [[[1.0, 2.0]]], "an array \\(N, 3\\) of finite points was expected"),
        ("Fiducials", [[[1.0, 2.0, np.inf]]], "an array \\(N, 3\\) of finite points was expected"),
        ("Fiducials", ["1,2,3"], "an array \\(N, 3\\) of points was expected"),
        ("VTKMesh", [([[0, 0, 0]], [[0, 1, 2]])], "a vtkPolyData, or vertices"),
        ("TransformLinear", [np.eye(4)], "a linear transform of SimpleITK's"),
        ("TransformLinear", [sitk.TranslationTransform(2)], "a linear transform of SimpleITK's"),
    ],
)
def test_an_answer_of_another_kind_fails_the_task_in_words(kind: str, value: Any, sentence: str) -> None:
    with pytest.raises(PredictionError, match=sentence):
        answered(kind, value)


def test_an_answer_without_a_field_of_the_interface_fails_the_task_in_words() -> None:
    outputs = check_outputs([{"type": "PlainText", "field": "report"}], INPUTS)
    with pytest.raises(PredictionError, match="The app gave no 'report'"):
        result_of({"x": [1]}, outputs, case())


def test_an_array_becomes_an_image_where_another_one_lies() -> None:
    found = label_image(VALUES + 200, image())
    assert found.GetPixelID() == sitk.sitkUInt16
    assert volume_of(found).geometry == GRID
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), VALUES + 200)
