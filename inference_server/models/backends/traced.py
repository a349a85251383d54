"""TorchScript graphs: traced, and frozen with what that can simplify, such as normalisation after a convolution."""

from __future__ import annotations

import warnings
from typing import cast

import torch

from inference_server.models.backends.eager import Eager, first_tensor, given
from inference_server.models.backends.graphs import Graph, Shaped
from inference_server.models.manifest import Precision


def open_traced(module: torch.nn.Module, precision: Precision) -> Shaped:
    """Return a module, converted in place, that is computed by frozen traces."""
    eager = Eager(module, precision)

    def make(window: torch.Tensor) -> Graph:
        with _unwarned():
            frozen = torch.jit.freeze(trace(module, eager.taken(window)))
        return lambda other: given(frozen(eager.taken(other)))

    return Shaped(eager, make)


def trace(module: torch.nn.Module, window: torch.Tensor) -> torch.jit.ScriptModule:
    """Return a network's trace on a window, for windows like it; of several tensors it gives the first."""
    with _unwarned():
        traced = torch.jit.trace(_First(module).eval(), window, check_trace=False)  # type: ignore[no-untyped-call]
    return cast(torch.jit.ScriptModule, traced)


class _First(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        return first_tensor(self.network(window))


def _unwarned() -> warnings.catch_warnings[None]:
    """Say nothing of values that a trace fixes, which is what a graph of one shape is for, nor of TorchScript's age."""
    return warnings.catch_warnings(action="ignore")
