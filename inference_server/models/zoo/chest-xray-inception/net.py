"""A network in the style of Inception: modules that look at several scales side by side.

Source: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016; here small, with one kind of
module.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn


class Inception(nn.Module):
    """Scores pictures.

    Args:
        stem: the features of the first convolution.
        widths: of each scale, the features that each module's branches give; between scales the picture is made half
            as fine.
        classes: the scores.
    """

    def __init__(
        self, stem: int = 16, widths: Sequence[Sequence[int]] = ((8,), (16, 24), (32,)), classes: int = 2
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.AvgPool2d(2), conv(1, stem, strides=2)]
        features = stem
        for scale in widths:
            layers.append(nn.MaxPool2d(2))
            for width in scale:
                layers.append(Mixed(features, width))
                features = 4 * width
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(features, classes))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return for ``(B, 1, Y, X)`` the scores ``(B, classes)``."""
        return self.head(self.features(pictures))


class Mixed(nn.Module):
    """Four branches, which see single places, 3 x 3, 5 x 5, and the maximum of 3 x 3; each gives `width` features."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv(before, width, size=1),
                nn.Sequential(conv(before, width, size=1), conv(width, width)),
                nn.Sequential(conv(before, width, size=1), conv(width, width), conv(width, width)),
                nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), conv(before, width, size=1)),
            ]
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return for ``(B, before, Y, X)`` features ``(B, 4 * width, Y, X)``."""
        return torch.cat([branch(features) for branch in self.branches], 1)


def conv(before: int, after: int, *, size: int = 3, strides: int = 1) -> nn.Module:
    """Return a convolution with batch normalisation and ReLU."""
    return Convolution(2, before, after, strides=strides, kernel_size=size, norm="BATCH", act="RELU", bias=False)
