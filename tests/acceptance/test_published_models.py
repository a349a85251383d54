"""Networks that others trained, served as an operator would, against labels that their weights gave elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from inference_server.imaging.metrics import dice
from inference_server.imaging.nifti import read_volume
from inference_server.imaging.volume import Volume
from inference_server.models.case import Case
from inference_server.models.engine import Engine
from inference_server.models.registry import Registry
from inference_server.stack.launch import launched_server

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "models" / "meshnet"
TISSUE, STRUCTURES = "meshnet_tissue_light_3cls", "meshnet_subcortical_30ch_18cls"

pytestmark = pytest.mark.timeout(1200)  # half a minute to two minutes each on two idle cores


@pytest.fixture(scope="module")
def published(real_data: Path) -> Path:
    """The folder of published weights and of labels made with them."""
    folder = real_data / "models"
    if not folder.is_dir():
        pytest.skip("the published weights are not here")
    return folder


def head(real_data: Path) -> Path:
    return real_data / "mr" / "t1_crop_256_1mm_LIA.nii.gz"


def read(path: Path) -> Volume:
    return read_volume(path, max_bytes=2**30)


def expected_labels(published: Path, name: str) -> np.ndarray:
    [path] = (published / "reference_outputs").glob(f"*__{name}__*.nii.gz")
    return read(path).array


def segment(published: Path, name: str, folder: Path, *, precision: str) -> Volume:
    """Run a published network on the head, through the engine."""
    shutil.copy(published / f"{name}.safetensors", folder / "model.safetensors")
    with (folder / "model.yaml").open("a") as manifest:
        manifest.write(f"precision: {precision}\n")
    registry = Registry([folder])
    assert not registry.problems()
    [model] = registry.models()
    image = read(head(published.parent))
    result = Engine(registry, threads=2).run(model, Case({"T1": image}))
    assert result.report.precision == precision
    [found] = result.segmentations
    assert found.labels.geometry == image.geometry
    return found.labels


def test_the_tissue_network_gives_the_published_labels(published: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EXAMPLES / "brain-tissue", tmp_path / "brain-tissue"))
    found = segment(published, TISSUE, folder, precision="float32")
    assert np.mean(found.array == expected_labels(published, TISSUE)) >= 0.999


def test_the_structures_network_gives_the_published_labels(published: Path, tmp_path: Path) -> None:
    """In bfloat16 where the processor has arithmetic for it: that takes a quarter of the time."""
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    folder = Path(shutil.copytree(EXAMPLES / "brain-structures", tmp_path / "brain-structures"))
    found = segment(published, STRUCTURES, folder, precision="bfloat16" if fast else "float32")
    expected = expected_labels(published, STRUCTURES)
    agreement = [dice(found.array == value, expected == value) for value in range(1, 18)]
    assert np.mean(agreement) >= 0.995
    assert min(agreement) >= 0.98


def console(number: int) -> str:
    """Return a block of the tutorial's commands."""
    page = (ROOT / "docs" / "serve-your-own-model.md").read_text()
    return re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[number].replace(".venv/bin/", "")


def run(script: str, folder: Path, **variables: str) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tutorial_serves_the_tissue_network_in_the_default_precision(published: Path, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shutil.copy(published / f"{TISSUE}.safetensors", tmp_path / "meshnet.safetensors")
    shutil.copy(head(published.parent), tmp_path / "t1.nii.gz")
    told = " ".join(run(console(0), tmp_path).split())
    assert told.endswith("brain-tissue 1.0.0 loads float32 it declares no example to run")
    volumes = re.findall(r"(White|Grey) matter (\d+)", run(console(1), tmp_path))
    assert [name for name, _ in volumes] == ["White", "Grey"]
    assert [int(volume) for _, volume in volumes] == [pytest.approx(518, abs=8), pytest.approx(735, abs=8)]
    assert console(2) == "inference-server up --models models\n"
    with (
        (tmp_path / "log").open("w") as log,
        launched_server(
            tmp_path / "inference-server-data", arguments=["--models", str(tmp_path / "models")], log=log
        ) as server,
    ):
        run(console(3), tmp_path, INFERENCE_SERVER_SERVER=server.url)
    found = read(tmp_path / "labels" / "brain-tissue.nii.gz")
    image = read(tmp_path / "t1.nii.gz")
    assert found.geometry == image.geometry
    assert np.mean(found.array == expected_labels(published, TISSUE)) >= 0.995
