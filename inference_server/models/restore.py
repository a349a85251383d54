"""From class scores on the network's grid to labels on the case's contour grid, in slabs."""

from __future__ import annotations

import re

import numpy as np
import torch

from inference_server.errors import PredictionError
from inference_server.models.bundle import Activation
from inference_server.models.case import Case, Segmentation
from inference_server.models.labels import label_dtype, label_names, on_contour_grid, segmentation_of
from inference_server.models.manifest import Manifest
from inference_server.models.runtimes.base import Prediction
from inference_server.models.sampling import Affine, Sampler, Size, make_sampler
from inference_server.models.slabs import SLAB_BYTES, for_each_slab, parts


def restore_scores(
    prediction: Prediction, manifest: Manifest, activation: Activation | None
) -> tuple[Segmentation, ...]:
    """Interpolate class probabilities on the contour grid and decide there.

    Voxels outside the network's field of view are background.

    Args:
        prediction: its scores are overwritten.
        manifest: says how to decide and what the labels are called.
        activation: what makes probabilities of the scores.
    """
    scores, case = prediction.scores, prediction.prepared.case
    sampler = _sampler(prediction.prepared.affine, _size(scores), case)
    if manifest.restore == "threshold":
        activate(scores, activation)
        return _structures(scores, sampler, case, manifest)
    if not sampler.exact:  # where nothing is interpolated, scores and probabilities have the same maximum
        activate(scores, activation)
    return (_classes(scores, sampler, case, manifest),)


def restore_labels(labels: torch.Tensor, affine: Affine, case: Case, manifest: Manifest) -> tuple[Segmentation, ...]:
    """Bring integer labels onto the contour grid, each voxel repeated as a block.

    Args:
        labels: ``(C, A, B, C)``: one label map, or one mask per structure.
        affine: 4 x 4 from an index of the labels to LPS millimetres.
    """
    if not bool((labels == labels.round()).all()) or bool((labels < 0).any()):
        raise PredictionError("The model gave values that are no labels: whole numbers from 0 were expected.")
    sampler = make_sampler(affine, _size(labels), case.reference.geometry)
    maps = [on_contour_grid(_nearest(channel[None], sampler, case), case) for channel in labels]
    if len(maps) == 1:
        highest = max([*manifest.labels, int(maps[0].max(initial=0))])
        return (segmentation_of(manifest.id, maps[0], case, label_names(manifest, range(1, highest + 1))),)
    masks = zip(file_names(manifest, len(maps)).items(), maps, strict=True)
    return tuple(
        segmentation_of(name, (found > 0) * label_dtype(value).type(value), case, label_names(manifest, [value]))
        for (value, name), found in masks
    )


def _classes(scores: torch.Tensor, sampler: Sampler, case: Case, manifest: Manifest) -> Segmentation:
    classes = len(scores)
    labels = np.empty(_contour_shape(case), label_dtype(classes - 1))
    view = sampler.arrange(labels)
    step, chunk = _steps(sampler.shape, classes)

    def decide(rows: slice) -> None:
        view[rows] = _keep_covered(_best_class(scores, sampler, rows, chunk), sampler, rows)

    for_each_slab(decide, sampler.shape[0], step)
    return segmentation_of(manifest.id, labels, case, label_names(manifest, range(1, classes)))


def _best_class(scores: torch.Tensor, sampler: Sampler, rows: slice, chunk: int) -> torch.Tensor:
    """Return the class with the highest value, the first of equals, by a running maximum."""
    kind = torch.uint8 if len(scores) <= 256 else torch.int16
    best = torch.empty(0)
    label = torch.empty(0, dtype=kind)
    for part in parts(len(scores), chunk):
        for value, values in enumerate(sampler.sample(scores[part], rows), part.start):
            if value == 0:
                best, label = values, torch.zeros(values.shape, dtype=kind)
                continue
            label = torch.where(values > best, torch.tensor(value, dtype=kind), label)
            best = torch.maximum(best, values)
    return label


def _structures(scores: torch.Tensor, sampler: Sampler, case: Case, manifest: Manifest) -> tuple[Segmentation, ...]:
    names = file_names(manifest, len(scores))
    return tuple(_structure(scores, value, name, sampler, case, manifest) for value, name in names.items())


def _structure(
    scores: torch.Tensor, value: int, name: str, sampler: Sampler, case: Case, manifest: Manifest
) -> Segmentation:
    channel = scores[value - 1 : value]
    labels = np.empty(_contour_shape(case), label_dtype(value))
    view = sampler.arrange(labels)

    def decide(rows: slice) -> None:
        above = sampler.sample(channel, rows)[0] > manifest.threshold
        view[rows] = _keep_covered(above, sampler, rows) * labels.dtype.type(value)

    for_each_slab(decide, sampler.shape[0], _steps(sampler.shape, 1)[0])
    return segmentation_of(name, labels, case, label_names(manifest, [value]))


def _nearest(channel: torch.Tensor, sampler: Sampler, case: Case) -> np.ndarray:
    """Return the label nearest to each voxel of the case; exact for labels that already lie on its grid."""
    labels = np.empty(case.reference.geometry.shape, np.int32)
    view = sampler.arrange(labels)

    def pick(rows: slice) -> None:
        view[rows] = _keep_covered(sampler.nearest(channel, rows)[0], sampler, rows)

    for_each_slab(pick, sampler.shape[0], _steps(sampler.shape, 1)[0])
    return labels


def activate(scores: torch.Tensor, activation: Activation | None) -> None:
    """Make probabilities of scores ``(classes, A, B, C)``, in place."""
    if activation is None:
        return

    def activate(rows: slice) -> None:
        block = scores[:, rows]
        scores[:, rows] = block.float().softmax(0) if activation == "softmax" else block.sigmoid()

    for_each_slab(activate, scores.shape[1], _steps(_size(scores), 1)[0])


def _keep_covered(labels: torch.Tensor, sampler: Sampler, rows: slice) -> np.ndarray:
    covered = sampler.covered(rows)
    return (labels if covered is None else labels * covered).numpy()


def file_names(manifest: Manifest, structures: int) -> dict[int, str]:
    """Return for each structure's value a name that is safe as a file's and unlike the others in any case."""
    found: dict[int, str] = {}
    for value, label in label_names(manifest, range(1, structures + 1)).items():
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", label.name).strip("._")[:100] or "label"
        taken = {other.lower() for other in found.values()}
        found[value] = f"{name}_{value}" if name.lower() in taken else name
    return found


def _sampler(affine: Affine, size: Size, case: Case) -> Sampler:
    return make_sampler(affine, size, case.reference.geometry, case.scaling_factor)


def _size(scores: torch.Tensor) -> Size:
    return scores.shape[1], scores.shape[2], scores.shape[3]


def _contour_shape(case: Case) -> Size:
    return case.reference.geometry.refined(case.scaling_factor).shape


def _steps(shape: Size, classes: int) -> tuple[int, int]:
    """Return how many rows and how many classes are worked on at a time."""
    row_bytes = 4 * shape[1] * shape[2]
    chunk = min(classes, max(1, SLAB_BYTES // row_bytes))
    return max(1, SLAB_BYTES // (row_bytes * chunk)), chunk
