"""MONAI's DenseNet, small, on pictures that are first made half as fine.

Source: Huang et al., Densely Connected Convolutional Networks, 2017.
"""

from __future__ import annotations

from typing import Any

from monai.networks.nets import DenseNet
from torch import Tensor
from torch.nn import functional


class SmallDenseNet(DenseNet):
    """Scores pictures; takes the arguments of MONAI's `DenseNet`."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(spatial_dims=2, in_channels=1, **arguments)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return for ``(B, 1, Y, X)`` the scores ``(B, out_channels)``."""
        return super().forward(functional.avg_pool2d(pictures, 2))
