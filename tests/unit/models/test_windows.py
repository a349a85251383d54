"""Sliding windows: laid, weighed and added up as MONAI does it, in whatever memory there is."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from bundles import axis_geometry, slope_volume
from monai.inferers import SlidingWindowInferer

from inference_server.errors import Cancelled, PredictionError
from inference_server.models import sums
from inference_server.models.case import Case
from inference_server.models.mirroring import Mirrored
from inference_server.models.runtimes.base import Prediction, Prepared
from inference_server.models.runtimes.inference import HALF_NOTE, Watch, infer
from inference_server.models.trouble import Effort
from inference_server.models.windows import SlidingWindows, from_monai

CPU = torch.device("cpu")
SIZES = ((11, 14, 9), (8, 8, 8), (5, 15, 8), (18, 7, 1), (12, 3, 17))
SETTINGS: tuple[dict[str, Any], ...] = (
    {"roi_size": (8, 8, 8)},
    {"roi_size": (8, 6, 4), "overlap": 0.5, "mode": "gaussian"},
    {"roi_size": (8, -1, 8), "overlap": (0.25, 0.0, 0.6), "mode": "gaussian", "sw_batch_size": 3},
    {"roi_size": 7, "overlap": 0.7, "mode": "gaussian", "sigma_scale": (0.1, 0.2, 0.3), "sw_batch_size": 4},
    {"roi_size": (40, 5, 12), "overlap": 0, "sw_batch_size": 2, "padding_mode": "replicate"},
    {"roi_size": (9, 10, 9), "padding_mode": "reflect", "mode": "gaussian"},
    {"roi_size": (12, 12, 12), "padding_mode": "constant", "cval": -3.0, "sw_batch_size": 100},
)


def network_of(classes: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a network whose answer depends on where in the window a voxel lies, so that weights matter."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(classes, 2, 3, 3, 3, generator=generator)
    bias = torch.randn(classes, generator=generator)
    return lambda window: torch.nn.functional.conv3d(window, weight, bias, padding=1)


class Counted:
    """Notes how many windows a network is given at a time."""

    def __init__(self, network: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._network = network
        self.batches: list[int] = []

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(window))
        return self._network(window)


def prepared_of(size: tuple[int, ...]) -> Prepared:
    inputs = torch.randn(2, *size, generator=torch.Generator().manual_seed(1))
    return Prepared(Case({"image": slope_volume(axis_geometry())}), inputs, np.eye(4))


def watch(**more: Any) -> Watch:
    return Watch(CPU, lambda _: None, lambda: False, **more)


def fits(settings: dict[str, Any], size: tuple[int, ...]) -> bool:
    """Whether torch can pad so: a reflected border is narrower than the image."""
    roi = np.broadcast_to(settings["roi_size"], 3)
    widest = [math.ceil((window - length) / 2) for window, length in zip(roi, size, strict=True)]
    return settings.get("padding_mode") != "reflect" or all(
        width < length for width, length in zip(widest, size, strict=True)
    )


@pytest.mark.parametrize(
    "effort", [Effort(), Effort(whole=True, thrifty=True), Effort(batch=1)], ids=["whole", "in a ring", "one by one"]
)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_windows_are_laid_and_weighed_as_monai_does(settings: dict[str, Any], effort: Effort) -> None:
    inferer, network = SlidingWindowInferer(**settings), network_of(3)
    for size in SIZES:
        if not fits(settings, size):
            continue
        prepared = prepared_of(size)
        windows, seen = from_monai(inferer), Counted(network)
        assert windows is not None
        expected = inferer(prepared.inputs[None], seen)[0]
        found = infer(network, windows, prepared, watch(effort=effort))
        tolerance = 4e-3 if found.scores.dtype == torch.float16 else 2e-5
        torch.testing.assert_close(found.scores.float(), expected, rtol=tolerance, atol=tolerance)
        assert windows.layout(size).count == sum(seen.batches), size
        ours = Counted(network)
        infer(ours, windows, prepared, watch())
        assert ours.batches == seen.batches


def test_a_window_batch_is_never_larger_than_allowed() -> None:
    network = Counted(network_of(2))
    infer(network, SlidingWindows((8, 8, 8), batch=5), prepared_of((11, 14, 9)), watch(effort=Effort(batch=3)))
    assert network.batches == [3, 3, 2]


def test_progress_counts_calls_and_the_last_is_all() -> None:
    told: list[float] = []
    listener = Watch(CPU, told.append, lambda: False, mirror=(0, 2))
    infer(network_of(2), SlidingWindows((8, 8, 8), batch=3), prepared_of((11, 14, 9)), listener)
    assert told == pytest.approx([(call + 1) / 12 for call in range(12)])  # 3 batches in 4 mirrors


def test_a_run_can_be_cancelled_between_windows_and_between_mirrors() -> None:
    told: list[float] = []
    listener = Watch(CPU, told.append, lambda: len(told) >= 5, mirror=(0, 2))
    with pytest.raises(Cancelled):
        infer(network_of(2), SlidingWindows((8, 8, 8), batch=3), prepared_of((11, 14, 9)), listener)
    assert len(told) == 5


def test_an_output_of_another_size_is_refused() -> None:
    with pytest.raises(PredictionError, match="another size"):
        infer(lambda window: window[..., ::2], SlidingWindows((8, 8, 8)), prepared_of((11, 14, 9)), watch())


@pytest.mark.parametrize("thrifty", [False, True])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_value_that_is_no_number_is_refused_in_any_window(thrifty: bool, value: float) -> None:
    prepared = prepared_of((11, 14, 9))
    for place in ((0, 0, 0, 0), (1, 10, 13, 8), (0, 5, 7, 4)):
        inputs = prepared.inputs.clone()
        inputs[place] = value
        broken = Prepared(prepared.case, inputs, prepared.affine)
        listener = watch(effort=Effort(thrifty=thrifty, whole=True))
        with pytest.raises(PredictionError, match="not numbers"):
            infer(network_of(2), SlidingWindows((8, 8, 8)), broken, listener)


def test_what_half_precision_cannot_hold_is_its_last_number_and_is_said() -> None:
    prepared = prepared_of((11, 14, 9))
    found = infer(
        lambda window: torch.full_like(window, 1e6),
        SlidingWindows((8, 8, 8)),
        prepared,
        watch(effort=Effort(thrifty=True, whole=True)),
    )
    assert found.notes == (HALF_NOTE,)
    assert (found.scores == 65504).all()


def test_mirrors_are_averaged_and_turned_back() -> None:
    network = network_of(3)
    window = torch.randn(2, 2, 5, 6, 7, generator=torch.Generator().manual_seed(2))
    axes = (0, 2)
    flips = [tuple(2 + axis for axis, on in zip(axes, chosen, strict=True) if on) for chosen in product((0, 1), (0, 1))]
    expected = sum(network(window.flip(flip)).flip(flip) for flip in flips) / 4
    torch.testing.assert_close(Mirrored(network, axes)(window), expected)
    assert not torch.allclose(expected, network(window), atol=1e-2)


def test_mirrored_classes_have_nothing_to_turn_back() -> None:
    def classify(window: torch.Tensor) -> torch.Tensor:
        return torch.stack([window[:, 0, 0].sum((1, 2)), window[:, 0, -1].sum((1, 2))], 1)

    window = torch.randn(1, 1, 5, 6, 7, generator=torch.Generator().manual_seed(3))
    first, last = classify(window)[0]
    assert torch.allclose(Mirrored(classify, (0,))(window), (first + last) / 2)


def test_what_is_finished_is_handed_on_in_pieces_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "PIECE_BYTES", 1)
    prepared = prepared_of((19, 6, 7))
    windows, network = SlidingWindows((8, 6, 6), overlap=(0.4, 0.4, 0.4)), network_of(3)
    expected = infer(network, windows, prepared, watch()).scores
    monkeypatch.undo()
    torch.testing.assert_close(infer(network, windows, prepared, watch()).scores, expected)


def labels_by(prediction: Prediction) -> Any:
    raise AssertionError("not to be decided")


def test_whoever_wants_all_scores_gets_them() -> None:
    effort = Effort(thrifty=True, whole=True)
    found = infer(
        network_of(2), SlidingWindows((8, 8, 8)), prepared_of((11, 14, 9)), watch(effort=effort, decide=labels_by)
    )
    assert found.scores.shape == (2, 11, 14, 9)
