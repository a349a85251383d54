"""Models whose answer is a probability for each of some classes, of pictures and of volumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from bundles import LOAD, SIGMOID, SOFTMAX, Bundle
from pictures import CLASSES, expected_quarters, quarter_picture, save_picture, write_quarters
from safetensors.torch import save_file

from inference_server.errors import ModelLoadError, PredictionError
from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.case import Case, Result
from inference_server.models.check import check_model
from inference_server.models.engine import Engine
from inference_server.models.registry import Registry, read_model

OF_TWO = 1 / (1 + np.e**2)
"""The softmax of 0 beside 2."""
BUNDLE_CLASSES = {"0": "dark", "1": "bright"}


def classify(folder: Path, array: np.ndarray) -> Result:
    z, y, x = array.shape
    case = Case({"image": Volume(array, Geometry((z, y, x), (0.5, 0.7, 1.0)))})
    return Engine(Registry([])).run(read_model(folder), case)


def test_a_network_sees_a_picture_as_rows_and_columns(tmp_path: Path) -> None:
    result = classify(write_quarters(tmp_path / "quarters"), quarter_picture()[None])
    assert not result.segmentations
    assert list(result.classifications) == list(CLASSES)
    assert result.classifications == pytest.approx(expected_quarters(), abs=1e-6)


def test_a_sigmoid_gives_each_class_a_probability_of_its_own(tmp_path: Path) -> None:
    folder = write_quarters(tmp_path / "quarters", activation="sigmoid")
    found = classify(folder, quarter_picture()[None]).classifications
    assert found["bottom left"] == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-6)
    assert found["top left"] == pytest.approx(0.5, abs=1e-6)


def test_a_picture_is_stretched_to_the_networks_size(tmp_path: Path) -> None:
    scale = [{"step": "scale", "low": 0, "high": 100}]
    folder = write_quarters(tmp_path / "quarters", prepare={"stretch": [4, 2, 1], "intensity": scale})
    found = classify(folder, quarter_picture()[None]).classifications
    assert found == pytest.approx(expected_quarters((0, 0, 2, 0)), abs=1e-6)


def test_padding_adds_no_planes_to_a_picture(tmp_path: Path) -> None:
    folder = write_quarters(tmp_path / "quarters", prepare={"multiple_of": 8})
    assert classify(folder, quarter_picture()[None]).classifications == pytest.approx(expected_quarters(), abs=1e-6)


def test_scores_and_classes_are_as_many(tmp_path: Path) -> None:
    folder = write_quarters(tmp_path / "quarters", classes=["a", "b"])
    with pytest.raises(PredictionError, match="gives 4 scores; its manifest names 2 classes"):
        classify(folder, quarter_picture()[None])


def test_a_classification_names_its_classes(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="names its `classes`"):
        read_model(write_quarters(tmp_path / "none", classes=[]))
    with pytest.raises(ModelLoadError, match="two classes have the same name"):
        read_model(write_quarters(tmp_path / "twice", classes=["a", "a"]))


def test_a_classification_of_its_example_is_told(tmp_path: Path) -> None:
    folder = write_quarters(tmp_path / "quarters", example="example.png")
    save_picture(folder / "example.png", quarter_picture())
    told = str(check_model(read_model(folder), Engine(Registry([]))))
    assert "top left 0.017, top right 0.017, bottom left 0.948, bottom right 0.017" in told


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_program_classifies_a_volume(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten(), torch.nn.Linear(1, 2))
    network[2].weight.data[:] = torch.tensor([[0.0], [1.0]])
    network[2].bias.data[:] = 0.0
    folder = tmp_path / "mean"
    folder.mkdir()
    torch.jit.trace(network, torch.zeros(1, 1, 4, 5, 6)).save(str(folder / "model.ts"))
    manifest = {"runtime": "torchscript", "kind": "classification", "classes": ["low", "high"]}
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest))
    found = classify(folder, np.full((3, 4, 5), 2.0, np.float32)).classifications
    assert found == pytest.approx({"low": 1 / (1 + np.e**2), "high": 1 / (1 + np.e**-2)}, abs=1e-6)


def write_bundle(folder: Path, *post: dict[str, Any], **manifest: Any) -> Path:
    """Write a bundle that compares a picture's mean, of its left half alone, with 100."""
    left = {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x[:, : x.shape[1] // 2]"}
    resize = {"_target_": "Resized", "keys": "image", "spatial_size": [4, 4]}
    network = "$torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(1, 2))"
    weights = {"2.weight": torch.tensor([[0.0], [0.02]]), "2.bias": torch.tensor([0.0, -2.0])}
    Bundle(
        network=network,  # type: ignore[arg-type]
        state=weights,
        transforms=(*LOAD, left, resize),
        inferer={"_target_": "SimpleInferer"},
        post=post,
        classes=BUNDLE_CLASSES,
        manifest=manifest,
    ).write(folder)
    return folder


@pytest.mark.parametrize(
    ("post", "dark"), [((), 1 / (1 + np.e**2)), ((SOFTMAX,), 1 / (1 + np.e**2)), ((SIGMOID,), 0.5)]
)
def test_a_bundle_classifies_a_picture(tmp_path: Path, post: tuple[dict[str, Any], ...], dark: float) -> None:
    folder = write_bundle(
        tmp_path / "b", *post, kind="classification", classes=["dark", "bright"], dimensions=2, restore="argmax"
    )
    picture = np.zeros((1, 6, 8), np.uint8)
    picture[..., :4] = 200
    found = classify(folder, picture).classifications
    assert found == pytest.approx({"dark": dark, "bright": 1 - OF_TWO}, abs=1e-6)


def test_a_bundles_metadata_tell_that_it_classifies_pictures(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", SOFTMAX)
    path = folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    data_format = metadata["network_data_format"]
    data_format["inputs"]["image"]["spatial_shape"] = [4, 4]
    data_format["outputs"]["pred"] |= {"type": "probabilities", "format": "classes"}
    path.write_text(json.dumps(metadata))
    manifest = read_model(folder).manifest
    assert (manifest.kind, manifest.dimensions, manifest.classes) == ("classification", 2, ("dark", "bright"))


def test_a_network_of_two_dimensions_segments_pictures(tmp_path: Path) -> None:
    """Each window is two rows and eight columns, and its brightest quarter says where it lies."""
    folder = tmp_path / "edge"
    folder.mkdir()
    (folder / "edge.py").write_text(
        "import torch\n"
        "class Edge(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.at = torch.nn.Parameter(torch.zeros(1))\n"
        "    def forward(self, x):\n"
        "        assert x.shape[2:] == (2, 8)\n"
        "        return torch.cat([self.at.expand_as(x), x], 1)\n"
    )
    save_file({"at": torch.tensor([100.0])}, folder / "model.safetensors")
    manifest = {
        "runtime": "network",
        "network": {"class": "edge.py:Edge"},
        "dimensions": 2,
        "labels": {1: {"name": "bright"}},
        "inferer": {"kind": "windows", "size": [8, 2, 1], "overlap": 0.5},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest))
    [found] = classify(folder, quarter_picture()[None]).segmentations
    np.testing.assert_array_equal(found.labels.array, (quarter_picture() > 100)[None])
