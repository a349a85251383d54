"""MeshNet: 3 x 3 x 3 convolutions, dilated more and more and then less again, that keep the image's size."""

from __future__ import annotations

import torch
from torch import nn

DILATIONS = (1, 2, 4, 8, 16, 8, 4, 2, 1)
ACTIVATIONS = {"relu": torch.relu_, "elu": nn.functional.elu_}


class MeshNet(nn.Module):
    """Takes ``(B, 1, A, B, C)`` and gives scores ``(B, classes, A, B, C)``; a voxel's depend on 46 voxels each way.

    Args:
        channels: of each hidden layer.
        classes: of the output, the background included.
        activation: after each hidden layer, `relu` or `elu`.
    """

    def __init__(self, channels: int, classes: int, activation: str = "relu") -> None:
        super().__init__()
        layers = [
            nn.Conv3d(channels if index else 1, channels, 3, padding=dilation, dilation=dilation)
            for index, dilation in enumerate(DILATIONS)
        ]
        self.convs = nn.ModuleList([*layers, nn.Conv3d(channels, classes, 1)])
        self.activation = ACTIVATIONS[activation]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        *hidden, last = self.convs
        for layer in hidden:
            image = self.activation(layer(image))
        return last(image)
