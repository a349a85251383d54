"""How well classes are told apart: the area under the ROC curve and the accuracy, with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
LEVEL = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Figure:
    """A measured value and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Figures:
    """How good a network is: the mean over repeats of a cross-validation.

    Attributes:
        auc: area under the ROC curve, all folds of a repeat pooled.
        accuracy: at a probability of one half.
        aucs: of each repeat.
    """

    auc: Figure
    accuracy: Figure
    aucs: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """What the lower bound of the AUC allows to say."""
        return "better than chance" if self.auc.low > 0.5 else "no better than chance"


def area(labels: Array, chances: Array) -> float:
    """Return the area under the ROC curve: the share of pairs that are in the right order, ties counting half."""
    return float(_order(labels, chances).mean())


def score(labels: Array, chances: Array, patients: Sequence[str], *, seed: int = 0) -> Figures:
    """Return AUC and accuracy, means over repeats, with intervals of a percentile bootstrap over patients.

    A resample draws patients with all of their pictures, the same for each repeat, so that the interval is about
    other patients; that other trainings would differ shows in the spread of `aucs` alone.

    Args:
        labels: ``(N,)`` of 0 and 1.
        chances: ``(repeats, N)`` probabilities of 1 from networks that have not seen the picture.
        patients: ``(N,)`` whose the pictures are.
        seed: of the resamples.
    """
    weights = resamples(patients, seed=seed)
    ill, well = weights[:, labels == 1], weights[:, labels == 0]
    kept = (ill.sum(1) > 0) & (well.sum(1) > 0)
    order = np.mean([_order(labels, one) for one in chances], 0)
    areas = np.einsum("bi,ij,bj->b", ill[kept], order, well[kept], optimize=True)
    areas /= ill[kept].sum(1) * well[kept].sum(1)
    right = ((chances > 0.5) == (labels == 1)).mean(0)
    shares = weights @ right / weights.sum(1)
    return Figures(
        _figure(float(order.mean()), areas),
        _figure(float(right.mean()), shares),
        tuple(area(labels, one) for one in chances),
    )


def resamples(patients: Sequence[str], *, seed: int) -> Array:
    """Return ``(resamples, N)``: how often each picture is drawn when patients are drawn with replacement."""
    _, which = np.unique(np.asarray(patients), return_inverse=True)
    count = int(which.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return drawn[:, which].astype(np.float32)


def _order(labels: Array, chances: Array) -> Array:
    """Return for each pair of a 1 and a 0 whether the 1 has more, ``(ones, zeros)``."""
    ill, well = chances[labels == 1][:, None], chances[labels == 0][None]
    return (ill > well) + 0.5 * (ill == well)


def _figure(value: float, sampled: Array) -> Figure:
    low, high = np.quantile(sampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(value, float(low), float(high))
