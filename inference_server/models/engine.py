"""The engine: runs models on cases, on one device, keeping them warm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import monai
import torch

from inference_server import __version__
from inference_server.errors import PredictionError
from inference_server.models.case import Case, Report, Result
from inference_server.models.combine import RunningMean, combine_classes, majority
from inference_server.models.course import Course
from inference_server.models.device import describe_device, identify_device, open_device
from inference_server.models.ensembles import averages_scores
from inference_server.models.hooks import NO_HOOKS, Hooks
from inference_server.models.predictor import Predictor
from inference_server.models.registry import Model, Registry
from inference_server.models.regrid import on_labels_grid
from inference_server.models.runtimes.base import Prediction, Runtime
from inference_server.models.warmth import Warmth
from inference_server.settings import Settings


class Engine:
    """Runs models of a registry on one device. Used by one thread at a time.

    Args:
        registry: where the models are.
        device: what to compute on.
        threads: threads to compute with on a CPU; 0 leaves torch's choice.
        cache_dir: folder that remembers which precision fits; None finds out anew in each process.
        budget_bytes: memory for models that are kept warm; None is a quarter of the device's.
        sharers: how many processes share the cores while they compute what is light.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        device: torch.device | None = None,
        threads: int = 0,
        cache_dir: Path | None = None,
        budget_bytes: int | None = None,
        sharers: int = 1,
    ) -> None:
        self.registry = registry
        self.device = device or torch.device("cpu")
        self.device_id = identify_device(self.device)
        self._predictor = Predictor(self.device, cache_dir=cache_dir, budget_bytes=budget_bytes, sharers=sharers)
        if threads:
            torch.set_num_threads(threads)

    def run(self, model: Model, case: Case, hooks: Hooks = NO_HOOKS) -> Result:
        """Run a model on a case.

        Args:
            model: one of the registry's.
            case: not modified.
            hooks: how to report progress, ask for cancellation and hold the device.

        Raises:
            Cancelled: `hooks.cancelled` said so.
            ModelLoadError: the model's files are not what they should be.
            DeviceFailed: only a fresh process can use the device again.
            OutOfMemory: the device's memory does not suffice; it has been freed again.
            PredictionError: the model failed on this case.
        """
        course = Course(hooks)
        with self._predictor.failures(PredictionError):
            answer = self._ask_members if model.manifest.members else self._ask
            result = on_labels_grid(answer(model, case, course), case)
        own = result.report
        report = self._report(model, case, course)
        notes = (*report.notes, *own.notes, *course.notes)
        return replace(result, report=replace(report, precision=own.precision, backend=own.backend, notes=notes))

    def load(self, model: Model, hooks: Hooks = NO_HOOKS) -> Runtime:
        """Load a model, if it is not warm already. Of an ensemble all members are loaded and the last one is returned.

        Raises:
            ModelLoadError: its files are not what they should be.
            OutOfMemory: the device's memory does not suffice.
        """
        loaded = [self._predictor.ready(member, Course(hooks)) for member in self._members(model) or [model]]
        return loaded[-1]

    def warmth(self) -> Warmth:
        """Return which models are loaded, and how often that was of use."""
        return self._predictor.warmth()

    def _ask(self, model: Model, case: Case, course: Course) -> Result:
        runtime, prediction = self._predictor.predict(model, case, course)
        with course.phase("restoring"):
            return _restored(runtime, prediction)

    def _members(self, model: Model) -> list[Model]:
        return list(model.members) or [self.registry.get(name) for name in model.manifest.members]

    def _ask_members(self, model: Model, case: Case, course: Course) -> Result:
        members, manifest = self._members(model), model.manifest
        parts = [course.part(number, len(members)) for number in range(len(members))]
        if averages_scores(manifest):
            mean = RunningMean()
            modes = [self._add(mean, member, case, part) for member, part in zip(members, parts, strict=True)]
            with course.phase("restoring"):
                result = mean.restored(case, manifest)
            return _of_members(result, members, modes)
        together = self._predictor.predict_together(members, case, course)
        results = [_restored(*one) for one in together] or [
            self._ask(member, case, part) for member, part in zip(members, parts, strict=True)
        ]
        with course.phase("restoring"):
            classifies = manifest.kind == "classification"
            names = [member.id for member in members]
            if classifies:
                result = combine_classes(results, manifest, names)
            else:
                result = majority(results, case, manifest, names)
        return _of_members(result, members, [(one.report.precision, one.report.backend) for one in results])

    def _add(self, mean: RunningMean, model: Model, case: Case, course: Course) -> tuple[str, str]:
        """Add a member's probabilities to a mean and return its precision and backend."""
        runtime, prediction = self._predictor.predict(model, case, course, whole=True)
        with course.phase("restoring"):
            mean.add(runtime.probabilities(prediction), prediction.prepared.affine)
        return runtime.precision.value, runtime.backend.value

    def _report(self, model: Model, case: Case, course: Course) -> Report:
        return Report(
            model=model.id,
            version=model.version,
            digest=model.digest,
            device=describe_device(self.device),
            timings_s=course.timings_s,
            software={"inference-server": __version__, "torch": torch.__version__, "monai": monai.__version__},
            notes=case.assumed,
        )


def _restored(runtime: Runtime, prediction: Prediction) -> Result:
    result = runtime.restore(prediction)
    report = replace(result.report, precision=runtime.precision.value, backend=runtime.backend.value)
    return replace(result, report=report)


def _of_members(result: Result, members: Sequence[Model], modes: Sequence[tuple[str, str]]) -> Result:
    asked = ", ".join(f"{member.id} {member.version}" for member in members)
    precision, backend = (", ".join(sorted(set(values))) for values in zip(*modes, strict=True))
    note = f"The members of the ensemble: {asked}."
    return replace(result, report=Report(precision=precision, backend=backend, notes=(note,)))


def open_engine(settings: Settings, registry: Registry) -> Engine:
    """Return the engine of a worker child.

    Raises:
        SettingsError: the device of the settings does not exist here.
    """
    return Engine(
        registry,
        device=open_device(settings.device),
        threads=settings.cpu_threads,
        cache_dir=settings.data_dir / "precision",
        budget_bytes=settings.warm_memory_bytes or None,
        sharers=settings.worker_children,
    )
