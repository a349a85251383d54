"""From the answers of an ensemble's members to one: the mean of probabilities, or what most of them say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from inference_server.errors import PredictionError
from inference_server.models.case import Case, Result, Segmentation
from inference_server.models.decision import Scores
from inference_server.models.labels import label_dtype, segmentation_of
from inference_server.models.manifest import Manifest
from inference_server.models.restore import restore_mean
from inference_server.models.sampling import Affine

SAME_PLACE_MM = 1e-6


class RunningMean:
    """The mean of probabilities that come one after the other: one sum for all that lie on the same grid."""

    def __init__(self) -> None:
        self._sums: list[Scores] = []
        self._count = 0

    def add(self, chances: torch.Tensor, affine: Affine) -> None:
        """Add a member's probabilities.

        Args:
            chances: ``(classes, A, B, C)`` floating; may be overwritten.
            affine: 4 x 4 from an index of them to LPS millimetres.

        Raises:
            PredictionError: there are more or fewer classes than before.
        """
        if self._sums and len(self._sums[0].values) != len(chances):
            raise PredictionError("The members of the ensemble give different numbers of classes.")
        self._count += 1
        for number, known in enumerate(self._sums):
            if known.values.shape == chances.shape and np.allclose(known.affine, affine, rtol=0, atol=SAME_PLACE_MM):
                with torch.inference_mode():  # in which the members made them
                    known.values.add_(chances)
                self._sums[number] = replace(known, share=known.share + 1)
                return
        self._sums.append(Scores(chances.float(), affine))

    def restored(self, case: Case, manifest: Manifest) -> Result:
        """Return what the mean on the contour grid decides. Where a member sees nothing it says background.

        The sums are overwritten.
        """
        with torch.inference_mode():
            sources = [
                replace(known, values=known.values.div_(known.share), share=known.share / self._count)
                for known in self._sums
            ]
        return Result(restore_mean(sources, case, manifest, None))


def majority(results: Sequence[Result], case: Case, manifest: Manifest, names: Sequence[str]) -> Result:
    """Return for each voxel the label that most members give; of several, the lowest, background before all.

    Args:
        results: the members', on the contour grid.
        case: not modified.
        manifest: the ensemble's.
        names: the members' ids.

    Raises:
        PredictionError: the members give different numbers of segmentations.
    """
    first = results[0].segmentations
    if any(len(result.segmentations) != len(first) for result in results):
        raise PredictionError("The members of the ensemble give different numbers of segmentations.")
    together = zip(*(result.segmentations for result in results), strict=True)
    return Result(tuple(_vote(votes, case, manifest.id if votes[0].name == names[0] else "") for votes in together))


def combine_classes(results: Sequence[Result], manifest: Manifest, names: Sequence[str]) -> Result:
    """Return the mean probability of each class, or for `majority` the share of members that find it the likeliest.

    What each member says, by `names`, stands beside it.
    """
    found = [result.classifications for result in results]
    votes = Counter(max(one, key=lambda name: one[name]) for one in found)
    shares = {name: votes[name] / len(found) for name in manifest.classes}
    means = {name: sum(one[name] for one in found) / len(found) for name in manifest.classes}
    members = dict(zip(names, found, strict=True))
    return Result(classifications=shares if manifest.combine == "majority" else means, members=members)


def _vote(votes: Sequence[Segmentation], case: Case, name: str) -> Segmentation:
    names = {value: label for vote in votes for value, label in vote.names.items()}
    shape = votes[0].labels.array.shape
    labels, most = np.zeros(shape, label_dtype(max(names, default=1))), np.zeros(shape, np.uint8)
    for value in (0, *sorted(names)):
        count = sum((vote.labels.array == value).astype(np.uint8) for vote in votes)
        labels[count > most] = value
        np.maximum(most, count, out=most)
    return segmentation_of(name or votes[0].name, labels, case, names)
