"""A network in the style of Xception: convolutions of each feature by itself, then across features, with short cuts.

Source: Chollet, Xception: Deep Learning with Depthwise Separable Convolutions, 2017; here small.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from monai.networks.blocks import Convolution
from torch import Tensor, nn


class Xception(nn.Module):
    """Scores pictures.

    Args:
        widths: the features of the first convolution, then of each block.
        last: the features before the scores.
        classes: the scores.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 128), last: int = 160, classes: int = 2) -> None:
        super().__init__()
        stem = Convolution(2, 1, widths[0], strides=2, norm="BATCH", act="RELU", bias=False)
        blocks = [Block(before, after) for before, after in pairwise(widths)]
        self.features = nn.Sequential(
            nn.AvgPool2d(2), stem, *blocks, separable(widths[-1], last), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(last, classes))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return for ``(B, 1, Y, X)`` the scores ``(B, classes)``."""
        return self.head(self.features(pictures))


class Block(nn.Module):
    """Two separable convolutions and a maximum, to which the features before are added; the result is half as fine."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            separable(before, after), separable(after, after), nn.MaxPool2d(3, stride=2, padding=1)
        )
        self.short_cut = Convolution(2, before, after, strides=2, kernel_size=1, norm="BATCH", act=None, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return for ``(B, before, Y, X)`` features ``(B, after, Y / 2, X / 2)``."""
        return self.residual(features) + self.short_cut(features)


def separable(before: int, after: int) -> nn.Module:
    """Return a convolution of 3 x 3 of each feature by itself, and one across features."""
    alone = Convolution(2, before, before, groups=before, conv_only=True, bias=False)
    across = Convolution(2, before, after, kernel_size=1, norm="BATCH", act="RELU", bias=False)
    return nn.Sequential(alone, across)
