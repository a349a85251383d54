"""A network's class, of an installed package or of a Python file in the model's folder, with weights of its own."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from inference_server.errors import ModelLoadError
from inference_server.models.preparation import NetworkClass
from inference_server.models.runtimes.monai_config import bundle_code
from inference_server.models.runtimes.plain import PlainRuntime
from inference_server.models.runtimes.weights import fill


class PlainNetwork(PlainRuntime):
    """Makes the network that the manifest's section `network` describes. From `load` on, code of the model runs."""

    def open_module(self, path: Path, device: torch.device) -> torch.nn.Module:
        declared = self.model.manifest.network
        assert declared is not None
        network = make_network(declared, self.model.folder.absolute())
        fill(network, path)
        return network.to(device).eval().requires_grad_(False)


def make_network(declared: NetworkClass, folder: Path) -> torch.nn.Module:
    """Return a network with weights not loaded yet.

    Raises:
        ModelLoadError: there is no such class, or it does not take the arguments; the message says why.
    """
    try:
        with bundle_code(folder):
            network = _find_class(declared, folder)(**declared.arguments)
    except (ImportError, SyntaxError, AttributeError, LookupError, TypeError, ValueError) as exc:
        raise ModelLoadError(f"The network {declared.class_path} cannot be made: {type(exc).__name__}: {exc}.") from exc
    if not isinstance(network, torch.nn.Module):
        raise ModelLoadError(f"The network {declared.class_path} is no torch.nn.Module.")
    return network


def _find_class(declared: NetworkClass, folder: Path) -> Callable[..., object]:
    if declared.file:
        module = _import_file(folder / declared.file)
        name = declared.class_path.partition(":")[2]
    else:
        package, _, name = declared.class_path.rpartition(".")
        module = importlib.import_module(package)
    found: Callable[..., object] = getattr(module, name)
    return found


def _import_file(path: Path) -> ModuleType:
    """Import a file under a name that is no other module's."""
    spec = importlib.util.spec_from_file_location(f"model_file_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
