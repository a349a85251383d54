"""The model folder of a service: a manifest made of its interfaces, its script, and the app that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from inference_server.errors import ModelLoadError, SettingsError
from inference_server.models.manifest import parse_manifest
from inference_server.models.places import MANIFEST
from inference_server.tomaat_app.config import Config
from inference_server.tomaat_app.interface import (
    CheckboxInput,
    FiducialsInput,
    Input,
    Output,
    RadioButtonInput,
    SliderInput,
    TransformInput,
    VolumeInput,
)
from inference_server.tomaat_app.script import Script

APP = '''\
"""Written by `TomaatService.run()`: gives the app of a script to a worker."""

from pathlib import Path

from inference_server.tomaat_app.worker import ScriptApp

app = ScriptApp(Path(__file__).parent)
'''


def manifest_of(config: Config, inputs: Sequence[Input], outputs: Sequence[Output]) -> dict[str, Any]:
    """Return the manifest of a service's model.

    Raises:
        SettingsError: a destination is not one that a model may have; the message says what was expected.
    """
    declared = {
        "id": config.id,
        "title": config.name,
        "description": config.description,
        "runtime": "python-app",
        "app": "app.py:app",
        "channels": [
            {"name": element.destination, **({"modality": config.modality} if config.modality else {})}
            for element in inputs
            if isinstance(element, VolumeInput)
        ],
        "same_grid": False,
        "parameters": [parameter for element in inputs if (parameter := _parameter(element))],
        "points": [{"name": element.destination} for element in inputs if isinstance(element, FiducialsInput)],
        "transforms": [{"name": element.destination} for element in inputs if isinstance(element, TransformInput)],
        "options": {"tomaat": _said(config, inputs, outputs)},
    }
    try:
        parse_manifest(declared)
    except ModelLoadError as exc:
        raise SettingsError(f"The interfaces cannot be served: {exc.message}") from exc
    return declared


def write_folder(folder: Path, manifest: Mapping[str, Any], script: Script) -> None:
    """Write a model folder; files that hold the same already are left as they are, so that nothing is read again."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        MANIFEST: yaml.safe_dump(dict(manifest), sort_keys=False, allow_unicode=True).encode(),
        "app.py": APP.encode(),
    }
    for name, content in {**written, **script.files()}.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            path.write_bytes(content)


def _parameter(element: Input) -> dict[str, Any] | None:
    """Return the parameter that an element sets, with what the client's own widget shows at first as default."""
    match element:
        case SliderInput():
            nearest = min(max(0.0, element.minimum), element.maximum)
            limits = {"minimum": element.minimum, "maximum": element.maximum}
            said: dict[str, Any] = {"type": "number", **limits, "default": nearest}
        case CheckboxInput():
            said = {"type": "flag", "default": False}
        case RadioButtonInput():
            said = {"type": "choice", "choices": list(element.options), "default": element.options[0]}
        case _:
            return None
    return {"name": element.destination, "description": element.text, **said}


def _said(config: Config, inputs: Sequence[Input], outputs: Sequence[Output]) -> dict[str, Any]:
    """Return what the TOMAAT door tells of the model in the words of its own protocol."""
    return {
        "modality": config.modality,
        "anatomy": config.anatomy,
        "task": config.task,
        "inputs": [element.model_dump(mode="json", exclude_unset=True) for element in inputs],
        "outputs": [element.model_dump(mode="json", exclude_unset=True) for element in outputs],
    }
