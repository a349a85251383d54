"""The result zip as the extension reads it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import SimpleITK

from mim_extension.errors import OutputError
from mim_extension.task_output import TaskOutput

LABELS = np.array([[[0, 1], [2, 1]]], dtype=np.uint8)


def volume_bytes(array: np.ndarray, folder: Path) -> bytes:
    path = folder / "labels.nii.gz"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))
    return path.read_bytes()


def write_zip(folder: Path, members: dict[str, object]) -> Path:
    path = folder / "result.zip"
    with ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, encode(content, folder))
    return path


def encode(content: object, folder: Path) -> bytes | str:
    if isinstance(content, np.ndarray):
        return volume_bytes(content, folder)
    return content if isinstance(content, bytes) else json.dumps(content)


def read(folder: Path, members: dict[str, object]) -> dict[str, np.ndarray]:
    return TaskOutput(write_zip(folder, members)).get_output_as_label_array_dict()


def test_a_pair_gives_one_boolean_array_per_structure(tmp_path):
    arrays = read(tmp_path, {"labels.nii.gz": LABELS, "labels.json": {"1": "GTVt", "2": "CaudaEquina"}})

    assert list(arrays) == ["GTVt", "CaudaEquina"]
    assert all(array.dtype == np.bool_ for array in arrays.values())
    assert arrays["GTVt"].tolist() == [[[False, True], [False, True]]]
    assert arrays["CaudaEquina"].tolist() == [[[False, False], [True, False]]]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
def test_labels_of_any_voxel_type_are_read(dtype, tmp_path):
    arrays = read(tmp_path, {"a.nii.gz": LABELS.astype(dtype), "a.json": {"2": "X"}})
    assert arrays["X"].sum() == 1


def test_structures_of_several_pairs_may_overlap(tmp_path):
    everything = np.ones_like(LABELS)
    arrays = read(
        tmp_path,
        {"a.nii.gz": LABELS, "a.json": {"1": "Lung"}, "b.nii.gz": everything, "b.json": {"1": "Body"}},
    )
    assert arrays["Lung"].sum() == 2
    assert arrays["Body"].all()
    assert (arrays["Lung"] & arrays["Body"]).sum() == 2


def test_a_structure_in_two_pairs_is_their_union(tmp_path):
    arrays = read(
        tmp_path,
        {"a.nii.gz": LABELS, "a.json": {"1": "Bone"}, "b.nii.gz": LABELS, "b.json": {"2": "Bone"}},
    )
    assert arrays["Bone"].tolist() == [[[False, True], [True, True]]]


def test_a_structure_that_no_voxel_has_is_all_false(tmp_path):
    arrays = read(tmp_path, {"a.nii.gz": LABELS, "a.json": {"7": "Spleen"}})
    assert arrays["Spleen"].shape == LABELS.shape
    assert not arrays["Spleen"].any()


def test_other_members_are_passed_over(tmp_path):
    members = {"a.nii.gz": LABELS, "a.json": {"1": "X"}, "report.txt": b"hello", "preview.png": b"\x89PNG"}
    assert list(read(tmp_path, members)) == ["X"]


def test_a_json_without_its_volume_is_refused_by_name(tmp_path):
    with pytest.raises(OutputError, match=r"'report\.json' but has no volume"):
        read(tmp_path, {"a.nii.gz": LABELS, "a.json": {"1": "X"}, "report.json": {"seconds": 1}})


@pytest.mark.parametrize("names", [b"{", b"[1]", b'{"one": "X"}', b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_a_list_of_structures_that_is_none_is_refused(names, tmp_path):
    with pytest.raises(OutputError, match=r"list of structures 'a\.json' of the result cannot be understood"):
        read(tmp_path, {"a.nii.gz": LABELS, "a.json": names})


@pytest.mark.parametrize("name", ["", " ", None, 5])
def test_a_structure_without_a_name_is_refused(name, tmp_path):
    with pytest.raises(OutputError, match="a structure without a name"):
        read(tmp_path, {"a.nii.gz": LABELS, "a.json": {"1": name}})


def test_a_volume_that_is_not_three_dimensional_is_refused(tmp_path):
    with pytest.raises(OutputError, match="not 3-D"):
        read(tmp_path, {"a.nii.gz": np.zeros((2, 2, 2, 2), dtype=np.uint8), "a.json": {"1": "X"}})


@pytest.mark.parametrize("content", [b"", b"<html>Please log in</html>", b"PK\x03\x04 and then nothing"])
def test_what_is_no_zip_is_refused_with_a_sentence(content, tmp_path):
    path = tmp_path / "result.zip"
    path.write_bytes(content)
    with pytest.raises(OutputError, match="The result is damaged or is no result at all"):
        TaskOutput(path).get_output_as_label_array_dict()


def test_a_result_cut_at_any_place_is_refused(tmp_path):
    path = write_zip(tmp_path, {"a.nii.gz": LABELS, "a.json": {"1": "X"}})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(OutputError):
            TaskOutput(path).get_output_as_label_array_dict()


def test_a_volume_that_is_no_nifti_is_refused(tmp_path, capfd):
    with pytest.raises(OutputError, match="damaged"):
        read(tmp_path, {"a.nii.gz": b"not an image", "a.json": {"1": "X"}})


def test_a_member_name_cannot_lead_out_of_the_temporary_folder(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    arrays = read(tmp_path, {"../../evil.nii.gz": LABELS, "../../evil.json": {"1": "X"}})

    assert arrays["X"].sum() == 2
    assert list(scratch.iterdir()) == []
    assert not list(tmp_path.parent.glob("evil*")) + list(tmp_path.glob("evil*"))


def test_structures_come_one_by_one(tmp_path):
    path = write_zip(tmp_path, {"a.nii.gz": LABELS, "a.json": {"1": "X", "2": "Y"}})
    arrays = TaskOutput(path).label_arrays()
    name, array = next(arrays)
    assert (name, int(array.sum())) == ("X", 2)
    assert [name for name, _ in arrays] == ["Y"]
