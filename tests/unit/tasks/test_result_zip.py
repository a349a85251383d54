"""The zip of a result: what a fielded MIM client needs of it, and labels on exactly the input's grid."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from case_zips import ARRAY, LIMITS, image, model, zipped
from nifti_files import GEOMETRY_BYTES, nifti, oblique

from inference_server.errors import InferenceServerError, InvalidVolume, MalformedMessage
from inference_server.imaging.nifti import read_header, refined_header
from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.case import Result, Segmentation
from inference_server.models.manifest import LabelName
from inference_server.models.mesh import Mesh
from inference_server.tasks.case_zip import read_case
from inference_server.tasks.result_zip import read_result, write_result
from mim_extension.task_output import TaskOutput

NAMES = {1: LabelName(name="GTVt", code=None), 2: LabelName(name="Moelle épinière", code=None)}


def segmentation(name: str = "labels", dtype: type = np.uint8, volume: Volume | None = None) -> Segmentation:
    labels = (np.arange(24).reshape(4, 3, 2) % 3).astype(dtype)
    return Segmentation(name, volume or Volume(labels, Geometry((4, 3, 2))), NAMES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "result.zip"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_segmentations_come_back_as_they_were_written(dtype: type, path: Path) -> None:
    written = segmentation(dtype=dtype)
    write_result(path, Result(segmentations=(written,)))
    (back,) = read_result(path)
    assert back.name == "labels"
    assert back.labels.array.dtype == dtype
    assert np.array_equal(back.labels.array, written.labels.array)
    assert back.labels.geometry == written.labels.geometry
    assert {value: label.name for value, label in back.names.items()} == {1: "GTVt", 2: "Moelle épinière"}


def test_the_zip_holds_stored_pairs_and_nothing_else(path: Path) -> None:
    write_result(path, Result(segmentations=(segmentation("a"), segmentation("b")), texts={"note": "hello"}))
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["a.nii.gz", "a.json", "b.nii.gz", "b.json"]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert json.loads(archive.read("a.json")) == {"1": "GTVt", "2": "Moelle épinière"}


def test_a_classification_stands_in_a_table_that_no_client_takes_for_labels(path: Path) -> None:
    write_result(path, Result(classifications={"benign, cystic": 0.75, "malignant": 0.25}))
    assert read_result(path) == ()
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["classifications.csv"]
        assert archive.read("classifications.csv").decode().splitlines() == [
            "class,probability",
            '"benign, cystic",0.75',
            "malignant,0.25",
        ]
    assert TaskOutput(path).get_output_as_label_array_dict() == {}


def test_names_become_file_names_that_differ_on_every_system(path: Path) -> None:
    names = ["GTV/1", "gtv_1", "GTV_1", "..", "", "x" * 300]
    write_result(path, Result(segmentations=tuple(segmentation(name) for name in names)))
    stems = [back.name for back in read_result(path)]
    assert stems == ["GTV_1", "gtv_1_2", "GTV_1_3", "labels", "labels_2", "x" * 100]


def test_a_result_without_segmentations_is_an_empty_zip(path: Path) -> None:
    write_result(path, Result())
    assert read_result(path) == ()


@pytest.mark.parametrize("big_endian", [False, True])
def test_labels_of_a_plain_image_copy_its_geometry_byte_for_byte(big_endian: bool, tmp_path: Path, path: Path) -> None:
    source = nifti(ARRAY.transpose(), oblique(1), big_endian=big_endian)
    case = read_case(zipped(tmp_path / "case.zip", {"tmp_0000.nii": source}), model(), LIMITS, parameters={})
    labels = Volume(np.zeros(ARRAY.shape, np.uint16), case.reference.geometry, case.reference.nifti_header)
    write_result(path, Result(segmentations=(segmentation(volume=labels),)))
    with zipfile.ZipFile(path) as archive, archive.open("labels.nii.gz") as stream:
        raw = read_header(stream).raw  # type: ignore[arg-type]
    assert [raw[part] for part in GEOMETRY_BYTES] == [source[part] for part in GEOMETRY_BYTES]


def test_labels_of_a_mim_image_lie_on_the_files_grid_refined_whatever_its_meta_says(tmp_path: Path, path: Path) -> None:
    meta = {"scaling_factor": [1, 2, 2], "origin": [1, 2, 3], "direction": [0, -1, 0, 1, 0, 0, 0, 0, 1]}
    members = {"tmp_0000.nii.gz": image(), "tmp_0000.meta.json": meta}
    case = read_case(zipped(tmp_path / "case.zip", members), model(), LIMITS, parameters={})
    assert case.reference.nifti_header is not None
    grid = case.reference.geometry.refined(case.scaling_factor)
    header = refined_header(case.reference.nifti_header, case.scaling_factor)
    write_result(
        path, Result(segmentations=(segmentation(volume=Volume(np.ones(grid.shape, np.uint8), grid, header)),))
    )
    with zipfile.ZipFile(path) as archive:
        archive.extract("labels.nii.gz", tmp_path)
    read = sitk.ReadImage(str(tmp_path / "labels.nii.gz"))
    assert read.GetSize() == (4, 6, 4)
    assert read.GetSpacing() == (1.0, 1.0, 3.0)
    assert read.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert read.GetOrigin() == (-0.5, -0.5, 0.0)


def test_labels_that_are_no_labels_are_refused(path: Path) -> None:
    with pytest.raises(InvalidVolume):
        write_result(path, Result(segmentations=(segmentation(dtype=np.float32),)))


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"a.json": {"1": "x"}}, MalformedMessage),
        ({"a.nii.gz": image(), "a.json": {"x": "y"}}, MalformedMessage),
        ({"a.nii.gz": image(), "a.json": {"1": 5}}, MalformedMessage),
        ({"a.nii.gz": image(), "a.json": {"1": "\ud800"}}, MalformedMessage),
        ({"a.nii.gz": image(), "a.json": {"1" * 5000: "x"}}, MalformedMessage),
        ({"a.nii.gz": b"nothing", "a.json": {"1": "x"}}, MalformedMessage),
    ],
)
def test_a_result_that_is_none_is_refused(
    members: dict[str, object], error: type[InferenceServerError], path: Path
) -> None:
    with pytest.raises(error):
        read_result(zipped(path, members))


SQUARE = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), np.array([[0, 1, 2], [0, 2, 3]]))


def test_meshes_and_transforms_are_in_folders_that_mim_passes_over(tmp_path: Path, path: Path) -> None:
    shift = sitk.TranslationTransform(3, (1.0, 2.0, 3.0))
    field = sitk.DisplacementFieldTransform(sitk.Image(3, 3, 3, sitk.sitkVectorFloat64))
    result = Result(
        (segmentation("a"),),
        meshes={"skin/1": SQUARE, "SKIN_1": SQUARE},
        transforms={"shift": shift, "warp": field, "bend": sitk.BSplineTransform(3)},
    )
    contents = write_result(path, result)
    assert [content.record for content in contents] == [
        {"kind": "labels", "name": "a", "member": "a.nii.gz"},
        {"kind": "mesh", "name": "skin/1", "member": "meshes/skin_1.vtk"},
        {"kind": "mesh", "name": "SKIN_1", "member": "meshes/SKIN_1_2.vtk"},
        {"kind": "transform", "name": "shift", "member": "transforms/shift.mat"},
        {"kind": "transform", "name": "warp", "member": "transforms/warp.nii.gz"},
        {"kind": "transform", "name": "bend", "member": "transforms/bend.h5"},
    ]
    with zipfile.ZipFile(path) as archive:
        assert set(archive.namelist()) == {content.member for content in contents} | {"a.json"}
        assert b"SPACE=RAS" in archive.read("meshes/skin_1.vtk")
        archive.extractall(tmp_path)
    back = sitk.ReadTransform(str(tmp_path / "transforms" / "shift.mat"))
    assert back.TransformPoint((0, 0, 0)) == (1, 2, 3)
    assert [one.name for one in read_result(path)] == ["a"]
    assert set(TaskOutput(path).get_output_as_label_array_dict()) == {"GTVt", "Moelle épinière"}


def test_the_surface_of_each_label_is_there_where_it_is_asked_for(path: Path) -> None:
    contents = write_result(path, Result((segmentation("a"), segmentation("b"))), with_surfaces=True)
    assert [(one.name, one.label, one.member) for one in contents if one.kind == "mesh"] == [
        ("a", "GTVt", "meshes/a GTVt.vtk"),
        ("a", "Moelle épinière", "meshes/a Moelle épinière.vtk"),
        ("b", "GTVt", "meshes/b GTVt.vtk"),
        ("b", "Moelle épinière", "meshes/b Moelle épinière.vtk"),
    ]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert not [name for name in archive.namelist() if name.endswith(".json") and "/" in name]
        assert int(re.findall(rb"POLYGONS (\d+)", archive.read("meshes/a GTVt.vtk"))[0]) > 0
