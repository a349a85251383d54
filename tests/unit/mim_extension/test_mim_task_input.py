"""The input zip that the extension writes, member by member."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import SimpleITK

from mim_extension.errors import InputError
from mim_extension.task_input import TaskInput, read_scaling_factor
from mim_extension.testing.mim_objects import MimImage

SPACING = (0.9, 1.1, 3.0)
ORIGIN = (-120.5, 30.25, 55.0)
DIRECTION = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def make_image(array: np.ndarray | None = None, **changes: object) -> MimImage:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4) - 12 if array is None else array
    geometry = {"spacing": SPACING, "origin": ORIGIN, "direction": DIRECTION}
    return MimImage(array, **{**geometry, **changes})


def read_members(task_input: TaskInput) -> dict[str, bytes]:
    with task_input.as_zip() as path, ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def read_volume(content: bytes, folder: Path) -> SimpleITK.Image:
    path = folder / "volume.nii.gz"
    path.write_bytes(content)
    return SimpleITK.ReadImage(str(path))


def draw(image: MimImage, name: str, voxel: tuple[int, int, int]) -> None:
    contour = image.createNewContour(name)
    mask = np.zeros(contour.getDims(), dtype=bool)
    mask[voxel] = True
    contour.getData().setFromNPArray(mask)


def test_one_image_gives_its_volume_and_its_meta_in_both_forms():
    members = read_members(TaskInput("ct-body", [make_image()]))

    assert sorted(members) == ["meta.json", "tmp_0000.meta.json", "tmp_0000.nii.gz"]
    assert json.loads(members["meta.json"]) == {"scaling_factor": [1, 2, 2], "spacing": [0.9, 1.1, 3.0]}
    assert json.loads(members["tmp_0000.meta.json"]) == {
        "scaling_factor": [1, 2, 2],
        "spacing": [0.9, 1.1, 3.0],
        "origin": [-120.5, 30.25, 55.0],
        "direction": list(DIRECTION),
    }


def test_the_volume_keeps_voxels_spacing_and_origin_and_leaves_the_direction_at_identity(tmp_path):
    image = make_image()
    volume = read_volume(read_members(TaskInput("m", [image]))["tmp_0000.nii.gz"], tmp_path)

    assert np.array_equal(SimpleITK.GetArrayFromImage(volume), image.getRawData().copyToNPArray())
    assert volume.GetSpacing() == pytest.approx(SPACING, abs=1e-6)
    assert volume.GetOrigin() == pytest.approx(ORIGIN, abs=1e-4)
    assert volume.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)


@pytest.mark.parametrize(
    ("dtype", "written"),
    [
        ("int16", "int16"),
        ("uint16", "uint16"),
        (">i2", "int16"),
        ("int32", "int32"),
        ("int64", "int32"),
        ("uint32", "int32"),
        ("float16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
        ("bool", "uint8"),
    ],
)
def test_every_voxel_type_of_mim_arrives_without_losing_a_value(dtype, written, tmp_path):
    array = (np.arange(24) % 2).reshape(2, 3, 4).astype(dtype)
    volume = read_volume(read_members(TaskInput("m", [make_image(array)]))["tmp_0000.nii.gz"], tmp_path)
    result = SimpleITK.GetArrayFromImage(volume)

    assert result.dtype == written
    assert np.array_equal(result, array.astype(written))


def test_integers_too_large_for_32_bits_become_doubles(tmp_path):
    array = np.full((2, 2, 2), 2**40, dtype=np.int64)
    volume = read_volume(read_members(TaskInput("m", [make_image(array)]))["tmp_0000.nii.gz"], tmp_path)

    assert SimpleITK.GetArrayFromImage(volume).tolist() == array.tolist()


def test_four_images_are_numbered_in_their_order(tmp_path):
    images = [make_image(np.full((2, 3, 4), value, dtype=np.int16)) for value in (10, 11, 12, 13)]
    members = read_members(TaskInput("m", images))

    for index, value in enumerate((10, 11, 12, 13)):
        volume = read_volume(members[f"tmp_000{index}.nii.gz"], tmp_path)
        assert SimpleITK.GetArrayFromImage(volume)[0, 0, 0] == value
        assert f"tmp_000{index}.meta.json" in members
    assert [name for name in members if name.endswith("meta.json") and not name.startswith("tmp")] == ["meta.json"]


def test_dicom_info_is_sent_only_when_asked_for():
    image = make_image(dicom_info={0x00080060: "CT", 0x00180050: 3.0})

    assert "tmp_0000.dicom_info.json" not in read_members(TaskInput("m", [image]))
    members = read_members(TaskInput("m", [image], export_dicom_info=True))
    assert json.loads(members["tmp_0000.dicom_info.json"]) == {"524384": "CT", "1572944": "3.0"}


def test_a_contour_goes_out_on_the_contour_grid_with_its_description(tmp_path):
    image = make_image()
    draw(image, "GTVt", (1, 4, 7))
    members = read_members(TaskInput("m", [image], contour_names=["GTVt"]))
    volume = read_volume(members["contour_0000.nii.gz"], tmp_path)
    description = json.loads(members["contour_0000.json"])

    assert np.argwhere(SimpleITK.GetArrayFromImage(volume)).tolist() == [[1, 4, 7]]
    assert volume.GetSpacing() == pytest.approx((0.45, 0.55, 3.0), abs=1e-6)
    assert description["name"] == "GTVt"
    assert description["dimensions"] == [2, 6, 8]
    assert description["multiplier"] == [1, 2, 2]
    assert description["spacing"] == [0.45, 0.55, 3.0]
    # With the direction above, x of the grid runs along -y of the world and y along x.
    assert description["origin"] == pytest.approx([-120.5 - 0.275, 30.25 + 0.225, 55.0])
    assert description["direction"] == list(DIRECTION)


def test_no_list_of_names_means_no_contours_and_an_empty_one_means_all():
    image = make_image()
    draw(image, "A", (0, 0, 0))
    draw(image, "B", (0, 0, 1))

    assert not [name for name in read_members(TaskInput("m", [image])) if name.startswith("contour")]
    members = read_members(TaskInput("m", [image], contour_names=[]))
    names = [json.loads(members[f"contour_000{index}.json"])["name"] for index in (0, 1)]
    assert names == ["A", "B"]


def test_hostile_contour_names_become_no_file_names():
    image = make_image()
    for index, name in enumerate(["../../etc/passwd", "tmp_0000", "Doe^Jane", "meta", "a/b", "A", "a"]):
        draw(image, name, (0, 0, index))
    members = read_members(TaskInput("m", [image], contour_names=[]))
    contour_members = sorted(name for name in members if name.startswith("contour"))

    assert len(members) == 3 + 14
    assert contour_members == sorted(f"contour_000{i}{ending}" for i in range(7) for ending in (".json", ".nii.gz"))


def test_an_unknown_contour_is_refused_by_its_name():
    with pytest.raises(InputError, match=r"Image 1 has no contour named 'GTVx'"):
        read_members(TaskInput("m", [make_image()], contour_names=["GTVx"]))


def test_reading_the_scaling_factor_leaves_no_contour_behind():
    image = make_image(scaling_factor=(2, 3, 4))
    draw(image, "inference_server_grid", (0, 0, 0))

    assert read_scaling_factor(image) == [2, 3, 4]
    assert [contour.getInfo().getName() for contour in image.getContours()] == ["inference_server_grid"]


def test_a_contour_grid_that_is_no_multiple_is_refused_and_leaves_no_contour_behind():
    image = make_image(scaling_factor=(1, 2, 0))
    with pytest.raises(InputError, match="not a whole multiple"):
        read_scaling_factor(image)
    assert image.getContours() == []


def test_images_of_different_shapes_are_refused_with_both_shapes():
    images = [make_image(), make_image(np.zeros((2, 3, 5), dtype=np.int16))]
    with pytest.raises(InputError, match=r"Image 2 has 2 × 3 × 5 voxels, image 1 has 2 × 3 × 4"):
        read_members(TaskInput("m", images))


@pytest.mark.parametrize("count", [0, 5])
def test_a_case_has_one_to_four_images(count):
    with pytest.raises(InputError, match="one to 4 images"):
        read_members(TaskInput("m", [make_image()] * count))


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_image_is_named(missing):
    images = [make_image(), make_image()]
    images[missing] = None
    with pytest.raises(InputError, match=f"Image {missing + 1} is missing"):
        read_members(TaskInput("m", images))


def test_an_image_that_is_not_three_dimensional_is_refused():
    image = make_image()
    image.getRawData()._array = np.zeros((2, 3, 4, 5), dtype=np.int16)
    with pytest.raises(InputError, match="Image 2 is not a 3-D image"):
        read_members(TaskInput("m", [make_image(), image]))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"spacing": (1.0, float("nan"), 1.0)}, "Image 1: its voxel size is not 3 finite numbers"),
        ({"spacing": (1.0, 0.0, 1.0)}, "voxel size of zero"),
        ({"origin": (0.0, float("inf"), 0.0)}, "Image 1: its position is not 3 finite numbers"),
        ({"direction": (1.0, 0.0, 0.0)}, "Image 1: its orientation is not 9 finite numbers"),
    ],
)
def test_unusable_geometry_is_refused_before_anything_is_sent(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        read_members(TaskInput("m", [make_image(**changes)]))


def test_nothing_stays_on_the_disk_whether_it_went_well_or_not(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    read_members(TaskInput("m", [make_image()]))
    with pytest.raises(InputError):
        read_members(TaskInput("m", [make_image(), None]))

    assert list(tmp_path.iterdir()) == []
