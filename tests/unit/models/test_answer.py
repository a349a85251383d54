"""What an app returns becomes a result, or a sentence that says what is wrong with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from bundles import axis_geometry

from inference_server.errors import PredictionError
from inference_server.imaging.volume import Volume
from inference_server.models.answer import as_result
from inference_server.models.case import Case, Result, Segmentation
from inference_server.models.manifest import LabelName, Manifest
from inference_server.models.mesh import Mesh

GRID = (2, 3, 4)
GEOMETRY = axis_geometry("RAS", GRID)
CASE = Case({"image": Volume(np.zeros(GRID, np.float32), GEOMETRY)}, scaling_factor=(1, 2, 1))
LABELS = {1: LabelName(name="liver"), 300: LabelName(name="spleen")}


SQUARE = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), np.array([[0, 1, 2], [0, 2, 3]]))


def manifest(**parts: Any) -> Manifest:
    return Manifest(id="app", **{"labels": LABELS, **parts})


def corner(dtype: str = "uint8", value: int = 1, shape: tuple[int, ...] = GRID) -> np.ndarray:
    array = np.zeros(shape, dtype)
    array[0, 1, 2] = value
    return array


def test_labels_on_the_inputs_grid_are_repeated_on_the_contour_grid() -> None:
    [found] = as_result(corner("int64"), CASE, manifest()).segmentations
    assert found.labels.geometry == GEOMETRY.refined((1, 2, 1))
    assert [tuple(place) for place in np.argwhere(found.labels.array)] == [(0, 2, 2), (0, 3, 2)]
    assert found.labels.array.dtype == np.uint8
    assert found.names == LABELS


def test_labels_on_the_contour_grid_stay_as_they_are() -> None:
    [found] = as_result(corner("int16", 300, (2, 6, 4)), CASE, manifest()).segmentations
    assert [tuple(place) for place in np.argwhere(found.labels.array)] == [(0, 1, 2)]
    assert (found.labels.array.dtype, found.labels.array.max()) == (np.uint16, 300)


def test_a_mapping_holds_structures_segmentations_texts_classes_and_points() -> None:
    answer = {
        "spleen": corner("bool"),
        "both": torch.from_numpy(corner("int32", 300)),
        "remark": "clear",
        "malignant": np.float32(0.25),
        "tip": np.array([[1, 2, 3]]),
    }
    result = as_result(answer, CASE, manifest())
    spleen, both = result.segmentations
    assert (spleen.name, spleen.names) == ("spleen", {300: LABELS[300]})
    assert set(np.unique(spleen.labels.array)) == {0, 300}
    assert (both.name, both.names) == ("both", LABELS)
    assert result.texts == {"remark": "clear"}
    assert result.classifications == {"malignant": 0.25}
    np.testing.assert_array_equal(result.points["tip"], [[1.0, 2.0, 3.0]])


def test_meshes_and_transforms_are_known_by_what_they_are() -> None:
    from vtkmodules.vtkFiltersSources import vtkCubeSource

    cube = vtkCubeSource()
    cube.Update()
    shift = sitk.TranslationTransform(3)
    result = as_result({"a": SQUARE, "b": cube.GetOutput(), "c": shift}, CASE, manifest())
    assert (result.meshes["a"], result.transforms["c"]) == (SQUARE, shift)
    assert result.meshes["b"].enclosed_mm3 == pytest.approx(1)
    whole = as_result(Result(meshes={"b": cube.GetOutput()}), CASE, manifest())  # type: ignore[dict-item]
    assert len(whole.meshes["b"].triangles) == 12


def test_without_labels_in_the_manifest_names_are_the_apps() -> None:
    mask, numbers = as_result({"x": corner("bool"), "y": corner(value=2)}, CASE, manifest(labels={})).segmentations
    assert mask.names == {1: LabelName(name="x")}
    assert {value: label.name for value, label in numbers.names.items()} == {1: "class 1", 2: "class 2"}


def test_a_whole_result_is_brought_onto_the_grid() -> None:
    given = Result((Segmentation("any", Volume(corner("int64"), GEOMETRY), {1: LabelName(name="mine")}),))
    [found] = as_result(given, CASE, manifest()).segmentations
    assert found.labels.array.shape == (2, 6, 4)
    assert (found.name, found.names[1].name, found.labels.array.dtype) == ("any", "mine", np.uint8)


def test_classes_come_in_the_order_of_the_manifest() -> None:
    classes = manifest(kind="classification", classes=("a", "b"))
    assert list(as_result({"b": 1, "a": 0.5}, CASE, classes).classifications.items()) == [("a", 0.5), ("b", 1.0)]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (
            corner(shape=(2, 4, 4)),
            r"gave labels of \(2, 4, 4\) voxels \(z, y, x\); \(2, 3, 4\) or, on the contour grid",
        ),
        (corner("float32"), "labels of the type float32; whole numbers"),
        (np.zeros((0, 3, 4), np.uint8), "whole numbers"),
        (corner("int8", -1), "labels from -1 to 0; 0 to 65535"),
        (corner("int32", 70_000), "labels from 0 to 70000"),
        (corner(value=2), "the label 2, which its manifest does not name"),
        ({"kidney": corner("bool")}, "the structure 'kidney', which its manifest does not name"),
        (None, "returned a NoneType; a Result, an array of labels"),
        ({"liver": None}, "returned a NoneType"),
        ({"p": 1.5}, "gave 1.5 as a probability"),
        ({"p": float("nan")}, "gave nan as a probability"),
        ({"tip": np.zeros((2, 2))}, r"'tip' as points; an array \(N, 3\)"),
        ({"tip": np.full((1, 3), np.inf)}, "'tip' as points"),
        (Result(meshes={"skin": "x"}), "'skin' as a mesh; a Mesh or a vtkPolyData"),  # type: ignore[dict-item]
        ({"shift": sitk.TranslationTransform(2)}, "'shift' as a transform; one of SimpleITK, of three dimensions"),
        (Result(transforms={"shift": np.eye(4)}), "'shift' as a transform"),
        (Result((Segmentation("a", Volume(corner(), GEOMETRY), {5: LabelName(name="x")}),)), "the label 1, which"),
        (Result((Segmentation("a", Volume(corner(), GEOMETRY), LABELS),) * 2), "two segmentations of one name"),
        (Volume(corner(), axis_geometry("LPS", GRID)), "lie elsewhere than the image"),
        (Result((Segmentation("a", Volume(corner(), axis_geometry("LPS", GRID)), LABELS),)), "lie elsewhere"),
    ],
)
def test_what_cannot_be_a_result_is_explained(answer: object, sentence: str) -> None:
    with pytest.raises(PredictionError, match=sentence):
        as_result(answer, CASE, manifest())


def test_a_classification_has_all_its_classes_and_no_others() -> None:
    classes = manifest(kind="classification", classes=("a", "b"))
    with pytest.raises(PredictionError, match="no probability for some class of: a, b"):
        as_result({"a": 1.0}, CASE, classes)
    with pytest.raises(PredictionError, match="the class 'c', which its manifest does not name"):
        as_result({"a": 1.0, "c": 0.0}, CASE, manifest(classes=("a", "b")))


def test_labels_need_an_image_to_lie_on() -> None:
    with pytest.raises(PredictionError, match="no image"):
        as_result(corner(), Case({}), manifest())
    assert as_result({"a": SQUARE, "t": "x"}, Case({}), manifest()).texts == {"t": "x"}
