"""Leading a network over a prepared case, in windows or at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer

from inference_server.errors import PredictionError
from inference_server.models.network import Network, Watched, check_finite, first_tensor
from inference_server.models.runtimes.base import Prediction, Prepared


@dataclass(frozen=True, eq=False)
class Watch:
    """Where to compute, whom to tell the done fraction, and whom to ask before each window whether to stop."""

    device: torch.device
    progress: Callable[[float], None]
    cancelled: Callable[[], bool]


def infer(network: Network, inferer: Any, prepared: Prepared, watch: Watch, kind: str = "segmentation") -> Prediction:
    """Run a network on a case.

    Args:
        network: takes ``(B, channels, A, B, C)`` and gives ``(B, classes, A, B, C)``, or ``(B, classes)``.
        inferer: one of MONAI's, called with the input and the network.
        prepared: not modified.
        watch: where, and who listens.
        kind: as in the manifest.

    Raises:
        Cancelled: `watch.cancelled` said so.
        PredictionError: the scores are not finite, or of another size than the input.
    """
    calls = count_windows(inferer, prepared.inputs.shape[1:])
    watched = Watched(network, calls, watch.progress, watch.cancelled)
    with torch.inference_mode():
        output = inferer(prepared.inputs[None].to(watch.device), watched)
        scores = first_tensor(output)[0].float().cpu()
        check_finite(scores)
    if kind == "classification":
        return Prediction(prepared, scores.flatten())
    if scores.shape[1:] != prepared.inputs.shape[1:]:
        raise PredictionError("The model's output has another size than its input, which cannot be restored.")
    return Prediction(prepared, scores)


def count_windows(inferer: Any, size: tuple[int, ...]) -> int:
    """Return how often an inferer calls its network for an image of a size; 1 where that is unknown."""
    if not isinstance(inferer, SlidingWindowInferer):
        return 1
    window = np.broadcast_to(inferer.roi_size, len(size))
    overlap = np.broadcast_to(inferer.overlap, len(size))
    calls = 1
    for length, extent, share in zip(size, window, overlap, strict=True):
        step = max(1, int(extent * (1 - share)))
        calls *= 1 + max(0, math.ceil((length - extent) / step)) if extent > 0 else 1
    return math.ceil(calls / int(inferer.sw_batch_size))
