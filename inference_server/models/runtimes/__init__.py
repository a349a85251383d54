"""Runtimes: what executes a model. One file each; they are imported when a model is loaded, since they need torch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inference_server.models.registry import Model
    from inference_server.models.runtimes.base import Runtime

RUNTIMES: Mapping[str, str] = {
    "monai-bundle": "inference_server.models.runtimes.monai_bundle:MonaiBundle",
    "network": "inference_server.models.runtimes.network:PlainNetwork",
    "torchscript": "inference_server.models.runtimes.torchscript:TorchScript",
    "exported": "inference_server.models.runtimes.exported:Exported",
    "nnunet": "inference_server.models.runtimes.nnunet:NnUNetFolder",
    "python-app": "inference_server.models.runtimes.python_app:PythonApp",
}
"""The manifest's name of each runtime, and its class."""


def make_runtime(model: Model) -> Runtime:
    """Return the runtime of a model, not loaded yet."""
    module, _, name = RUNTIMES[model.manifest.runtime].partition(":")
    runtime: Runtime = getattr(import_module(module), name)(model)
    return runtime
