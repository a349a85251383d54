"""A small convolutional network whose head sees the mean and the peak of each feature."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Scores pictures by what is usual in them and by what stands out.

    Each step convolves and makes the picture half as fine. An opacity is small beside a lung: the mean over the picture
    alone would hide it, so the highest value of each feature counts too.

    Args:
        widths: the features of each step.
        classes: the scores.
    """

    def __init__(self, widths: Sequence[int] = (16, 24, 32, 64, 96), classes: int = 2) -> None:
        super().__init__()
        first, *_ = widths
        steps = [Convolution(2, 1, first, strides=2, norm="BATCH", act="RELU", bias=False)]
        steps += [step(before, after) for before, after in pairwise(widths)]
        self.features = nn.Sequential(nn.AvgPool2d(2), *steps)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * widths[-1], classes))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return for ``(B, 1, Y, X)`` the scores ``(B, classes)``."""
        features = self.features(pictures)
        return self.head(torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1))


def step(before: int, after: int) -> nn.Module:
    """Return a convolution whose result is half as fine as what it sees."""
    return nn.Sequential(Convolution(2, before, after, norm="BATCH", act="RELU", bias=False), nn.MaxPool2d(2))
