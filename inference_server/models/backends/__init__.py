"""Backends: what computes a network. One file each, behind one call: a window goes in, scores come out.

A window is ``(B, channels, A, B, C)``, or ``(B, channels, A, B)`` of a picture, float32 on the device, in any layout.
Scores are contiguous float32 in memory of their own. Any shape of window is taken at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

import torch

from inference_server.models.manifest import Backend, Manifest, Precision


@dataclass(frozen=True)
class Mode:
    """How a network is computed."""

    backend: Backend = Backend.EAGER
    precision: Precision = Precision.FLOAT32

    def __str__(self) -> str:
        return ", ".join([self.precision.value, *([] if self.backend is Backend.EAGER else [self.backend.value])])


PLAIN = Mode()
"""What every other mode is compared with."""


class Compute(Protocol):
    """A network as a backend computes it."""

    @property
    def size_bytes(self) -> int:
        """Memory that it takes, as far as it is known."""

    @property
    def refusal(self) -> str:
        """Why windows are computed eagerly instead, in a word; empty where they are not."""

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        """Return the scores of a window."""


def open_backend(module: torch.nn.Module, mode: Mode) -> Compute:
    """Return a module as a mode computes it. The module may be converted in place."""
    name, _, function = _OPENERS[mode.backend].partition(":")
    opener: Callable[[torch.nn.Module, Precision], Compute] = getattr(import_module(name), function)
    return opener(module, mode.precision)


def is_installed(backend: Backend) -> bool:
    """Whether what a backend needs is here."""
    return backend is not Backend.OPENVINO or find_spec("openvino") is not None


def meant(backend: Backend) -> Backend:
    """Return what `graph` means here; any other backend as it is."""
    if backend is not Backend.GRAPH:
        return backend
    return Backend.OPENVINO if is_installed(Backend.OPENVINO) else Backend.TRACED


def modes(device: torch.device, manifest: Manifest) -> tuple[Mode, ...]:
    """Return the modes in which a model might be computed on a device, the plainest first.

    Graphs are for processors; a network that `torch.compile` makes code of has no use for them.
    """
    graphs = device.type == "cpu" and not manifest.compile
    backends = [one for one in _OPENERS if is_installed(one)] if graphs else [Backend.EAGER]
    pinned = meant(manifest.backend) if graphs else Backend.AUTO
    backends = [one for one in backends if pinned in (one, Backend.AUTO)]
    known = (Precision.FLOAT32, *half_precisions(device))
    precisions = known if manifest.precision is Precision.AUTO else (manifest.precision,)
    return tuple(Mode(backend, precision) for precision in precisions for backend in backends)


def half_precisions(device: torch.device) -> tuple[Precision, ...]:
    """Return the formats, apart from float32, for which a device has its own arithmetic."""
    if device.type == "cuda":
        return (Precision.FLOAT16, Precision.BFLOAT16)
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return (Precision.BFLOAT16,) if has_bfloat16 else ()


_OPENERS: Mapping[Backend, str] = {
    Backend.EAGER: "inference_server.models.backends.eager:Eager",
    Backend.TRACED: "inference_server.models.backends.traced:open_traced",
    Backend.OPENVINO: "inference_server.models.backends.openvino:open_openvino",
}
