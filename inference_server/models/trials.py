"""Trying modes of a network on its model's example: how fast they are, and whether they give the same labels."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference_server.errors import PredictionError
from inference_server.imaging.metrics import dice
from inference_server.models.backends import PLAIN, Mode
from inference_server.models.case import Case
from inference_server.models.manifest import Backend, Precision
from inference_server.models.network import Network
from inference_server.models.runtimes.base import Prediction, Runtime
from inference_server.models.trouble import is_broken_device

logger = logging.getLogger(__name__)

SAME_VOXELS = 0.999
"""Least share of voxels whose label is that of the plain mode."""
SAME_DICE = 0.995
"""Least Dice of each label with that of the plain mode."""
GAIN = 1.1
"""How many times faster than a plainer mode another one has to be to be worth anything."""
WARM_UP = 3
"""Calls until a backend is at its pace: with the second of a shape a graph is made, with the third it settles."""
TIMED_RUNS = 5
TIMED_S = 0.5
SLOW_S = 2.0
"""A window that takes longer in the plain mode is timed by one call, and not in graphs, which take several to make."""
LIMIT_S = 20.0
"""No further mode is tried after this time, from the plain run on."""

Shape = tuple[int, ...]
Labels = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class Agreement:
    """How alike labels are: the share of equal voxels, and the lowest Dice of a label, of the worst segmentation."""

    voxels: float = 1.0
    dice: float = 1.0

    @property
    def suffices(self) -> bool:
        """Whether both count as the same."""
        return self.voxels >= SAME_VOXELS and self.dice >= SAME_DICE


@dataclass(frozen=True)
class Outcome:
    """The mode that was found, and what was seen.

    Attributes:
        mode: the fastest of those that agree.
        agreement: its with the plain one's.
        plain_s: seconds of one window in the plain mode.
        chosen_s: seconds of one window in this mode.
        window: the shape of that window.
        cut_short: how many loads one after the other had no time to try all modes, as on a machine that is busy.
    """

    mode: Mode = PLAIN
    agreement: Agreement = Agreement()
    plain_s: float = 0.0
    chosen_s: float = 0.0
    window: Shape = ()
    cut_short: int = 0


class Trials:
    """Tries modes of a loaded runtime, which is left in the one that was tried last.

    Args:
        runtime: loaded, in the plain mode.
        device: that it is loaded on.
        case: the model's example.
    """

    def __init__(self, runtime: Runtime, device: torch.device, case: Case) -> None:
        self._runtime, self._device, self._case = runtime, device, case
        self._window, self._labels = self._plain_run()
        self._plain_s = 0.0
        self._plain_s = self._seconds()
        self._began = time.perf_counter()
        self._cut_short = 0

    def best(self, modes: Sequence[Mode]) -> Outcome:
        """Return the fastest of some modes that agrees with the plain one, or that.

        Modes of lower precision come first, and the others only where none of these will do.
        """
        for precision in dict.fromkeys(mode.precision for mode in reversed(modes)):
            same = [mode for mode in modes if mode.precision is precision and mode != PLAIN]
            if outcome := self._best_of(same):
                return outcome
        return self._outcome(PLAIN, Agreement(), self._plain_s)

    def _best_of(self, modes: Sequence[Mode]) -> Outcome | None:
        seconds = {mode: spent for mode in modes if (spent := self._timed(mode)) is not None}
        while useful := {mode: spent for mode, spent in seconds.items() if spent * GAIN < self._plain_s}:
            limit = GAIN * min(useful.values())
            mode = next(mode for mode, spent in useful.items() if spent <= limit)  # the plainest of the fast ones
            if agreement := self._agreement(mode):
                return self._outcome(mode, agreement, seconds[mode])
            del seconds[mode]
        return None

    def _outcome(self, mode: Mode, agreement: Agreement, seconds: float) -> Outcome:
        return Outcome(mode, agreement, self._plain_s, seconds, tuple(self._window.shape), self._cut_short)

    def _timed(self, mode: Mode) -> float | None:
        """Return the seconds of one window; None where the network cannot be computed so, or the time is up."""
        if self._is_slow and mode.backend is not Backend.EAGER:
            return None
        if time.perf_counter() - self._began > LIMIT_S:
            self._cut_short = 1
            return None
        try:
            enter(self._runtime, self._device, mode)
            seconds = self._seconds()
        except (PredictionError, RuntimeError) as exc:
            if is_broken_device(exc):
                raise
            self._refuse(mode, type(exc).__name__)
            return None
        why = self._runtime.network.refusal if self._runtime.network else ""
        if why:
            self._refuse(mode, why)
        return None if why else seconds

    def _agreement(self, mode: Mode) -> Agreement | None:
        enter(self._runtime, self._device, mode)
        found = compare(self._labels, self._run())
        if found.suffices:
            return found
        self._refuse(mode, f"only {found.voxels:.5f} of the voxels, Dice {found.dice:.4f}, agree with {PLAIN}")
        return None

    def _refuse(self, mode: Mode, why: str) -> None:
        logger.info("mode not used", extra={"model": self._runtime.model.id, "mode": str(mode), "why": why})

    def _plain_run(self) -> tuple[torch.Tensor, Labels]:
        """Run the example; return its most frequent window, too."""
        heard: list[torch.Tensor] = []
        network = self._runtime.network
        if network:
            network.heard = heard.append
        labels = self._run()
        if network:
            network.heard = lambda _: None
        shapes = Counter(window.shape for window in heard).most_common(1)
        window = next((window for window in heard if window.shape == shapes[0][0]), torch.empty(0))
        return window.clone(), labels

    def _run(self) -> Labels:
        result = self._runtime.restore(self._predict())
        return tuple(segmentation.labels.array for segmentation in result.segmentations)

    def _predict(self) -> Prediction:
        prepared = self._runtime.prepare(self._case)
        return self._runtime.predict(prepared, progress=lambda _: None, cancelled=lambda: False)

    def _seconds(self) -> float:
        """Return how long a window takes, or the whole example where windows are not ours to see."""
        network = self._runtime.network
        if network is None:
            return _fastest(self._predict)
        with torch.inference_mode():
            once_s = _spent(lambda: network(self._window))
            if once_s > SLOW_S or self._is_slow:
                return once_s
            for _ in range(WARM_UP - 1):
                network(self._window)
            return _fastest(lambda: network(self._window))

    @property
    def _is_slow(self) -> bool:
        return self._plain_s > SLOW_S


def enter(runtime: Runtime, device: torch.device, mode: Mode) -> None:
    """Have a runtime compute in a mode; it is loaded anew where its numbers have been rounded."""
    now = Mode(runtime.backend, runtime.precision)
    if now == mode:
        return
    if now.precision is not Precision.FLOAT32:
        runtime.load(device)
    runtime.compute(mode)


def warm_up(network: Network, window: Shape) -> None:
    """Compute windows of a shape until the backend is at its pace."""
    noise = torch.rand(window, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for _ in range(WARM_UP):
            network(noise)


def compare(expected: Labels, found: Labels) -> Agreement:
    """Return how alike the labels of two results are, of the segmentation that is least so."""
    pairs = list(zip(expected, found, strict=True))
    voxels = min(float(np.mean(a == b)) for a, b in pairs)
    values = [(a == value, b == value) for a, b in pairs for value in np.union1d(a, b) if value]
    return Agreement(voxels, min((dice(a, b) for a, b in values), default=1.0))


def _fastest(action: Callable[[], object]) -> float:
    durations: list[float] = []
    while not durations or (len(durations) < TIMED_RUNS and sum(durations) < TIMED_S):
        durations.append(_spent(action))
    return min(durations)


def _spent(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
