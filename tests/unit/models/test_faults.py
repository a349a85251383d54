"""What is said of a `model.yaml` that is not valid: line, key and expectation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from manifests import refusal

from inference_server.errors import ModelLoadError
from inference_server.models.manifest import parse_manifest
from inference_server.models.registry import Registry

WRITTEN = """\
id: levels
runtime: network
network:
  class: torch.nn.Conv3d
prepare:
  orientation: RAS
  spacing_mm: [1, 1, 1]
  intensity:
    - {step: clip, low: 0, high: 1}
    - step: zscore
labels:
  1: {name: LIVER, color: [1, 2, 3]}
restore: argmax
"""


@pytest.mark.parametrize(
    ("right", "wrong", "sentence"),
    [
        ("labels:", "lables:", "line 11, lables: this key is unknown, did you mean 'labels'?"),
        ("orientation:", "orientatoin:", "line 6, prepare.orientatoin: this key is unknown, did you mean 'orient"),
        ("restore: argmax", "zzz: 1", "line 13, zzz: this key is unknown."),
        ("RAS", "RAX", "line 6, prepare.orientation: three letters were expected"),
        ("[1, 1, 1]", "[1, abc, 1]", "line 7, prepare.spacing_mm.1: Input should be a valid number"),
        ("[1, 1, 1]", "[1, -2, 1]", "Input should be greater than 0; '-2' came"),
        ("step: zscore", "step: zcore", "line 10, prepare.intensity.1: Input tag 'zcore'"),
        ("low: 0, ", "", "line 9, prepare.intensity.0.clip.low: this key is missing"),
        ("color: [1, 2, 3]", "color: [1, 2, 300]", "line 12, labels.1.color.2: Input should be less than"),
        (
            "class: torch.nn.Conv3d",
            "class: ../evil.py:Net",
            "line 4, network.class: `package.module.Class` or `file.py:Class` was",
        ),
        ("argmax", "best", "line 13, restore: 'argmax', 'threshold' or 'labels' was expected; 'best' came"),
    ],
)
def test_a_fault_is_told_with_its_line(right: str, wrong: str, sentence: str) -> None:
    assert parse_manifest(yaml.safe_load(WRITTEN), written=WRITTEN).id == "levels"
    assert sentence in refusal(WRITTEN.replace(right, wrong))


def test_all_faults_are_told_at_once() -> None:
    told = refusal("id: m\nrestore: best\nthreshold: 2\n")
    assert re.search(r"line 2, restore: .*; line 3, threshold: ", told)


def test_a_fault_of_what_stands_in_no_file_has_no_line() -> None:
    with pytest.raises(ModelLoadError, match=r"not valid: threshold: Input should be less than 1; '2' came\."):
        parse_manifest({"id": "m", "threshold": 2})


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("title: T", "No runtime is named. Known runtimes: monai-bundle, network, torchscript, exported"),
        ("runtime: network", "the section `network` and `runtime: network` belong together"),
        ("runtime: torchscript", "The model has no weights: model.ts or model.pt was expected."),
        ("runtime: exported\nweights: net.pt2", "The model has no weights: net.pt2 was expected."),
        ("runtime: exported\nweights: ../net.pt2", "expected in the model's folder"),
        ("runtime: network\nnetwork: {class: 'net.py:Net'}\nweights: w.pt", "The network's file net.py is missing."),
        (
            "runtime: torchscript\nrestore: labels\ninferer: {kind: windows, size: [8, 8, 8]}",
            "labels cannot be averaged over windows",
        ),
    ],
)
def test_a_folder_that_lacks_something_is_reported(tmp_path: Path, written: str, sentence: str) -> None:
    folder = tmp_path / "repository" / "levels"
    folder.mkdir(parents=True)
    (folder / "w.pt").touch()
    (folder / "model.yaml").write_text(written)
    assert sentence in Registry([folder.parent]).problems()[folder]
