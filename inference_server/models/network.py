"""A network on a device, in a precision."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch

from inference_server.errors import Cancelled, PredictionError
from inference_server.models.manifest import Precision

DTYPES = {
    Precision.FLOAT32: torch.float32,
    Precision.BFLOAT16: torch.bfloat16,
    Precision.FLOAT16: torch.float16,
}


class Network:
    """Calls a module in its precision and memory layout; takes and gives contiguous float32."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._dtype = torch.float32
        self._layout = torch.contiguous_format

    @property
    def size_bytes(self) -> int:
        """Memory of the parameters and buffers."""
        tensors = chain(self._module.parameters(), self._module.buffers())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def use(self, precision: Precision) -> None:
        """Convert the module in place: half precision goes with channels-last memory."""
        self._dtype = DTYPES[precision]
        if precision is not Precision.FLOAT32:
            self._layout = torch.channels_last_3d
        self._module.to(dtype=self._dtype, memory_format=self._layout)  # type: ignore[call-overload]

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        """Return the scores ``(B, classes, A, B, C)`` of a window ``(B, channels, A, B, C)``."""
        layout = self._layout if window.ndim == 5 else torch.contiguous_format
        output = self._module(window.to(self._dtype, memory_format=layout))
        return first_tensor(output).to(torch.float32, memory_format=torch.contiguous_format)


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


def first_tensor(output: object) -> torch.Tensor:
    """Return the segmentation of a network's output: of several tensors, as deep supervision gives them, the first.

    Raises:
        PredictionError: there is no tensor in it.
    """
    while not isinstance(output, torch.Tensor):
        values = (
            list(output.values() if isinstance(output, dict) else output)
            if isinstance(output, dict | list | tuple)
            else []
        )
        if not values:
            raise PredictionError("The model's network gave something that is not an image.")
        output = values[0]
    return output


def check_finite(scores: torch.Tensor) -> None:
    """Refuse scores that hold NaN or infinity.

    Raises:
        PredictionError: they do.
    """
    # A sum is finite only if all of its terms are, and is read in one pass.
    if not bool(scores.sum().isfinite()):
        raise PredictionError("The model gave values that are not numbers for this case; no segmentation was made.")
