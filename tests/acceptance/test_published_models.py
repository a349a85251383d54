"""Networks that others trained, served as an operator would, against labels that their weights gave elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from inference_server.clients import Client
from inference_server.imaging.metrics import dice
from inference_server.imaging.nifti import read_volume
from inference_server.imaging.volume import Volume
from inference_server.stack.launch import LaunchedServer, launched_server

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "models" / "meshnet"
TISSUE, STRUCTURES = "meshnet_tissue_light_3cls", "meshnet_subcortical_30ch_18cls"

pytestmark = pytest.mark.timeout(1200)  # a quarter of a minute to one minute each on two idle cores


@pytest.fixture(scope="module")
def published(real_data: Path) -> Path:
    """The folder of published weights and of labels made with them."""
    folder = real_data / "models"
    if not folder.is_dir():
        pytest.skip("the published weights are not here")
    return folder


def read(path: Path) -> Volume:
    return read_volume(path, max_bytes=2**30)


def expected_labels(published: Path, name: str) -> np.ndarray:
    [path] = (published / "reference_outputs").glob(f"*__{name}__*.nii.gz")
    return read(path).array


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


def add_model(folder: Path, example: str, weights: Path, **changes: str) -> None:
    """Write another model into a folder of models; with changes to its manifest."""
    model = Path(shutil.copytree(EXAMPLES / example, folder / changes.get("id", example)))
    shutil.copy(weights, model / "model.safetensors")
    manifest = (model / "model.yaml").read_text().replace(f"id: {example}\n", "")
    added = {"id": example, "preload": "false", **changes}
    (model / "model.yaml").write_text(manifest + "".join(f"{key}: {value}\n" for key, value in added.items()))


@dataclass(frozen=True)
class Site:
    """A server with the published networks, set up in a folder by the tutorial's commands; what two of them printed."""

    folder: Path
    server: LaunchedServer
    loaded: str
    checked: str

    def segment(self, model: str, precision: str) -> Volume:
        """Submit the head and fetch the labels."""
        with Client(self.server.url) as client:
            task = client.wait(client.submit(model, [self.folder / "t1.nii.gz"]).uid, timeout_s=900)
            assert task.status == "finished", task.problem
            assert task.raw["report"]["precision"] == precision
            labels = [path for path in client.fetch(task.uid, self.folder / model) if path.suffix == ".gz"]
        [found] = map(read, labels)
        assert found.geometry == read(self.folder / "t1.nii.gz").geometry
        return found


@pytest.fixture(scope="module")
def site(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("published")
    (folder / "examples").symlink_to(ROOT / "examples")
    shutil.copy(published / f"{TISSUE}.safetensors", folder / "meshnet.safetensors")
    shutil.copy(published.parent / "mr" / "t1_crop_256_1mm_LIA.nii.gz", folder / "t1.nii.gz")
    loaded, checked = run(console(0), folder), run(console(1), folder)
    half = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    models = folder / "models"
    add_model(models, "brain-tissue", published / f"{TISSUE}.safetensors", id="plain", precision="float32")
    structures = published / f"{STRUCTURES}.safetensors"
    add_model(models, "brain-structures", structures, precision="bfloat16" if half else "float32")
    assert console(2) == "inference-server up --models models\n"
    settings = {"INFERENCE_SERVER_ZOO": "false", "INFERENCE_SERVER_WORKER_CHILDREN": "1"}
    with (
        (folder / "log").open("w") as log,
        launched_server(
            folder / "inference-server-data", arguments=["--models", str(models)], environment=settings, log=log
        ) as server,
    ):
        yield Site(folder, server, loaded, checked)


def test_the_tutorial_serves_the_tissue_network_in_the_default_precision(site: Site, published: Path) -> None:
    assert " ".join(site.loaded.split()).endswith("brain-tissue 1.0.0 loads float32 it declares no example to run")
    volumes = re.findall(r"(White|Grey) matter (\d+)", site.checked)
    assert [name for name, _ in volumes] == ["White", "Grey"]
    assert [int(volume) for _, volume in volumes] == [pytest.approx(518, abs=8), pytest.approx(735, abs=8)]
    run(console(3), site.folder, INFERENCE_SERVER_SERVER=site.server.url)
    found = read(site.folder / "labels" / "brain-tissue.nii.gz")
    assert found.geometry == read(site.folder / "t1.nii.gz").geometry
    assert np.mean(found.array == expected_labels(published, TISSUE)) >= 0.995


def test_the_tissue_network_gives_the_published_labels(site: Site, published: Path) -> None:
    found = site.segment("plain", "float32")
    assert np.mean(found.array == expected_labels(published, TISSUE)) >= 0.999


def test_the_structures_network_gives_the_published_labels(site: Site, published: Path) -> None:
    """In bfloat16 where the processor has arithmetic for it: that takes a quarter of the time."""
    half = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    found = site.segment("brain-structures", "bfloat16" if half else "float32")
    expected = expected_labels(published, STRUCTURES)
    agreement = [dice(found.array == value, expected == value) for value in range(1, 18)]
    assert np.mean(agreement) >= 0.995
    assert min(agreement) >= 0.98
