"""The models that ship are as accurate as their cards say, on real images that they were not trained on."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inference_server.imaging.metrics import dice
from inference_server.imaging.nifti import read_volume
from inference_server.models.case import Case
from inference_server.models.engine import Engine
from inference_server.models.registry import ZOO, Registry

LIMIT_BYTES = 1 << 30
HELD_OUT_CT = "ct/chest_4dlung_p113_512x512x99.nii.gz"


@pytest.fixture(scope="module")
def engine(modes: Path) -> Engine:
    return Engine(Registry([ZOO]), cache_dir=modes)


def masks(engine: Engine, model: str, image: Path) -> dict[str, np.ndarray]:
    """Return what a model marks, by label."""
    volume = read_volume(image, max_bytes=LIMIT_BYTES)
    result = engine.run(engine.registry.get(model), Case({"image": volume}))
    return {
        name.name: part.labels.array == value for part in result.segmentations for value, name in part.names.items()
    }


@pytest.mark.timeout(600)
def test_ct_body_agrees_with_the_algorithm_on_the_held_out_chest(engine: Engine, real_data: Path) -> None:
    image = real_data / HELD_OUT_CT
    volume = read_volume(image, max_bytes=LIMIT_BYTES)
    expected = dict(zip(("BODY", "LUNGS", "BONE"), algorithm()(volume.array, volume.geometry.spacing_mm), strict=True))
    found = masks(engine, "ct-body", image)
    for name, least in {"BODY": 0.97, "LUNGS": 0.95, "BONE": 0.85}.items():
        assert dice(found[name], expected[name]) >= least, name


def test_hippocampus_finds_both_parts_in_cases_of_the_test_set(engine: Engine, real_data: Path) -> None:
    folder = real_data / "labelled" / "msd_task04_hippocampus"
    scores: dict[str, list[float]] = {"anterior": [], "posterior": []}
    for image in sorted((folder / "imagesTr").glob("*.nii.gz"))[3::4]:
        truth = read_volume(folder / "labelsTr" / image.name, max_bytes=LIMIT_BYTES).array
        found = masks(engine, "hippocampus", image)
        for value, name in enumerate(scores, start=1):
            scores[name].append(dice(found[name], truth == value))
    assert np.mean(scores["anterior"]) >= 0.89
    assert np.mean(scores["posterior"]) >= 0.87


def algorithm() -> Callable[..., np.ndarray]:
    """Return the written algorithm whose labels ct-body learned."""
    path = ZOO / "ct-body" / "classical.py"
    spec = importlib.util.spec_from_file_location("ct_body_classical", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    segment: Callable[..., np.ndarray] = module.segment
    return segment
