"""A folder that nnunetv2 really trained, on a handful of hippocampi, served as an operator would."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_folders import answer_of_nnunetv2

from inference_server.imaging.metrics import dice
from inference_server.imaging.nifti import read_volume, write_labels
from inference_server.imaging.volume import Volume
from inference_server.models.case import Case, Result
from inference_server.models.engine import Engine
from inference_server.models.registry import Registry

TRAINING = Path(__file__).resolve().parents[1] / "nnunet_training.py"
RESULTS = "results/Dataset004_Hippocampus/nnUNetTrainerNoDA__nnUNetPlans__3d_fullres"
FAST = "nnunet: {mirroring: false}\n"
HELD_OUT = ("hippocampus_060", "hippocampus_075")

pytestmark = pytest.mark.timeout(1200)  # the training takes a minute or two, once

Serve = Callable[..., tuple[Result, Path]]


@pytest.fixture(scope="module")
def cases(real_data: Path) -> Path:
    """Labelled crops of MR images around the hippocampus."""
    folder = real_data / "labelled" / "msd_task04_hippocampus"
    if not folder.is_dir():
        pytest.skip("the labelled hippocampi are not here")
    return folder


@pytest.fixture(scope="module")
def trained(cases: Path, request: pytest.FixtureRequest) -> Path:
    """The folder of the training's results. It is kept in pytest's cache until the training or its packages change."""
    facts = (TRAINING.read_text(), version("nnunetv2"), torch.__version__)
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    folder = request.config.cache.mkdir("nnunet") / key  # type: ignore[union-attr]
    if not folder.is_dir():
        partial = folder.with_suffix(f".{os.getpid()}")
        command = [sys.executable, str(TRAINING), str(cases), str(partial)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1100, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        partial.rename(folder)
    return folder / RESULTS


@pytest.fixture
def serve(trained: Path, tmp_path: Path) -> Serve:
    """Answer for a case with the trained folder, beside which some manifest lies."""

    def answer(volume: Volume, manifest: str = FAST, **case: object) -> tuple[Result, Path]:
        folder = tmp_path / "models" / "hippocampus-nnunet"
        shutil.copytree(trained, folder, dirs_exist_ok=True)
        (folder / "model.yaml").write_text(manifest)
        registry = Registry([tmp_path / "models"])
        assert not registry.problems()
        model = registry.get("hippocampus-nnunet")
        return Engine(registry, threads=2).run(model, Case({"MRI": volume}, **case)), folder  # type: ignore[arg-type]

    return answer


def read(cases: Path, name: str, kind: str = "imagesTr") -> Volume:
    return read_volume(cases / kind / f"{name}.nii.gz", max_bytes=2**30)


def labels(result: Result) -> np.ndarray:
    [found] = result.segmentations
    return found.labels.array


@pytest.mark.parametrize("name", HELD_OUT)
def test_labels_are_those_of_nnunetv2_on_the_images_grid(cases: Path, serve: Serve, name: str, tmp_path: Path) -> None:
    image = read(cases, name)
    result, folder = serve(image)
    [found] = result.segmentations
    assert found.labels.geometry == image.geometry
    assert {value: label.name for value, label in found.names.items()} == {1: "Anterior", 2: "Posterior"}
    expected = answer_of_nnunetv2(folder, [image], folds=(0, 1), use_mirroring=False)
    assert np.mean(labels(result) == expected) >= 0.999
    as_written, _ = serve(image, f"{FAST}restore: labels\n")
    np.testing.assert_array_equal(labels(as_written), expected)
    write_labels(tmp_path / "labels.nii.gz", found.labels)
    assert read_volume(tmp_path / "labels.nii.gz", max_bytes=2**30).geometry == image.geometry


def test_both_parts_are_found(cases: Path, serve: Serve) -> None:
    """A training of a minute: far from good, and far from nothing."""
    for name in HELD_OUT:
        truth, found = read(cases, name, "labelsTr").array, labels(serve(read(cases, name))[0])
        for value in (1, 2):
            assert dice(found == value, truth == value) >= 0.4


def test_folds_and_mirroring_are_the_manifests(cases: Path, serve: Serve) -> None:
    image = read(cases, HELD_OUT[0])
    choices = {
        "nnunet: {folds: [0]}": {"folds": (0,)},
        "nnunet: {folds: [1], mirroring: false}": {"folds": (1,), "use_mirroring": False},
        FAST: {"folds": (0, 1), "use_mirroring": False},
    }
    answers = []
    for manifest, options in choices.items():
        result, folder = serve(image, f"{manifest}\nrestore: labels\n")
        answers.append(labels(result))
        np.testing.assert_array_equal(answers[-1], answer_of_nnunetv2(folder, [image], **options))  # type: ignore[arg-type]
    assert len({answer.tobytes() for answer in answers}) == len(choices)


def test_the_best_checkpoint_runs_where_the_manifest_says_so(cases: Path, serve: Serve) -> None:
    image = read(cases, HELD_OUT[0])
    result, folder = serve(image, "nnunet: {checkpoint: best, folds: [0], mirroring: false}\nrestore: labels\n")
    for path in folder.glob("fold_*/checkpoint_final.pth"):
        path.unlink()
    np.testing.assert_array_equal(labels(result), answer_of_nnunetv2(folder, [image], use_mirroring=False))


def test_contours_come_out_on_the_finer_grid(cases: Path, serve: Serve) -> None:
    image = read(cases, HELD_OUT[0])
    result, _ = serve(image, scaling_factor=(1, 2, 2))
    [found] = result.segmentations
    assert found.labels.geometry == image.geometry.refined((1, 2, 2))
    coarse = labels(serve(image)[0])
    for value in (1, 2):
        blocks = np.repeat(np.repeat(coarse == value, 2, axis=1), 2, axis=2)
        assert dice(found.labels.array == value, blocks) > 0.9
