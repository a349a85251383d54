"""The intensity steps: against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from inference_server.errors import ModelLoadError
from inference_server.models.manifest import parse_manifest
from inference_server.models.preparation import Preparation
from inference_server.models.runtimes.intensity import change_intensities

VALUES = np.random.default_rng(0).normal(50, 30, (4, 5, 6)).round(2).astype(np.float32)
VALUES[0] = 0


def changed(*steps: dict[str, Any], values: np.ndarray = VALUES) -> np.ndarray:
    tensor = torch.from_numpy(values.copy())[None]
    change_intensities(tensor, ["image"], Preparation.model_validate({"intensity": steps}).intensity)
    return tensor[0].numpy()


LOWEST, HIGHEST = VALUES.min(), VALUES.max()
FIFTH, NINETIETH = np.quantile(VALUES, [0.05, 0.9])
BRIGHT = VALUES[VALUES != 0]
CASES = {
    "clip": ([{"step": "clip", "low": 10, "high": 60}], np.clip(VALUES, 10, 60)),
    "the image's own range": ([{"step": "scale"}], (VALUES - LOWEST) / (HIGHEST - LOWEST)),
    "a fixed range": ([{"step": "scale", "low": 0, "high": 100, "to": [-1, 1]}], VALUES / 50 - 1),
    "a fixed range, clipped": (
        [{"step": "scale", "low": 0, "high": 100, "to": [-1, 1], "clip": True}],
        np.clip(VALUES / 50 - 1, -1, 1),
    ),
    "upside down": ([{"step": "scale", "low": 0, "high": 100, "to": [1, 0]}], 1 - VALUES / 100),
    "quantiles": ([{"step": "quantiles", "low": 0.05, "high": 0.9}], (VALUES - FIFTH) / (NINETIETH - FIFTH)),
    "z-score": ([{"step": "zscore"}], (VALUES - VALUES.mean()) / VALUES.std()),
    "z-score of what is not zero": (
        [{"step": "zscore", "nonzero": True}],
        np.where(VALUES != 0, (VALUES - BRIGHT.mean()) / BRIGHT.std(), 0),
    ),
    "given statistics": ([{"step": "zscore", "mean": 40, "deviation": 8}], (VALUES - 40) / 8),
    "one after the other": (
        [{"step": "clip", "low": 0, "high": 50}, {"step": "scale"}],
        np.clip(VALUES, 0, 50) / 50,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_does_what_it_says(name: str) -> None:
    steps, expected = CASES[name]
    np.testing.assert_allclose(changed(*steps), expected, atol=2e-5)


@pytest.mark.parametrize(
    "declared", [{"step": "scale"}, {"step": "quantiles", "low": 0, "high": 1}, {"step": "zscore"}]
)
def test_an_image_of_one_value_becomes_zero(declared: dict[str, Any]) -> None:
    assert not changed(declared, values=np.full((3, 4, 5), 7, np.float32)).any()


def test_an_image_of_zeros_has_no_z_score() -> None:
    assert not changed({"step": "zscore", "nonzero": True}, values=np.zeros((3, 4, 5), np.float32)).any()


def test_channels_are_changed_by_themselves_and_only_those_that_a_step_names() -> None:
    tensor = torch.stack([torch.full((2, 2, 2), 4.0), torch.arange(8.0).view(2, 2, 2)])
    steps = [{"step": "scale", "channels": ["CT"], "low": 0, "high": 8}, {"step": "scale", "channels": ["PET"]}]
    change_intensities(tensor, ["CT", "PET"], Preparation.model_validate({"intensity": steps}).intensity)
    assert tensor[0].unique().tolist() == [0.5]
    assert tensor[1].flatten().tolist() == pytest.approx([value / 7 for value in range(8)])


def test_a_step_for_a_channel_that_there_is_not_is_refused() -> None:
    section = {"intensity": [{"step": "scale", "channels": ["T3"]}]}
    with pytest.raises(ModelLoadError, match="names no channel by 'T3'; channels: image"):
        parse_manifest({"id": "m", "runtime": "torchscript", "prepare": section})


@pytest.mark.parametrize("step", ["clip", "scale", "quantiles"])
def test_bounds_in_the_wrong_order_are_refused(step: str) -> None:
    section = {"intensity": [{"step": step, "low": 0.9, "high": 0.1}]}
    with pytest.raises(ModelLoadError, match="low must be less than high"):
        parse_manifest({"id": "m", "runtime": "torchscript", "prepare": section})
