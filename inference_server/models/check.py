"""Whether a model works: loads it and runs it on its example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from inference_server.models.backends import Mode
from inference_server.models.case import Report, Result, Segmentation
from inference_server.models.engine import Engine
from inference_server.models.example import read_example
from inference_server.models.registry import Model


@dataclass(frozen=True)
class ModelCheck:
    """What a model did with its example.

    Attributes:
        model: id and version.
        mode: how it computes on this device.
        volumes_cc: each label's volume in the example, by name; None where the model declares no example.
        classifications: each class's probability in the example.
        report: how the run went.
    """

    model: str
    mode: str
    volumes_cc: Mapping[str, float] | None
    report: Report
    classifications: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.volumes_cc is None:
            return f"{self.model}: loads ({self.mode}); it declares no example to run"
        volumes = [f"{name} {volume:.1f} cc" for name, volume in self.volumes_cc.items()]
        classes = [f"{name} {probability:.3f}" for name, probability in self.classifications.items()]
        found = ", ".join([*volumes, *classes])
        seconds = sum(self.report.timings_s.values())
        return f"{self.model}: works ({self.mode}, {seconds:.2f} s on its example): {found}"


def check_model(model: Model, engine: Engine) -> ModelCheck:
    """Load a model and run it on its example, if it has one.

    Raises:
        TaskError: it does not work.
        InvalidVolume, MalformedMessage: its example is not readable.
    """
    name = f"{model.id} {model.version}"
    runtime = engine.load(model)
    mode = str(Mode(runtime.backend, runtime.precision))
    case = read_example(model)
    if case is None:
        return ModelCheck(name, mode, None, Report())
    result = engine.run(model, case)
    return ModelCheck(name, mode, _volumes(result), result.report, result.classifications)


def _volumes(result: Result) -> dict[str, float]:
    return {name: volume for found in result.segmentations for name, volume in _label_volumes(found)}


def _label_volumes(segmentation: Segmentation) -> list[tuple[str, float]]:
    counts = np.bincount(segmentation.labels.array.ravel(), minlength=max(segmentation.names) + 1)
    voxel_cc = segmentation.labels.geometry.voxel_volume_mm3 / 1000
    return [(label.name, float(counts[value]) * voxel_cc) for value, label in segmentation.names.items()]
