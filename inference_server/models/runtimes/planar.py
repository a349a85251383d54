"""Pictures for networks of two dimensions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from monai.inferers import SimpleInferer

from inference_server.models.network import first_tensor

Call = Callable[[torch.Tensor], torch.Tensor]


def as_volumes(network: Call, *, rows_first: bool) -> Call:
    """Return a network of two dimensions as one that takes and gives volumes of one slice."""
    return partial(Planar(SimpleInferer(), rows_first=rows_first), network=network)


class Planar:
    """Has an inferer and its network see a picture where there is a volume of one slice.

    Args:
        inferer: called with ``(B, C, X, Y)`` and the network.
        rows_first: call it with ``(B, C, Y, X)`` instead, rows and columns, as torchvision has pictures.
    """

    def __init__(self, inferer: Any, *, rows_first: bool) -> None:
        self._inferer, self._rows_first = inferer, rows_first

    def __call__(self, inputs: torch.Tensor, network: Call) -> torch.Tensor:
        """Return for ``(B, C, X, Y, 1)`` the scores ``(B, classes, X, Y, 1)``, or what has no such axes as it is."""
        output = first_tensor(self._inferer(self._turned(inputs.squeeze(-1)), network))
        return self._turned(output).unsqueeze(-1) if output.ndim == 4 else output

    def _turned(self, picture: torch.Tensor) -> torch.Tensor:
        return picture.transpose(-1, -2).contiguous() if self._rows_first else picture
