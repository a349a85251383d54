"""Leading a network over a prepared case, in windows or at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from inference_server.errors import OutOfMemory, PredictionError
from inference_server.models.memory import host_memory_left
from inference_server.models.mirroring import Call, Mirrored
from inference_server.models.network import Watched, check_finite, first_tensor
from inference_server.models.runtimes.base import Prediction, Prepared
from inference_server.models.sums import Sums
from inference_server.models.takers import Decide, Decided, Stored, reach
from inference_server.models.trouble import Effort
from inference_server.models.windows import Layout, Place, SlidingWindows

WHOLE_SHARE = 1 / 3
"""Scores of a whole case take at most this share of the main memory that is left; what restores them needs some too."""
HALF_SHARE = 2 / 3
HALF_NOTE = "The scores were kept in half precision, because there is not enough memory for more."


@dataclass(frozen=True, eq=False)
class Watch:
    """How to compute, and who listens.

    Attributes:
        device: where to compute.
        progress: told the done fraction.
        cancelled: asked before each call of the network whether to stop.
        effort: how much memory may be taken.
        mirror: axes along which the network sees each window mirrored as well.
        decide: makes labels of scores, of a part of the case too; None where it needs all of them.
    """

    device: torch.device
    progress: Callable[[float], None]
    cancelled: Callable[[], bool]
    effort: Effort = Effort()  # noqa: RUF009 - frozen
    mirror: tuple[int, ...] = ()
    decide: Decide | None = None


def infer(network: Call, inferer: Any, prepared: Prepared, watch: Watch, kind: str = "segmentation") -> Prediction:
    """Run a network on a case.

    Args:
        network: takes ``(B, channels, A, B, C)`` and gives ``(B, classes, A, B, C)``, or ``(B, classes)``.
        inferer: `SlidingWindows`, or one of MONAI's, which is called with the input and the network.
        prepared: not modified.
        watch: how, and who listens.
        kind: as in the manifest.

    Raises:
        Cancelled: `watch.cancelled` said so.
        OutOfMemory: the scores do not fit into the main memory.
        PredictionError: the scores are not finite, or of another size than the input.
    """
    layout = inferer.layout(prepared.inputs.shape[1:]) if isinstance(inferer, SlidingWindows) else None
    batch = min(inferer.batch, watch.effort.batch or inferer.batch) if layout else 1
    calls = math.ceil(layout.count / batch) if layout else 1
    called = Watched(network, calls * 2 ** len(watch.mirror), watch.progress, watch.cancelled)
    call = Mirrored(called, watch.mirror) if watch.mirror else called
    with torch.inference_mode():
        if layout and layout.count > 1:
            return _in_windows(call, inferer, layout, batch, prepared, watch)
        if layout:
            return _checked(_in_one_window(call, inferer, layout, prepared, watch), prepared, kind)
        return _checked(inferer(prepared.inputs[None].to(watch.device), call), prepared, kind)


def _in_one_window(
    call: Call, windows: SlidingWindows, layout: Layout, prepared: Prepared, watch: Watch
) -> torch.Tensor:
    scores = call(windows.padded(prepared.inputs, layout)[None].to(watch.device))
    return scores[(slice(None), slice(None), *layout.kept)] if scores.ndim == 5 else scores


def _checked(output: object, prepared: Prepared, kind: str) -> Prediction:
    scores = first_tensor(output)[0].float().cpu()
    check_finite(scores)
    if kind == "classification":
        return Prediction(prepared, scores.flatten())
    _check_size(scores.shape[1:], prepared.inputs.shape[1:])
    return Prediction(prepared, scores)


def _in_windows(
    call: Call, windows: SlidingWindows, layout: Layout, batch: int, prepared: Prepared, watch: Watch
) -> Prediction:
    inputs = windows.padded(prepared.inputs, layout)
    result = _Windows(layout, windows.weights(layout), prepared, watch)
    for places in _batched(layout.places(), batch):
        seen = torch.stack([inputs[(slice(None), *place.seen)] for place in places])
        scores = call(seen.to(watch.device))
        _check_size(scores.shape[2:], layout.window)
        for place, one in zip(places, scores, strict=True):
            result.add(place, one)
    return result.prediction()


class _Windows:
    """What becomes of the windows' scores: where they are added up, and kept or decided.

    On a CPU, scores of the whole case are kept in float32 where they fit. Otherwise, and on a GPU, they are decided as
    they are finished, where they are. What cannot be decided by parts comes into the main memory, in float32 where it
    fits, else in float16.
    """

    def __init__(self, layout: Layout, weights: torch.Tensor, prepared: Prepared, watch: Watch) -> None:
        self._layout, self._weights, self._prepared, self._watch = layout, weights, prepared, watch
        self._scores = torch.empty(0)
        self._decided: Decided | None = None
        self._sums: Sums | None = None
        self._device = torch.device("cpu") if watch.effort.on_host else watch.device

    def add(self, place: Place, scores: torch.Tensor) -> None:
        if self._sums is None:
            self._sums = self._open(len(scores))
        self._sums.add(place, scores.to(self._device))

    def prediction(self) -> Prediction:
        assert self._sums is not None
        self._sums.close()
        if self._decided:
            return Prediction(self._prepared, self._scores, segmentations=self._decided.segmentations())
        notes = (HALF_NOTE,) if self._scores.dtype == torch.float16 else ()
        return Prediction(self._prepared, self._scores, notes=notes)

    def _open(self, classes: int) -> Sums:
        layout, weights, device = self._layout, self._weights, self._device
        size_bytes, left = 4 * classes * math.prod(layout.image), host_memory_left()
        fits = size_bytes <= left * WHOLE_SHARE and not self._watch.effort.thrifty
        if device.type != "cpu" or not fits:
            self._decided = self._decider()
        if self._decided:
            return Sums(classes, layout, weights, device, taker=self._decided)
        if not fits:
            self._scores = self._half(classes, size_bytes // 2, left)
        elif device.type == "cpu":
            self._scores = torch.zeros(classes, *layout.image)
            return Sums(classes, layout, weights, device, scores=self._scores)
        else:
            self._scores = torch.empty(classes, *layout.image)
        return Sums(classes, layout, weights, device, taker=Stored(self._scores, layout.slow_axis))

    def _decider(self) -> Decided | None:
        axis, decide = self._layout.slow_axis, self._watch.decide
        rows = reach(self._prepared, axis) if decide and not self._watch.effort.whole else None
        return Decided(self._prepared, axis, rows, decide) if decide and rows else None

    def _half(self, classes: int, size_bytes: int, left: int) -> torch.Tensor:
        if size_bytes > left * HALF_SHARE:
            raise OutOfMemory
        return torch.empty(classes, *self._layout.image, dtype=torch.float16)


def _batched(places: Iterator[Place], count: int) -> Iterator[list[Place]]:
    while some := list(islice(places, count)):
        yield some


def _check_size(found: Sequence[int], expected: Sequence[int]) -> None:
    if tuple(found) != tuple(expected):
        raise PredictionError("The model's output has another size than its input, which cannot be restored.")
