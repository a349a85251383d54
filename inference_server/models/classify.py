"""From a network's scores to the probabilities of classes."""

from __future__ import annotations

import torch

from inference_server.errors import PredictionError
from inference_server.models.answer import checked_classes
from inference_server.models.bundle import Activation
from inference_server.models.case import Result
from inference_server.models.manifest import Manifest

SUM_TOLERANCE = 1e-3


def restore_classes(scores: torch.Tensor, manifest: Manifest, activation: Activation | None) -> Result:
    """Return the probability of each of a manifest's classes.

    Args:
        scores: ``(classes,)`` floating. Not modified.
        manifest: names the classes, in the order of the scores.
        activation: what makes probabilities of the scores.

    Raises:
        PredictionError: there are more or fewer scores than classes, or they do not become probabilities.
    """
    if scores.shape != (len(manifest.classes),):
        raise PredictionError(
            f"The network gives {scores.numel()} scores; its manifest names {len(manifest.classes)} classes."
        )
    scores = scores.float()
    probabilities = {"softmax": scores.softmax(0), "sigmoid": scores.sigmoid()}.get(activation or "", scores)
    named = dict(zip(manifest.classes, probabilities.tolist(), strict=True))
    return Result(classifications=checked_classes(named, manifest))


def guess_activation(scores: torch.Tensor) -> Activation | None:
    """Return what makes probabilities of scores of which nothing is said: nothing if they are some, else softmax."""
    are_probabilities = bool((scores >= 0).all()) and abs(float(scores.sum()) - 1) < SUM_TOLERANCE
    return None if are_probabilities else "softmax"
