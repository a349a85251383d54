"""Weights, read without running code of theirs."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from inference_server.errors import ModelLoadError

_NESTED = ("model", "state_dict", "network", "net", "model_state_dict")


def fill(network: torch.nn.Module, path: Path) -> None:
    """Load a network's weights from safetensors, or from a checkpoint with a state dict.

    Raises:
        ModelLoadError: the file is not readable without running code, or does not fit the network.
    """
    load_weights(network, _read(path), path.name)


def load_weights(network: torch.nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Load a network's weights from a state dict.

    Raises:
        ModelLoadError: it does not fit the network; the message says where, and names the source.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as exc:
        misfit = _misfit(network.state_dict(), state)
        raise ModelLoadError(f"The weights in {source} do not fit the network: {misfit}.") from exc


def load_script(path: Path, device: torch.device) -> torch.nn.Module:
    """Load a TorchScript archive onto a device, ready to predict.

    Raises:
        ModelLoadError: the file is no such archive.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            scripted: torch.nn.Module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as exc:
        raise ModelLoadError(f"{path.name} is no TorchScript archive.") from exc
    return scripted.eval()


def _misfit(expected: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return what the first difference of two state dicts is, in words."""
    for name in [*expected, *given]:
        wanted, found = (_size(state.get(name)) for state in (expected, given))
        if wanted != found:
            return f"{name} should be {wanted} and is {found}"
    return "values of another kind are expected"


def _size(value: Any) -> str:
    if value is None:
        return "missing"
    return " x ".join(map(str, value.shape)) or "a number" if isinstance(value, torch.Tensor) else "present"


def _read(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return cast(Mapping[str, torch.Tensor], load_file(path))
        return _state(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, SafetensorError, pickle.UnpicklingError, EOFError) as exc:
        raise ModelLoadError(f"The weights in {path.name} cannot be read without running code of theirs.") from exc


def _state(content: Any) -> Mapping[str, torch.Tensor]:
    """Return the state dict of a checkpoint that may hold it under one of the usual names."""
    for name in _NESTED:
        if isinstance(content.get(name), Mapping):
            content = content[name]
    prefix = "module."
    return {name.removeprefix(prefix): value for name, value in content.items()}
