"""The chest X-ray models on drawn pictures: one answer whatever the format, and an ensemble that is their mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from pictures import save_picture
from safetensors.torch import load_file

from inference_server.imaging.picture import read_picture
from inference_server.models.backends import PLAIN, Mode, is_installed
from inference_server.models.case import Case
from inference_server.models.engine import Engine
from inference_server.models.manifest import Backend
from inference_server.models.registry import ZOO, Registry

ENSEMBLE = "chest-xray-ensemble"
MEMBERS = tuple(f"chest-xray-{name}" for name in ("mycn", "densenet", "vgg", "inception", "xception"))
CLASSES = {"normal", "pneumonia"}
LIMIT_BYTES = 12_000_000
AREA = 0.8
"""Under the ROC curve, of pictures that were trained on; weights that got another preparation are far below."""


@pytest.fixture(scope="module")
def xray_engine() -> Engine:
    return Engine(Registry([ZOO]))


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """Return the example, which is drawn, not as wide as high."""
    pixels: np.ndarray = sitk.GetArrayFromImage(sitk.ReadImage(str(ZOO / ENSEMBLE / "example.png")))
    return pixels[:, :240]


def classify(engine: Engine, model: str, path: Path) -> Mapping[str, float]:
    case = Case({"image": read_picture(path, max_bytes=1 << 30)})
    return engine.run(engine.registry.get(model), case).classifications


@pytest.mark.parametrize("model", MEMBERS)
def test_the_format_of_a_picture_changes_nothing(
    xray_engine: Engine, drawn: np.ndarray, model: str, tmp_path: Path
) -> None:
    fine = drawn.astype(np.uint16) * 257
    same = [
        save_picture(tmp_path / "fine.png", fine),
        save_picture(tmp_path / "coarse.dcm", drawn),
        save_picture(tmp_path / "fine.dcm", fine),
        save_picture(tmp_path / "coarse_inverse.dcm", 255 - drawn, inverse=True),
        save_picture(tmp_path / "fine_inverse.dcm", 65_535 - fine, inverse=True),
    ]
    expected = classify(xray_engine, model, save_picture(tmp_path / "coarse.png", drawn))
    assert set(expected) == CLASSES
    assert sum(expected.values()) == pytest.approx(1, abs=1e-6)
    for path in same:
        assert classify(xray_engine, model, path) == pytest.approx(expected, abs=1e-4), path.name
    lossy = classify(xray_engine, model, save_picture(tmp_path / "coarse.jpg", drawn))
    assert lossy == pytest.approx(expected, abs=0.05)


def test_a_picture_and_its_negative_differ(xray_engine: Engine, drawn: np.ndarray, tmp_path: Path) -> None:
    positive = save_picture(tmp_path / "picture.png", drawn)
    negative = save_picture(tmp_path / "negative.png", 255 - drawn)
    for model in MEMBERS:
        found, other = (classify(xray_engine, model, path)["normal"] for path in (positive, negative))
        assert abs(found - other) > 1e-3, model


def test_the_ensemble_gives_the_mean_of_its_members(xray_engine: Engine, drawn: np.ndarray, tmp_path: Path) -> None:
    path = save_picture(tmp_path / "picture.png", drawn)
    found = [classify(xray_engine, model, path) for model in MEMBERS]
    expected = {name: float(np.mean([one[name] for one in found])) for name in CLASSES}
    assert classify(xray_engine, ENSEMBLE, path) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("backend", [Backend.OPENVINO, Backend.TRACED])
def test_a_graph_gives_the_probabilities_of_the_network(
    xray_engine: Engine, drawn: np.ndarray, tmp_path: Path, backend: Backend
) -> None:
    """Which is made when a picture has come for the second time, and is asked from the third on."""
    if not is_installed(backend):
        pytest.skip("OpenVINO is not installed")
    paths = [save_picture(tmp_path / f"{shift}.png", np.roll(drawn, shift, 0)) for shift in (0, 20, 40)]
    for model in MEMBERS:
        runtime = xray_engine.load(xray_engine.registry.get(model))
        runtime.compute(PLAIN)
        expected = [classify(xray_engine, model, path) for path in paths]
        runtime.compute(Mode(backend))
        for _ in range(2):
            classify(xray_engine, model, paths[0])
        found = [classify(xray_engine, model, path) for path in paths]
        assert runtime.network is not None
        assert runtime.network.refusal == ""
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, abs=1e-4), model


def test_the_weights_are_small() -> None:
    files = sorted(ZOO.glob("chest-xray-*/model.safetensors"))
    assert [file.parent.name for file in files] == sorted(MEMBERS)
    assert sum(file.stat().st_size for file in files) < LIMIT_BYTES
    for file in files:
        assert {value.dtype for value in load_file(file).values()} <= {torch.float16, torch.int64}


def test_weights_and_preparation_belong_together(xray_engine: Engine, real_data: Path) -> None:
    """Which the networks show on pictures that they were trained on: it says nothing of how good they are."""
    folder = real_data / "xray"
    if not folder.is_dir():
        pytest.skip("the X-rays are not among the real images here")
    files = {name: sorted(folder.glob(f"{name}/*.jpg"))[::3] for name in ("pneumonia", "normal")}
    for model in MEMBERS:
        found = {name: [classify(xray_engine, model, path)["pneumonia"] for path in files[name]] for name in files}
        order = np.greater.outer(found["pneumonia"], found["normal"])
        assert order.mean() >= AREA, model
