"""What every voxel of a grid is, by the scores that one or several sources have on grids of their own.

Scores are interpolated linearly and then decided on. An interpolated score is a mean of those around it: where all
source voxels around a voxel are of one class, that class has the highest mean as well, and nothing is interpolated.
This leaves the voxels at borders, and gives the same labels as interpolating everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from inference_server.imaging.volume import Geometry, ScalingFactor
from inference_server.models.bundle import Activation
from inference_server.models.placement import Block, Part, Voxels, blocks, make_placement
from inference_server.models.sampling import Affine
from inference_server.models.scattered import interpolate_at, sum_of
from inference_server.models.slabs import SLAB_BYTES, for_each_slab

UNDECIDED = -1
BLOCK_VOXELS = 2**17
BLOCK_VALUES = 2**22
"""So many voxels, and so many scores of them, are worked on at a time: what a thread takes stays bounded."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores on a grid.

    Attributes:
        values: ``(classes, A, B, C)`` floating, on any device.
        affine: 4 x 4 from an index of `values` to LPS millimetres.
        share: what it counts in the mean of several sources.
    """

    values: torch.Tensor
    affine: Affine
    share: float = 1.0


class Rule(Protocol):
    """How a label follows from scores."""

    def own(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the labels, int16, of voxels with the scores ``(classes, …)``."""

    def chances(self, scores: torch.Tensor) -> torch.Tensor:
        """Return float32 of scores ``(n, classes)``: that whose mean is decided on."""

    def of(self, chances: torch.Tensor) -> torch.Tensor:
        """Return the labels of voxels with the chances ``(n, classes)``."""

    def unseen(self, classes: int, device: torch.device) -> torch.Tensor:
        """Return the chances ``(classes,)`` of a voxel that a source does not cover. Alone they give label 0."""


@dataclass(frozen=True)
class Highest:
    """The class with the highest score, the first of equals."""

    activation: Activation | None

    def own(self, scores: torch.Tensor) -> torch.Tensor:
        best, label = scores[0], torch.zeros(scores.shape[1:], dtype=torch.int16, device=scores.device)
        for value in range(1, len(scores)):
            label.masked_fill_(scores[value] > best, value)
            best = torch.maximum(best, scores[value])
        return label

    def chances(self, scores: torch.Tensor) -> torch.Tensor:
        return activated(scores.float(), self.activation, dim=1)

    def of(self, chances: torch.Tensor) -> torch.Tensor:
        return chances.max(1).indices

    def unseen(self, classes: int, device: torch.device) -> torch.Tensor:
        return (torch.arange(classes, device=device) == 0).float()


@dataclass(frozen=True)
class Above:
    """A structure's value where its chance, the only one, is above a threshold."""

    threshold: float
    activation: Literal["sigmoid"] | None
    value: int = 1

    def own(self, scores: torch.Tensor) -> torch.Tensor:
        return self._label(activated(scores[0].float(), self.activation, dim=0))

    def chances(self, scores: torch.Tensor) -> torch.Tensor:
        return activated(scores.float(), self.activation, dim=1)

    def of(self, chances: torch.Tensor) -> torch.Tensor:
        return self._label(chances[:, 0])

    def unseen(self, classes: int, device: torch.device) -> torch.Tensor:
        return torch.zeros(classes, device=device)

    def _label(self, chances: torch.Tensor) -> torch.Tensor:
        return (chances > self.threshold).short() * self.value


def decide(
    sources: Sequence[Scores], grid: Geometry, factor: ScalingFactor, rule: Rule, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Decide on every voxel of a grid, refined into its contour grid by `factor`.

    Computes where the sources' values are. Beside these and the labels little memory is taken, however many classes
    there are.

    Args:
        sources: at least one, with the same number of classes. Not modified.
        grid: before refinement. What a source does not cover is background to it.
        factor: how many parts each voxel is split into, (z, y, x).
        rule: how to decide.
        dtype: an integer type that holds all labels.

    Returns:
        Labels (z, y, x) on the contour grid.
    """
    fields = [_Field(source, grid, factor, rule) for source in sources]
    labels = np.empty(grid.refined(factor).shape, dtype)
    cut = list(blocks(labels.shape, max(1, min(BLOCK_VOXELS, BLOCK_VALUES // len(sources[0].values)))))

    def work(some: slice) -> None:
        for block in cut[some]:
            labels[block] = _labels(fields, block, rule).cpu().numpy()

    for_each_slab(work, len(cut), 1)
    return labels


def activated(scores: torch.Tensor, activation: Activation | None, *, dim: int) -> torch.Tensor:
    """Return probabilities of scores, whose classes are along `dim`."""
    if activation is None:
        return scores
    return scores.softmax(dim) if activation == "softmax" else scores.sigmoid()


class _Field:
    """A source, placed under the output, with the label of each of its own voxels."""

    def __init__(self, source: Scores, grid: Geometry, factor: ScalingFactor, rule: Rule) -> None:
        _, first, second, last = source.values.shape
        device = source.values.device
        self._placement = make_placement(source.affine, (first, second, last), grid, factor, device=device)
        self._scores = self._placement.view(source.values)
        self._labels = self._placement.view(_own_labels(source.values, rule))
        self._share, self._rule = source.share, rule

    def part(self, block: Block) -> Part:
        return self._placement.part(block)

    def said(self, part: Part) -> torch.Tensor:
        """Return the label of each voxel of a block, `UNDECIDED` between source voxels of different labels."""
        labels = part.spread(_agreed(self._labels[part.box], self._placement.whole))
        return labels if part.covered is None else labels * part.covered

    def chances(self, part: Part, voxels: Voxels) -> torch.Tensor:
        """Return the interpolated chances ``(n, classes)`` of some voxels of a block, times the source's share."""
        scores = self._scores[(slice(None), *part.box)]
        places, whole = part.places(voxels), self._placement.whole
        found = interpolate_at(scores, places, whole=whole, values=self._rule.chances) * self._share
        if part.covered is None:
            return found
        unseen = self._rule.unseen(found.shape[1], found.device) * self._share
        return torch.where(part.covered[voxels][:, None], found, unseen)


def _own_labels(scores: torch.Tensor, rule: Rule) -> torch.Tensor:
    labels = torch.empty(scores.shape[1:], dtype=torch.int16, device=scores.device)

    def work(rows: slice) -> None:
        labels[rows] = rule.own(scores[:, rows])

    row_bytes = 4 * scores.shape[2] * scores.shape[3]
    for_each_slab(work, scores.shape[1], max(1, SLAB_BYTES // (8 * row_bytes)))
    return labels


def _labels(fields: Sequence[_Field], block: Block, rule: Rule) -> torch.Tensor:
    parts = [field.part(block) for field in fields]
    labels = fields[0].said(parts[0])
    for field, part in zip(fields[1:], parts[1:], strict=True):
        said = field.said(part)
        labels = torch.where(labels == said, labels, UNDECIDED)
    voxels = (labels == UNDECIDED).nonzero(as_tuple=True)
    if len(voxels[0]):
        chances = [field.chances(part, voxels) for field, part in zip(fields, parts, strict=True)]
        labels[voxels] = rule.of(sum_of(chances)).short()
    return labels


def _agreed(labels: torch.Tensor, whole: Sequence[bool]) -> torch.Tensor:
    """Return the label that the voxels around each cell have in common, else `UNDECIDED`."""
    low = high = labels
    for axis, on_voxels in enumerate(whole):
        if not on_voxels:
            count = labels.shape[axis] - 1
            low = torch.minimum(low.narrow(axis, 0, count), low.narrow(axis, 1, count))
            high = torch.maximum(high.narrow(axis, 0, count), high.narrow(axis, 1, count))
    return torch.where(low == high, low, UNDECIDED)
