"""Ready-made inference with any model that this server can run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import SimpleITK as sitk  # noqa: N813
import torch

from inference_server.errors import PredictionError
from inference_server.models.case import Case, Result
from inference_server.models.engine import Engine
from inference_server.models.hooks import Hooks
from inference_server.models.model import Model, read_model
from inference_server.models.registry import ZOO, Registry
from inference_server.tomaat_app.current import context
from inference_server.tomaat_app.given import turned
from inference_server.tomaat_app.images import image_of, volume_of
from inference_server.tomaat_app.inference import Data, Inference, only


class ModelInference(Inference):
    """Runs a model of this server on images of the data, with its own preparation.

    Its labels become an image of SimpleITK on the grid of the first image, in the field `output`; where it gives
    several volumes of labels, each is a field of its own name. So is each text and set of points (RAS). Probabilities
    of classes are a dictionary in the field `classifications`. What its parameters are called is taken from fields of
    these names.

    Args:
        model: the id of a model that ships, or the path of a model's folder.
        fields: where the images are in the data, in the order of the model's channels.
        output: where its labels go.
    """

    def __init__(self, model: str | Path, *, fields: Sequence[str] = ("images",), output: str = "labels") -> None:
        self._named = model
        self._fields, self._output = (fields,) if isinstance(fields, str) else tuple(fields), output
        self._engine: Engine
        self._model: Model
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def load(self, device: str, cache_dir: Path | None = None) -> None:
        folder = Path(self._named).absolute()
        is_folder = folder.is_dir()
        registry = Registry([folder.parent, ZOO] if is_folder else [ZOO])
        self._model = read_model(folder) if is_folder else registry.get(str(self._named))
        self._engine = Engine(registry, device=torch.device(device), cache_dir=cache_dir)
        self._size_bytes = self._engine.load(self._model).size_bytes

    def infer(self, data: Data) -> Data:
        current = context()
        hooks = Hooks(
            progress=current.progress,
            cancelled=current.cancelled,
            event=lambda level, text: current.log(text, level),
        )
        return self._fields_of(self._engine.run(self._model, self._case(data), hooks))

    def _case(self, data: Data) -> Case:
        manifest = self._model.manifest
        names = [channel.name for channel in manifest.channels]
        if not manifest.required_channels <= len(self._fields) <= len(names):
            raise PredictionError(f"The model '{manifest.id}' takes {len(names)} images; {len(self._fields)} came.")
        images = {name: only(data, field) for name, field in zip(names, self._fields, strict=False)}
        given = {one.name: only(data, one.name) for one in manifest.parameters if one.name in data}
        volumes = {name: volume_of(_image(image)) for name, image in images.items()}
        return Case(volumes, parameters=manifest.check_parameters(given))

    def _fields_of(self, result: Result) -> Data:
        found = result.segmentations
        images = {self._output if len(found) == 1 else one.name: image_of(one.labels) for one in found}
        points = {name: turned(points) for name, points in result.points.items()}
        classes = {"classifications": dict(result.classifications)} if result.classifications else {}
        return {name: [value] for name, value in {**images, **result.texts, **points, **classes}.items()}


def _image(value: Any) -> sitk.Image:
    if not isinstance(value, sitk.Image):
        raise PredictionError(f"A model of the server takes images of SimpleITK; a {type(value).__name__} came.")
    return value
