"""Base of the runtimes of a plain network: `model.yaml` says how to prepare, lead it over a case, and restore."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from monai.inferers import SimpleInferer

from inference_server.errors import PredictionError
from inference_server.models.backends import Mode
from inference_server.models.bundle import Activation
from inference_server.models.case import Case, Result, Segmentation
from inference_server.models.classify import restore_classes
from inference_server.models.files import weights_path
from inference_server.models.manifest import Backend, Manifest, Precision
from inference_server.models.network import Network
from inference_server.models.preparation import Preparation, Windows
from inference_server.models.registry import Model
from inference_server.models.restore import activate, restore_labels, restore_scores
from inference_server.models.runtimes.base import Prediction, Prepared, Runtime
from inference_server.models.runtimes.inference import Watch, infer
from inference_server.models.runtimes.plain_prepare import prepare_case
from inference_server.models.runtimes.planar import as_volumes
from inference_server.models.windows import SlidingWindows


class PlainRuntime(Runtime):
    """Runs a network that takes ``(B, channels, A, B, C)`` and gives ``(B, classes, A, B, C)``; a subclass loads it."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._device = torch.device("cpu")
        self._network: Network
        self._inferer = make_inferer(model.manifest)

    @abstractmethod
    def open_module(self, path: Path, device: torch.device) -> torch.nn.Module:
        """Return the network with the weights of a file, on a device and ready to predict.

        Raises:
            ModelLoadError: the model's files are not what they should be.
        """

    @property
    def size_bytes(self) -> int:
        return self._network.size_bytes

    @property
    def network(self) -> Network:
        return self._network

    @property
    def choosable(self) -> bool:
        return True

    def use(self, precision: Precision) -> None:
        self.compute(Mode(precision=precision))

    def load(self, device: torch.device) -> None:
        self._device, self.precision, self.backend = device, Precision.FLOAT32, Backend.EAGER
        module = self.open_module(weights_path(self.model.manifest, self.model.folder), device)
        self._network = Network(self._compiled(module))

    def prepare(self, case: Case) -> Prepared:
        manifest = self.model.manifest
        names = [channel.name for channel in manifest.channels]
        return prepare_case(case, names, preparation(manifest), flat=manifest.dimensions == 2)

    @cached_property
    def preparation(self) -> str | None:
        manifest = self.model.manifest
        if manifest.kind != "classification":  # elsewhere it is little beside the rest, and takes memory
            return None
        channels = ", ".join(channel.name for channel in manifest.channels)
        return f"{manifest.dimensions} {channels} {preparation(manifest).model_dump_json()}"

    @property
    def light(self) -> bool:
        manifest = self.model.manifest
        return manifest.kind == "classification" and manifest.dimensions == 2 and self._device.type == "cpu"

    @property
    def _decides(self) -> bool:
        return self.model.manifest.restore == "argmax" and self.model.manifest.kind == "segmentation"

    @property
    def batch(self) -> int | None:
        return self._inferer.batch if isinstance(self._inferer, SlidingWindows) else None

    def predict(
        self, prepared: Prepared, *, progress: Callable[[float], None], cancelled: Callable[[], bool]
    ) -> Prediction:
        manifest = self.model.manifest
        mirror = manifest.inferer.mirror if manifest.inferer else ()
        watch = Watch(self._device, progress, cancelled, self.effort, mirror, self._decide)
        network = as_volumes(self._network, rows_first=True) if manifest.dimensions == 2 else self._network
        prediction = infer(network, self._inferer, prepared, watch, manifest.kind)
        self._check_channels(prediction.scores)
        return prediction

    def _decide(self, prediction: Prediction) -> tuple[Segmentation, ...]:
        self._check_channels(prediction.scores)
        return self.restore(prediction).segmentations

    def _check_channels(self, scores: torch.Tensor) -> None:
        if self._decides and scores.ndim == 4 and len(scores) == 1:
            raise PredictionError("The network gives one channel, and argmax needs one for each class.")

    def probabilities(self, prediction: Prediction) -> torch.Tensor:
        activate(prediction.scores, activation(self.model.manifest))
        return prediction.scores

    def restore(self, prediction: Prediction) -> Result:
        manifest, prepared = self.model.manifest, prediction.prepared
        if prediction.segmentations:
            return Result(prediction.segmentations)
        if manifest.kind == "classification":
            return restore_classes(prediction.scores, manifest, activation(manifest))
        if manifest.restore == "labels":
            return Result(restore_labels(prediction.scores, prepared.affine, prepared.case, manifest))
        return Result(restore_scores(prediction, manifest, activation(manifest)))


def preparation(manifest: Manifest) -> Preparation:
    """Return a manifest's section `prepare`. A picture is not turned unless it says so."""
    declared = manifest.prepare or Preparation()
    if manifest.dimensions == 2 and "orientation" not in declared.model_fields_set:
        return declared.model_copy(update={"orientation": "LPS"})
    return declared


def make_inferer(manifest: Manifest) -> Any:
    """Return what leads a network over an image as a manifest says; without a section `inferer`, all of it at once."""
    declared = manifest.inferer
    if not isinstance(declared, Windows):
        return SimpleInferer()
    a, b, c = declared.size
    size = (a, b, 1 if manifest.dimensions == 2 else c)
    return SlidingWindows(size, declared.batch, (declared.overlap,) * 3, declared.mode)


def activation(manifest: Manifest) -> Activation | None:
    """Return what makes probabilities of the network's scores."""
    if manifest.activation is None:
        return "sigmoid" if manifest.restore == "threshold" else "softmax"
    return None if manifest.activation == "none" else manifest.activation
