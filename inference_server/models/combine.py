"""From the answers of an ensemble's members to one: the mean of probabilities, or what most of them say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from inference_server.errors import PredictionError
from inference_server.imaging.volume import Geometry
from inference_server.models.case import Case, Result, Segmentation
from inference_server.models.labels import label_dtype, label_names, segmentation_of
from inference_server.models.manifest import Manifest
from inference_server.models.restore import file_names
from inference_server.models.sampling import Affine, make_sampler
from inference_server.models.slabs import for_each_slab

SLAB_BYTES = 128 * 1024**2
"""Size of the mean that is held at a time."""
ROWS = 8


@dataclass(frozen=True, eq=False)
class Chances:
    """A member's probabilities: ``(classes, A, B, C)`` floating on the CPU, and the affine from an index to LPS mm."""

    values: torch.Tensor
    affine: Affine


def mean_of_chances(chances: Sequence[Chances], case: Case, manifest: Manifest) -> Result:
    """Average the members' probabilities on the contour grid and decide there.

    Where a member sees nothing it says background.

    Raises:
        PredictionError: the members give different numbers of classes.
    """
    count = len(chances[0].values)
    if any(len(member.values) != count for member in chances):
        raise PredictionError("The members of the ensemble give different numbers of classes.")
    shape = case.reference.geometry.refined(case.scaling_factor).shape
    argmax = manifest.restore == "argmax"
    labels = [np.empty(shape, label_dtype(count - 1))] if argmax else [np.empty(shape, bool) for _ in range(count)]
    for rows, part in _slabs(case, count):
        mean = _mean(chances, part, case, argmax=argmax)
        if argmax:
            labels[0][rows] = torch.from_numpy(mean).max(0).indices.numpy()
        else:
            for structure, values in zip(labels, mean, strict=True):
                structure[rows] = values > manifest.threshold
    return Result(_argmaxed(labels[0], count, case, manifest) if argmax else _structures(labels, case, manifest))


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


def combine_classes(results: Sequence[Result], manifest: Manifest) -> Result:
    """Return the mean probability of each class, or for `majority` the share of members that find it the likeliest."""
    found = [result.classifications for result in results]
    if manifest.combine == "majority":
        votes = Counter(max(one, key=lambda name: one[name]) for one in found)
        return Result(classifications={name: votes[name] / len(found) for name in manifest.classes})
    return Result(classifications={name: sum(one[name] for one in found) / len(found) for name in manifest.classes})


def _slabs(case: Case, classes: int) -> Iterator[tuple[slice, Geometry]]:
    """Cut the case's grid along z: which rows of the contour grid, and the part of the case's own grid they refine."""
    geometry, factor = case.reference.geometry, case.scaling_factor
    z, y, x = geometry.shape
    plane_bytes = 4 * classes * y * x * factor[0] * factor[1] * factor[2]
    step = max(1, SLAB_BYTES // plane_bytes)
    for start in range(0, z, step):
        stop = min(start + step, z)
        a, b, c, _ = (float(value) for value in geometry.affine @ (0, 0, start, 1))
        part = replace(geometry, shape=(stop - start, y, x), origin_mm=(a, b, c))
        yield slice(start * factor[0], stop * factor[0]), part


def _mean(chances: Sequence[Chances], part: Geometry, case: Case, *, argmax: bool) -> NDArray[np.float32]:
    total = np.zeros((len(chances[0].values), *part.refined(case.scaling_factor).shape), np.float32)
    for member in chances:
        _add(total, member, part, case, argmax=argmax)
    total /= len(chances)
    return total


def _add(total: NDArray[np.float32], member: Chances, part: Geometry, case: Case, *, argmax: bool) -> None:
    values = member.values
    sampler = make_sampler(
        member.affine, (values.shape[1], values.shape[2], values.shape[3]), part, case.scaling_factor
    )
    views = [sampler.arrange(channel) for channel in total]

    def add(rows: slice) -> None:
        sampled, covered = sampler.sample(values, rows), sampler.covered(rows)
        if covered is not None:
            sampled = sampled * covered
            sampled[0] += (~covered).float() if argmax else 0.0
        for view, channel in zip(views, sampled, strict=True):
            view[rows] += channel.numpy()

    for_each_slab(add, sampler.shape[0], ROWS)


def _argmaxed(labels: NDArray[np.generic], count: int, case: Case, manifest: Manifest) -> tuple[Segmentation, ...]:
    return (segmentation_of(manifest.id, labels, case, label_names(manifest, range(1, count))),)


def _structures(masks: Sequence[NDArray[np.bool_]], case: Case, manifest: Manifest) -> tuple[Segmentation, ...]:
    named = zip(file_names(manifest, len(masks)).items(), masks, strict=True)
    return tuple(
        segmentation_of(name, mask * label_dtype(value).type(value), case, label_names(manifest, [value]))
        for (value, name), mask in named
    )


def _vote(votes: Sequence[Segmentation], case: Case, name: str) -> Segmentation:
    names = {value: label for vote in votes for value, label in vote.names.items()}
    shape = votes[0].labels.array.shape
    labels, most = np.zeros(shape, label_dtype(max(names, default=1))), np.zeros(shape, np.uint8)
    for value in (0, *sorted(names)):
        count = sum((vote.labels.array == value).astype(np.uint8) for vote in votes)
        labels[count > most] = value
        np.maximum(most, count, out=most)
    return segmentation_of(name or votes[0].name, labels, case, names)
