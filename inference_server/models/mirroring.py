"""A network that sees each window in a mirror too."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch

Call = Callable[[torch.Tensor], torch.Tensor]


class Mirrored:
    """Averages what a network gives for a window and for its mirror images, turned back.

    The mean is taken of the network's own output, as that of overlapping windows is: where these are scores, it is
    one of scores and not of probabilities.

    Args:
        network: takes ``(B, channels, A, B, C)`` and gives as many axes, or classes, which have nothing to turn back.
        axes: of the window, from 0 on; each of their combinations is a mirror image.
    """

    def __init__(self, network: Call, axes: Sequence[int]) -> None:
        self._network = network
        self._flips = [
            tuple(axis + 2 for axis in some)
            for count in range(len(axes) + 1)
            for some in itertools.combinations(axes, count)
        ]

    @property
    def calls(self) -> int:
        """How often the network is called for a window."""
        return len(self._flips)

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        total = self._seen(window, self._flips[0]).clone()
        for flip in self._flips[1:]:
            total += self._seen(window, flip)
        return total / self.calls

    def _seen(self, window: torch.Tensor, flip: tuple[int, ...]) -> torch.Tensor:
        if not flip:
            return self._network(window)
        scores = self._network(window.flip(flip))
        return scores.flip(flip) if scores.ndim == window.ndim else scores
