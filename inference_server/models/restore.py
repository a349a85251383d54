"""From class scores on the network's grid to labels on the case's contour grid, in slabs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference_server.errors import PredictionError
from inference_server.models.bundle import Activation
from inference_server.models.case import Case, Segmentation
from inference_server.models.decision import Above, Highest, Rule, Scores, activated, decide
from inference_server.models.labels import label_dtype, label_names, on_contour_grid, segmentation_of
from inference_server.models.manifest import Manifest
from inference_server.models.placement import make_placement
from inference_server.models.regrid import nearest
from inference_server.models.runtimes.base import Prediction
from inference_server.models.sampling import Affine
from inference_server.models.slabs import SLAB_BYTES, for_each_slab
from inference_server.models.softmax import softmax_by_class


def restore_scores(
    prediction: Prediction, manifest: Manifest, activation: Activation | None
) -> tuple[Segmentation, ...]:
    """Interpolate class probabilities on the contour grid and decide there, where the scores are.

    Voxels outside the network's field of view are background.

    Args:
        prediction: not modified; its scores may be on any device.
        manifest: says how to decide and what the labels are called.
        activation: what makes probabilities of the scores.
    """
    scores = Scores(prediction.scores, prediction.prepared.affine)
    return restore_mean([scores], prediction.prepared.case, manifest, activation)


def restore_mean(
    sources: Sequence[Scores], case: Case, manifest: Manifest, activation: Activation | None
) -> tuple[Segmentation, ...]:
    """Interpolate the probabilities of several sources on the contour grid and decide on their mean.

    Args:
        sources: with the same number of classes, on grids of their own; their shares add up to one.
        case: not modified.
        manifest: says how to decide and what the labels are called.
        activation: what makes probabilities of the scores.
    """
    if manifest.restore == "threshold":
        return tuple(_structures(sources, activation, case, manifest))
    classes = len(sources[0].values)
    labels = _decided(sources, Highest(activation), case, classes - 1)
    return (segmentation_of(manifest.id, labels, case, label_names(manifest, range(1, classes))),)


def restore_labels(labels: torch.Tensor, affine: Affine, case: Case, manifest: Manifest) -> tuple[Segmentation, ...]:
    """Bring integer labels onto the contour grid, each voxel repeated as a block.

    Args:
        labels: ``(C, A, B, C)``: one label map, or one mask per structure.
        affine: 4 x 4 from an index of the labels to LPS millimetres.
    """
    if not bool((labels == labels.round()).all()) or bool((labels < 0).any()):
        raise PredictionError("The model gave values that are no labels: whole numbers from 0 were expected.")
    _, first, second, last = labels.shape
    geometry = case.reference.geometry
    placement = make_placement(affine, (first, second, last), geometry, device=labels.device)
    maps = [on_contour_grid(nearest(channel, placement, np.int32), case) for channel in labels]
    if len(maps) == 1:
        highest = max([*manifest.labels, int(maps[0].max(initial=0))])
        return (segmentation_of(manifest.id, maps[0], case, label_names(manifest, range(1, highest + 1))),)
    masks = zip(file_names(manifest, len(maps)).items(), maps, strict=True)
    return tuple(
        segmentation_of(name, (found > 0) * label_dtype(value).type(value), case, label_names(manifest, [value]))
        for (value, name), found in masks
    )


def _structures(
    sources: Sequence[Scores], activation: Activation | None, case: Case, manifest: Manifest
) -> Iterator[Segmentation]:
    left = None if activation == "softmax" else activation
    names = file_names(manifest, len(sources[0].values))
    apart = [_channels(source.values, activation) for source in sources]
    for (value, name), *channels in zip(names.items(), *apart, strict=True):
        single = [replace(source, values=channel) for source, channel in zip(sources, channels, strict=True)]
        labels = _decided(single, Above(manifest.threshold, left, value), case, value)
        yield segmentation_of(name, labels, case, label_names(manifest, [value]))


def _channels(scores: torch.Tensor, activation: Activation | None) -> Iterator[torch.Tensor]:
    """Yield the channels ``(1, A, B, C)``: with softmax, which is over all of them, already as probabilities."""
    return softmax_by_class(scores) if activation == "softmax" else (one[None] for one in scores)


def _decided(sources: Sequence[Scores], rule: Rule, case: Case, highest: int) -> NDArray[Any]:
    return decide(sources, case.reference.geometry, case.scaling_factor, rule, label_dtype(highest))


def activate(scores: torch.Tensor, activation: Activation | None) -> None:
    """Make probabilities of scores ``(classes, A, B, C)``, in place."""
    if activation is None:
        return

    def activate(rows: slice) -> None:
        scores[:, rows] = activated(scores[:, rows].float(), activation, dim=0)

    row_bytes = 4 * scores.shape[2] * scores.shape[3]
    for_each_slab(activate, scores.shape[1], max(1, SLAB_BYTES // row_bytes))


def file_names(manifest: Manifest, structures: int) -> dict[int, str]:
    """Return for each structure's value a name that is safe as a file's and unlike the others in any case."""
    found: dict[int, str] = {}
    for value, label in label_names(manifest, range(1, structures + 1)).items():
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", label.name).strip("._")[:100] or "label"
        taken = {other.lower() for other in found.values()}
        found[value] = f"{name}_{value}" if name.lower() in taken else name
    return found
