"""MONAI bundles: their own preprocessing, network and inferer, and our postprocessing where it does the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from monai.transforms import SaveImaged

from inference_server.errors import ModelLoadError, PredictionError
from inference_server.models.backends import Mode
from inference_server.models.bundle import Config, post_processing, read_inference_config
from inference_server.models.case import Case, Result, Segmentation
from inference_server.models.classify import guess_activation, restore_classes
from inference_server.models.manifest import Backend, Precision
from inference_server.models.network import Network, check_finite
from inference_server.models.registry import Model
from inference_server.models.restore import activate, restore_labels, restore_scores
from inference_server.models.runtimes.base import Prediction, Prepared, Runtime
from inference_server.models.runtimes.inference import Watch, infer
from inference_server.models.runtimes.monai_config import bundle_code, load_network, open_parser
from inference_server.models.runtimes.monai_prepare import Data, Preprocessing, lps_affine
from inference_server.models.runtimes.planar import Planar, as_volumes
from inference_server.models.windows import SlidingWindows, from_monai


class MonaiBundle(Runtime):
    """Runs a MONAI bundle.

    A manifest's `restore: labels` has the bundle's postprocessing run as it is written; `argmax` and `threshold` have
    class probabilities interpolated on the contour grid instead.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._device = torch.device("cpu")
        self._network: Network
        self._preprocessing: Preprocessing
        self._inferer: Any
        self._postprocessing: Any = None
        self._config: Config = {}

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
        folder = self.model.folder.absolute()
        as_written = self.model.manifest.restore == "labels" and self.model.manifest.kind == "segmentation"
        self._device, self.precision, self.backend = device, Precision.FLOAT32, Backend.EAGER
        self._config = read_inference_config(folder)
        with bundle_code(folder):
            parser = open_parser(folder, device)
            self._preprocessing = Preprocessing(_parsed(parser, "preprocessing"), traced=as_written)
            self._inferer = self._find_inferer(parser)
            self._network = Network(self._compiled(load_network(parser, folder, device)))
            self._postprocessing = _parsed(parser, "postprocessing") if as_written else None

    def prepare(self, case: Case) -> Prepared:
        data = self._preprocessing(case, self.model.manifest)
        image = self._preprocessing.image(data)
        flat = self.model.manifest.dimensions == 2
        if image.ndim != (3 if flat else 4):
            axes = "two" if flat else "three"
            raise PredictionError(f"The bundle's preprocessing did not give an image of channels and {axes} axes.")
        inputs = image.as_tensor().float().contiguous()
        context = {"data": data} if self._postprocessing else {}
        return Prepared(case, inputs[..., None] if flat else inputs, lps_affine(image), context)

    @property
    def batch(self) -> int | None:
        return self._inferer.batch if isinstance(self._inferer, SlidingWindows) else None

    def predict(
        self, prepared: Prepared, *, progress: Callable[[float], None], cancelled: Callable[[], bool]
    ) -> Prediction:
        decide = None if self._postprocessing else self._decide
        watch = Watch(self._device, progress, cancelled, self.effort, decide=decide)
        flat = self.model.manifest.dimensions == 2 and isinstance(self._inferer, SlidingWindows)
        network = as_volumes(self._network, rows_first=False) if flat else self._network
        return infer(network, self._inferer, prepared, watch, self.model.manifest.kind)

    def _decide(self, prediction: Prediction) -> tuple[Segmentation, ...]:
        return self.restore(prediction).segmentations

    def probabilities(self, prediction: Prediction) -> torch.Tensor:
        scores = prediction.scores
        said = post_processing(self._config, len(scores)).activation
        if said is None and (scores.min() < 0 or scores.max() > 1):
            said = "sigmoid" if self.model.manifest.restore == "threshold" else "softmax"
        activate(scores, said)
        return scores

    def restore(self, prediction: Prediction) -> Result:
        manifest, scores = self.model.manifest, prediction.scores
        if prediction.segmentations:
            return Result(prediction.segmentations)
        if manifest.kind == "classification":
            said = post_processing(self._config, len(scores)).activation
            return restore_classes(scores, manifest, said or guess_activation(scores))
        if self._postprocessing:
            labels, affine = self._run_postprocessing(prediction)
            return Result(restore_labels(labels, affine, prediction.prepared.case, manifest))
        activation = post_processing(self._config, len(scores)).activation
        return Result(restore_scores(prediction, manifest, activation))

    def _find_inferer(self, parser: ConfigParser) -> Any:
        inferer = _parsed(parser, "inferer") if "inferer" in parser else SimpleInferer()
        flat = self.model.manifest.dimensions == 2
        return from_monai(inferer, flat=flat) or (Planar(inferer, rows_first=False) if flat else inferer)

    def _run_postprocessing(self, prediction: Prediction) -> tuple[torch.Tensor, np.ndarray]:
        data: Data = dict(prediction.prepared.context["data"])
        image = self._preprocessing.image(data)
        key = _output_key(self._postprocessing)
        data[key] = MetaTensor(prediction.scores, meta=image.meta, applied_operations=image.applied_operations)
        for transform in self._postprocessing.transforms:
            if not isinstance(transform, SaveImaged):
                data = transform(data)
        labels = data[key]
        if isinstance(labels, torch.Tensor):
            check_finite(labels)
        if not isinstance(labels, MetaTensor) or labels.ndim != 4:
            raise PredictionError("The bundle's postprocessing did not give an image of channels and three axes.")
        return labels.as_tensor().cpu(), lps_affine(labels)


def _parsed(parser: ConfigParser, name: str) -> Any:
    if name not in parser:
        raise ModelLoadError(f"The bundle's inference configuration has no '{name}'.")
    return parser.get_parsed_content(name)


def _output_key(postprocessing: Any) -> str:
    """Return the key of the network's output: the first one that the first transform works on."""
    keys = getattr(postprocessing.transforms[0], "keys", ("pred",))
    return str(keys[0])
