"""A MONAI bundle's configuration, evaluated: from here on the bundle's own expressions and code run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from inference_server.models.bundle import METADATA, find_weights, inference_config_path, kind
from inference_server.models.runtimes.weights import fill, load_script


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
        return load_script(path, device)
    network: torch.nn.Module = parser.get_parsed_content("network_def" if "network_def" in parser else "network")
    fill(network, path)
    return network.to(device).eval().requires_grad_(False)


def _replace_loaders(preprocessing: Any) -> None:
    """Put our stand-in where images would be read from files; making MONAI's own tries out readers for every format."""
    transforms = preprocessing.get("transforms") if isinstance(preprocessing, dict) else None
    for transform in transforms if isinstance(transforms, list) else ():
        if isinstance(transform, dict) and kind(transform) == "LoadImage":
            transform["_target_"] = "inference_server.models.runtimes.monai_prepare.GivenImages"
