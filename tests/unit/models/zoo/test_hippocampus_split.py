"""The hippocampus bundle: who is in its test set, how it is scored, and that its files agree."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml

from inference_server.models.zoo.hippocampus.cases import BUNDLE, split_cases
from inference_server.models.zoo.hippocampus.evaluate import dice, table
from inference_server.models.zoo.hippocampus.example import main as make_example

DATA = Path(os.environ.get("INFERENCE_SERVER_TEST_DATA", Path(__file__).parents[5] / "shared" / "data"))
CASES = DATA / "labelled" / "msd_task04_hippocampus"


def make_folder(folder: Path, numbers: list[int]) -> Path:
    (folder / "imagesTr").mkdir()
    for number in numbers:
        (folder / "imagesTr" / f"hippocampus_{number:03}.nii.gz").touch()
    return folder


def names(cases: list) -> list[str]:
    return [case.image.name[12:15] for case in cases]


def test_every_fourth_name_is_a_test_case_in_whatever_order_the_files_were_made(tmp_path):
    training, test = split_cases(make_folder(tmp_path, [90, 5, 30, 7, 1, 12, 44, 8, 60]))
    assert names(test) == ["008", "060"]
    assert names(training) == ["001", "005", "007", "012", "030", "044", "090"]


def test_a_folder_without_cases_is_named_in_the_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"imagesTr/hippocampus_\*"):
        split_cases(make_folder(tmp_path, []))


@pytest.mark.skipif(not CASES.is_dir(), reason=f"the labelled hippocampus cases are not at {CASES}")
def test_the_real_cases_give_150_to_train_and_50_to_test():
    training, test = split_cases(CASES)
    assert (len(training), len(test)) == (150, 50)
    assert names(test)[:3] == ["007", "015", "025"]
    assert not set(names(training)) & set(names(test))
    assert set(np.unique(test[0].read_label())) == {0, 1, 2}


def test_dice_counts_twice_the_overlap_over_both_sizes():
    found, truth = np.array([1, 1, 1, 0, 2]), np.array([1, 1, 0, 0, 1])
    assert dice(found, truth, 1) == pytest.approx(4 / 6)
    assert dice(found, truth, 2) == 0.0


def test_the_table_shows_mean_deviation_median_and_least():
    scores = {"float32": np.array([[0.5, 0.8], [0.9, 0.8], [1.0, 0.8]])}
    lines = table(scores).splitlines()
    assert lines[2] == "| float32 | anterior | 0.8000 | 0.2646 | 0.9000 | 0.5000 |"
    assert lines[3] == "| float32 | posterior | 0.8000 | 0.0000 | 0.8000 | 0.8000 |"


def test_manifest_metadata_and_network_agree_on_the_classes():
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
    config = json.loads((BUNDLE / "configs" / "inference.json").read_text())
    declared = yaml.safe_load((BUNDLE / "model.yaml").read_text())["labels"]
    output = metadata["network_data_format"]["outputs"]["pred"]
    assert {value: label["name"] for value, label in declared.items()} == {1: "anterior", 2: "posterior"}
    assert output["channel_def"] == {"0": "background", "1": "anterior", "2": "posterior"}
    assert output["num_channels"] == config["network_def"]["out_channels"] == 3
    assert output["spatial_shape"] == config["inferer"]["roi_size"]


def test_the_shipped_example_is_what_its_script_draws(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["example", "--out", str(tmp_path / "drawn.nii.gz")])
    make_example()
    drawn, shipped = nibabel.load(tmp_path / "drawn.nii.gz"), nibabel.load(BUNDLE / "example.nii.gz")
    assert np.array_equal(np.asarray(drawn.dataobj), np.asarray(shipped.dataobj))
    assert np.array_equal(drawn.affine, shipped.affine)
