"""A MONAI bundle's configuration, evaluated: from here on the bundle's own expressions and code run."""

from __future__ import annotations

import pickle
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from monai.bundle import ConfigParser
from safetensors import SafetensorError
from safetensors.torch import load_file

from inference_server.errors import ModelLoadError
from inference_server.models.bundle import METADATA, find_weights, inference_config_path, kind

_NESTED = ("model", "state_dict", "network", "net", "model_state_dict")


def open_parser(folder: Path, device: torch.device) -> ConfigParser:
    """Read a bundle's inference configuration for a device; nothing is evaluated yet."""
    parser = ConfigParser()
    parser.read_config(str(inference_config_path(folder)))
    if (folder / METADATA).is_file():
        parser.read_meta(str(folder / METADATA))
    _replace_loaders(parser.config.get("preprocessing"))
    parser["bundle_root"] = str(folder)
    parser["device"] = f"$__import__('torch').device('{device}')"
    return parser


@contextmanager
def bundle_code(folder: Path) -> Iterator[None]:
    """Let a bundle import its own modules by name, and forget them afterwards: other bundles use the same names."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(folder):
                del sys.modules[name]


def load_network(parser: ConfigParser, folder: Path, device: torch.device) -> torch.nn.Module:
    """Return a bundle's network with its weights, on a device and ready to predict.

    Raises:
        ModelLoadError: the weights are not readable without running code, or do not fit the network.
    """
    path = find_weights(folder)
    if path.suffix == ".ts":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            scripted: torch.nn.Module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
        return scripted.eval()
    network: torch.nn.Module = parser.get_parsed_content("network_def" if "network_def" in parser else "network")
    try:
        network.load_state_dict(_read_weights(path))
    except RuntimeError as exc:
        raise ModelLoadError(f"The weights in {path.name} do not fit the network that the bundle describes.") from exc
    return network.to(device).eval().requires_grad_(False)


def _replace_loaders(preprocessing: Any) -> None:
    """Put our stand-in where images would be read from files; making MONAI's own tries out readers for every format."""
    transforms = preprocessing.get("transforms") if isinstance(preprocessing, dict) else None
    for transform in transforms if isinstance(transforms, list) else ():
        if isinstance(transform, dict) and kind(transform) == "LoadImage":
            transform["_target_"] = "inference_server.models.runtimes.monai_prepare.GivenImages"


def _read_weights(path: Path) -> Mapping[str, torch.Tensor]:
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
