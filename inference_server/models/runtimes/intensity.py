"""The intensity steps of a manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from inference_server.models.preparation import Clip, IntensityStep, Quantiles, Scale, ZScore


def change_intensities(values: torch.Tensor, channels: Sequence[str], steps: Sequence[IntensityStep]) -> None:
    """Apply steps to channels, one step after the other.

    Args:
        values: ``(C, A, B, C)`` float32; overwritten.
        channels: the channels' names.
        steps: what to do.
    """
    for step in steps:
        for name, channel in zip(channels, values, strict=True):
            if step.channels is None or name in step.channels:
                _CHANGES[type(step)](channel, step)


def _clip(image: torch.Tensor, step: Clip) -> None:
    image.clamp_(step.low, step.high)


def _scale(image: torch.Tensor, step: Scale) -> None:
    low = float(image.min()) if step.low is None else step.low
    high = float(image.max()) if step.high is None else step.high
    _map(image, low, high, step)


def _quantiles(image: torch.Tensor, step: Quantiles) -> None:
    low, high = np.quantile(image.numpy().ravel(order="K"), [step.low, step.high])
    _map(image, float(low), float(high), step)


def _map(image: torch.Tensor, low: float, high: float, step: Scale | Quantiles) -> None:
    """Map two values to those of `to`; where they are not two, shift the first."""
    first, second = step.to
    image.sub_(low)
    if high > low:
        image.div_(high - low)
        image.mul_(second - first)
    image.add_(first)
    if step.clip:
        image.clamp_(min(step.to), max(step.to))


def _zscore(image: torch.Tensor, step: ZScore) -> None:
    counted = image[image != 0] if step.nonzero else image
    if not counted.numel():
        return
    mean = float(counted.mean()) if step.mean is None else step.mean
    deviation = float(counted.std(correction=0)) if step.deviation is None else step.deviation
    changed = (image - mean).div_(deviation or 1.0)
    image.copy_(torch.where(image != 0, changed, image) if step.nonzero else changed)


_CHANGES: Mapping[type, Callable[[torch.Tensor, Any], None]] = {
    Clip: _clip,
    Scale: _scale,
    Quantiles: _quantiles,
    ZScore: _zscore,
}
