"""A network in the style of VGG: pairs of 3 x 3 convolutions, each pair before a maximum of 2 x 2, and a hidden layer.

Source: Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, 2015; here small,
with batch normalisation, and with a mean over the picture before the hidden layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from monai.networks.blocks import Convolution
from torch import Tensor, nn


class VGG(nn.Module):
    """Scores pictures.

    Args:
        widths: the features of each pair of convolutions.
        hidden: the width of the hidden layer.
        classes: the scores.
    """

    def __init__(self, widths: Sequence[int] = (8, 16, 32, 64, 96), hidden: int = 64, classes: int = 2) -> None:
        super().__init__()
        pairs = [pair(before, after) for before, after in pairwise((1, *widths))]
        self.features = nn.Sequential(nn.AvgPool2d(2), *pairs, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(widths[-1], hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, classes))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return for ``(B, 1, Y, X)`` the scores ``(B, classes)``."""
        return self.head(self.features(pictures))


def pair(before: int, after: int) -> nn.Module:
    """Return two convolutions and a maximum, after which the picture is half as fine."""
    first = Convolution(2, before, after, norm="BATCH", act="RELU", bias=False)
    second = Convolution(2, after, after, norm="BATCH", act="RELU", bias=False)
    return nn.Sequential(first, second, nn.MaxPool2d(2))
