"""TOMAAT apps: what a script imports to publish its functions as a TOMAAT service.

    from inference_server.tomaat import TomaatApp, TomaatService

    app = TomaatApp(preprocess_fun=prepare, inference_fun=infer, postprocess_fun=finish)
    TomaatService(config, app, input_interface, output_interface).run()

`docs/tomaat-apps.md` has all of it. What needs torch is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from inference_server.tomaat_app.app import TomaatApp
from inference_server.tomaat_app.current import context
from inference_server.tomaat_app.inference import Inference
from inference_server.tomaat_app.service import TomaatService

if TYPE_CHECKING:
    from inference_server.tomaat_app.images import label_image
    from inference_server.tomaat_app.models import ModelInference
    from inference_server.tomaat_app.networks import MonaiInference, TorchInference

__all__ = [
    "Inference",
    "ModelInference",
    "MonaiInference",
    "TomaatApp",
    "TomaatService",
    "TorchInference",
    "context",
    "label_image",
]

_LATE = {
    "label_image": "images",
    "ModelInference": "models",
    "MonaiInference": "networks",
    "TorchInference": "networks",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"inference_server.tomaat_app.{_LATE[name]}"), name)
