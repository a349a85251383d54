"""A network on a device, computed by a backend in a precision."""

from __future__ import annotations

from collections.abc import Callable

import torch

from inference_server.errors import Cancelled, PredictionError
from inference_server.models.backends import Compute, Mode, open_backend
from inference_server.models.backends.eager import DTYPES, Eager, first_tensor
from inference_server.models.manifest import Backend, Precision

__all__ = ["DTYPES", "Network", "Watched", "check_finite", "first_tensor"]


class Network:
    """Computes a module by a backend, in a precision; takes float32 and gives contiguous float32.

    Attributes:
        heard: told of every window that is computed.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._compute: Compute = Eager(module)
        self.heard: Callable[[torch.Tensor], None] = lambda _: None

    @property
    def size_bytes(self) -> int:
        """Memory that it takes, as far as it is known."""
        return self._compute.size_bytes

    @property
    def refusal(self) -> str:
        """Why the backend leaves windows to torch, in a few words; empty where it does not."""
        return self._compute.refusal

    def use(self, precision: Precision, backend: Backend = Backend.EAGER) -> None:
        """Compute in another way. What a half precision has rounded stays so.

        Raises:
            ModelLoadError: the backend is not installed.
        """
        self._compute = open_backend(self._module, Mode(backend, precision))

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        """Return the scores ``(B, classes, A, B, C)`` of a window ``(B, channels, A, B, C)``."""
        self.heard(window)
        return self._compute(window)


class Watched:
    """Counts the calls of a network: tells the progress, and stops when the task is cancelled."""

    def __init__(
        self,
        network: Callable[[torch.Tensor], torch.Tensor],
        calls: int,
        progress: Callable[[float], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._network, self._calls = network, calls
        self._progress, self._cancelled = progress, cancelled
        self._done = 0

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        if self._cancelled():
            raise Cancelled
        scores = self._network(window)
        self._done += 1
        self._progress(min(1.0, self._done / self._calls))
        return scores


def check_finite(scores: torch.Tensor) -> None:
    """Refuse scores that hold NaN or infinity.

    Raises:
        PredictionError: they do.
    """
    # A sum is finite only if all of its terms are, and is read in one pass.
    if not bool(scores.sum().isfinite()):
        raise PredictionError("The model gave values that are not numbers for this case; no segmentation was made.")
