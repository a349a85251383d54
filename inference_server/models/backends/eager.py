"""A module called as it is, in a precision and memory layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

import torch

from inference_server.errors import PredictionError
from inference_server.models.manifest import Precision

DTYPES: Mapping[Precision, torch.dtype] = {
    Precision.FLOAT32: torch.float32,
    Precision.BFLOAT16: torch.bfloat16,
    Precision.FLOAT16: torch.float16,
}
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class Eager:
    """Calls a module, which is converted in place: half precision goes with channels-last memory."""

    refusal = ""

    def __init__(self, module: torch.nn.Module, precision: Precision = Precision.FLOAT32) -> None:
        self.module = module
        self._dtype = DTYPES[precision]
        self._halved = precision is not Precision.FLOAT32
        if self._halved:
            _convert(module, self._dtype)

    @property
    def size_bytes(self) -> int:
        """Memory of the parameters and buffers."""
        return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(self.module))

    def taken(self, window: torch.Tensor) -> torch.Tensor:
        """Return a window as the module takes it."""
        layout = _LAST.get(window.ndim) if self._halved else None
        return window.to(self._dtype, memory_format=layout or torch.contiguous_format)

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        return given(self.module(self.taken(window)))


def given(output: object) -> torch.Tensor:
    """Return a network's scores as a backend gives them."""
    return first_tensor(output).to(torch.float32, memory_format=torch.contiguous_format)


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


def _convert(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Change the format of a module's numbers, and the layout of weights for pictures and for volumes each."""
    module.to(dtype)
    for tensor in _tensors(module):
        if layout := _LAST.get(tensor.ndim):
            tensor.data = tensor.data.to(memory_format=layout)


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    return chain(module.parameters(), module.buffers())
