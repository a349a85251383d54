"""nnU-Net v2's folders of trained models: nnunetv2's own preparation and prediction, and our restoring."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from inference_server.errors import ModelLoadError
from inference_server.models.case import Case, Result
from inference_server.models.manifest import Precision
from inference_server.models.network import check_finite
from inference_server.models.nnunet_folder import NEEDS_EXTRA, NnUNet
from inference_server.models.registry import Model
from inference_server.models.restore import activate, restore_labels, restore_scores
from inference_server.models.runtimes.base import Prediction, Prepared, Runtime
from inference_server.models.runtimes.plain_prepare import Affine, Image, load, orient

if TYPE_CHECKING:
    from inference_server.models.runtimes.nnunet_predictor import FolderPredictor, Properties

PICTURE_SPACING_MM = (999.0, 1.0, 1.0)
"""What nnU-Net takes as the spacing z, y, x of pictures."""


class NnUNetFolder(Runtime):
    """Runs the folds of an nnU-Net folder and averages their scores.

    Scores are interpolated at the voxels of the contour grid as the plans say for the case's own, and then decided;
    a manifest's `restore: labels` has nnunetv2 itself make labels on the case's grid.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._chosen = model.manifest.nnunet or NnUNet()
        self._device = torch.device("cpu")
        self._predictor: FolderPredictor

    @property
    def size_bytes(self) -> int:
        return self._predictor.size_bytes

    @property
    def batch(self) -> int | None:
        return 1 if self._device.type == "cuda" else None  # on a CPU nothing takes less

    @property
    def choosable(self) -> bool:
        return self._device.type == "cpu" and not self._predictor.flat

    def use(self, precision: Precision) -> None:
        self._predictor.use(precision)
        self.precision = precision

    def load(self, device: torch.device) -> None:
        try:
            from inference_server.models.runtimes.nnunet_predictor import FolderPredictor
        except ImportError as exc:
            raise ModelLoadError(f"{NEEDS_EXTRA} Missing: {exc.name}.") from exc
        self._device, self.precision = device, Precision.FLOAT32
        self._predictor = FolderPredictor(self.model.folder, self._chosen, device)
        if not self._predictor.interpolates and self.model.manifest.restore != "labels":
            raise ModelLoadError(
                "The plans resample scores in a way that is not known here; `restore: labels` in model.yaml has "
                "nnU-Net do it."
            )
        if device.type == "cuda" and self.model.manifest.precision is Precision.AUTO:
            self.use(Precision.FLOAT16)  # as nnU-Net itself computes on a GPU

    def prepare(self, case: Case) -> Prepared:
        manifest = self.model.manifest
        image = load(case, [channel.name for channel in manifest.channels])
        if orientation := self._chosen.orientation or self._predictor.orientation:
            image = orient(image, orientation)
        spacing_mm = PICTURE_SPACING_MM if manifest.dimensions == 2 else _spacing(case, image)
        arrays = image.values.permute(0, 3, 2, 1).numpy()
        inputs, properties = self._predictor.prepare(arrays, spacing_mm)
        affine = image.affine @ _placement(properties, inputs.shape[1:], self._predictor.transpose)
        return Prepared(case, inputs, affine, {"properties": properties, "image_affine": image.affine})

    def predict(
        self, prepared: Prepared, *, progress: Callable[[float], None], cancelled: Callable[[], bool]
    ) -> Prediction:
        scores = self._predictor.scores(
            prepared.inputs, on_host=self.effort.on_host, progress=progress, cancelled=cancelled
        )
        for channel in scores:  # one by one: the sum of all would leave the range of float16
            check_finite(channel.float())
        return Prediction(prepared, scores)

    def probabilities(self, prediction: Prediction) -> torch.Tensor:
        activate(prediction.scores, "sigmoid" if self.model.manifest.restore == "threshold" else "softmax")
        return prediction.scores

    def restore(self, prediction: Prediction) -> Result:
        manifest, prepared = self.model.manifest, prediction.prepared
        properties = prepared.context["properties"]
        if manifest.restore == "labels":
            labels = self._predictor.labels(prediction.scores, properties).transpose(2, 1, 0).astype(np.int32)
            affine = prepared.context["image_affine"]
            return Result(restore_labels(torch.from_numpy(labels)[None], affine, prepared.case, manifest))
        odds = math.log(manifest.threshold / (1 - manifest.threshold))  # scores are compared, as nnU-Net does
        axis = self._predictor.nearest_axis(properties)
        placed = prediction if axis is None else _sliced(prediction, axis, properties)
        return Result(restore_scores(placed, manifest.model_copy(update={"threshold": odds}), None))


def _spacing(case: Case, image: Image) -> list[float]:
    """Return the case's own spacing along z, y, x of an image that may have been turned."""
    lengths = np.linalg.norm(image.affine[:3, :3], axis=0)
    known = case.reference.geometry.spacing_mm
    return [known[np.abs(np.asarray(known) - length).argmin()] for length in lengths[::-1]]


def _placement(properties: Properties, size: Sequence[int], transpose: Sequence[int]) -> Affine:
    """Return the 4 x 4 matrix from an index of what was prepared to one (x, y, z) of the image.

    nnU-Net transposes axes, crops, and resamples so that the box's edges stay where they are.
    """
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1.0
    box, cropped = properties["bbox_used_for_cropping"], properties["shape_after_cropping_and_before_resampling"]
    for axis, (first, _) in enumerate(box):
        scale = cropped[axis] / size[axis]
        own = 2 - transpose[axis]
        matrix[own, axis] = scale
        matrix[own, 3] = first + 0.5 * scale - 0.5
    return matrix


def _sliced(prediction: Prediction, axis: int, properties: Properties) -> Prediction:
    """Take the nearest slice along an axis for each of the case's, as nnU-Net does where slices are far apart."""
    count, size = properties["shape_after_cropping_and_before_resampling"][axis], prediction.scores.shape[axis + 1]
    if count == size:
        return prediction
    nearest = np.floor((np.arange(count) + 0.5) * (size / count)).astype(np.int64).clip(0, size - 1)
    change = np.eye(4)
    change[axis, axis] = size / count
    change[axis, 3] = 0.5 * size / count - 0.5
    prepared = replace(prediction.prepared, affine=prediction.prepared.affine @ change)
    return replace(
        prediction, prepared=prepared, scores=prediction.scores.index_select(axis + 1, torch.from_numpy(nearest))
    )
