"""The engine: runs models on cases, on one device, keeping them warm."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import monai
import torch

from inference_server import __version__
from inference_server.errors import (
    Cancelled,
    InferenceServerError,
    ModelLoadError,
    OutOfMemory,
    PredictionError,
    TaskError,
)
from inference_server.models.cache import WarmCache
from inference_server.models.case import Case, Report, Result
from inference_server.models.combine import RunningMean, combine_classes, majority
from inference_server.models.device import describe_device, free_memory, memory_bytes, open_device
from inference_server.models.ensembles import averages_scores
from inference_server.models.hooks import NO_HOOKS, Hooks
from inference_server.models.precision import settle
from inference_server.models.registry import Model, Registry
from inference_server.models.runtimes import make_runtime
from inference_server.models.runtimes.base import Prediction, Runtime
from inference_server.settings import Settings

logger = logging.getLogger(__name__)

WARM_SHARE = 0.25
"""Share of the device's memory for each child's warm models: with two children half of it stays for computing."""


@dataclass
class _Clock:
    """Times the phases of a run and announces them."""

    hooks: Hooks
    timings_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        if self.hooks.cancelled():
            raise Cancelled
        self.hooks.phase(name)
        started = time.perf_counter()
        try:
            yield
        finally:
            spent_s = self.timings_s.get(name, 0.0) + time.perf_counter() - started
            self.timings_s[name] = round(spent_s, 4)

    def part(self, number: int, count: int) -> _Clock:
        """Return the same clock for one of several models that a run asks one after the other."""
        tell = self.hooks.progress
        return _Clock(replace(self.hooks, progress=lambda done: tell((number + done) / count)), self.timings_s)


class Engine:
    """Runs models of a registry on one device. Used by one thread at a time.

    Args:
        registry: where the models are.
        device: what to compute on.
        threads: threads to compute with on a CPU; 0 leaves torch's choice.
        cache_dir: folder that remembers which precision fits; None finds out anew in each process.
        budget_bytes: memory for models that are kept warm; None is a quarter of the device's.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        device: torch.device | None = None,
        threads: int = 0,
        cache_dir: Path | None = None,
        budget_bytes: int | None = None,
    ) -> None:
        self.registry = registry
        self.device = device or torch.device("cpu")
        self._cache_dir = cache_dir
        budget = int(memory_bytes(self.device) * WARM_SHARE) if budget_bytes is None else budget_bytes
        self._warm = WarmCache(budget)
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
            OutOfMemory: the device's memory does not suffice; it has been freed again.
            PredictionError: the model failed on this case.
        """
        clock = _Clock(hooks)
        with self._failures(PredictionError):
            answer = self._ask_members if model.manifest.members else self._ask
            result = answer(model, case, clock)
        own = result.report
        report = self._report(model, case, clock)
        return replace(result, report=replace(report, precision=own.precision, notes=(*report.notes, *own.notes)))

    def load(self, model: Model, hooks: Hooks = NO_HOOKS) -> Runtime:
        """Load a model, if it is not warm already. Of an ensemble all members are loaded and the last one is returned.

        Raises:
            ModelLoadError: its files are not what they should be.
            OutOfMemory: the device's memory does not suffice.
        """
        loaded = [self._ready(member, _Clock(hooks)) for member in self._members(model) or [model]]
        return loaded[-1]

    def _ask(self, model: Model, case: Case, clock: _Clock) -> Result:
        runtime, prediction = self._predict(model, case, clock)
        with clock.phase("restoring"):
            result = runtime.restore(prediction)
        return replace(result, report=replace(result.report, precision=runtime.precision.value))

    def _predict(self, model: Model, case: Case, clock: _Clock) -> tuple[Runtime, Prediction]:
        runtime, hooks = self._ready(model, clock), clock.hooks
        runtime.attend(hooks)
        with clock.phase("preparing"):
            prepared = runtime.prepare(case)
        with clock.phase("predicting"), hooks.hold():
            prediction = runtime.predict(prepared, progress=hooks.progress, cancelled=hooks.cancelled)
            self._free_device()
        return runtime, prediction

    def _members(self, model: Model) -> list[Model]:
        return list(model.members) or [self.registry.get(name) for name in model.manifest.members]

    def _ask_members(self, model: Model, case: Case, clock: _Clock) -> Result:
        members, manifest = self._members(model), model.manifest
        parts = [clock.part(number, len(members)) for number in range(len(members))]
        if averages_scores(manifest):
            mean = RunningMean()
            precisions = [self._add(mean, member, case, part) for member, part in zip(members, parts, strict=True)]
            with clock.phase("restoring"):
                result = mean.restored(case, manifest)
            return _of_members(result, members, precisions)
        results = [self._ask(member, case, part) for member, part in zip(members, parts, strict=True)]
        with clock.phase("restoring"):
            classifies = manifest.kind == "classification"
            names = [member.id for member in members]
            result = combine_classes(results, manifest) if classifies else majority(results, case, manifest, names)
        return _of_members(result, members, [one.report.precision for one in results])

    def _add(self, mean: RunningMean, model: Model, case: Case, clock: _Clock) -> str:
        """Add a member's probabilities to a mean and return its precision."""
        runtime, prediction = self._predict(model, case, clock)
        with clock.phase("restoring"):
            mean.add(runtime.probabilities(prediction), prediction.prepared.affine)
        return runtime.precision.value

    def _ready(self, model: Model, clock: _Clock) -> Runtime:
        runtime = self._warm.get(model)
        if runtime is not None:
            return runtime
        runtime = make_runtime(model)
        with clock.phase("loading"), clock.hooks.hold(), self._failures(ModelLoadError):
            runtime.load(self.device)
            settle(runtime, self.device, cache_dir=self._cache_dir)
            if self._warm.put(model, runtime):
                free_memory(self.device)
        logger.info("model loaded", extra={"model": model.id, "version": model.version, "precision": runtime.precision})
        return runtime

    def _free_device(self) -> None:
        if self.device.type == "cuda":  # the device's other users cannot have what torch keeps for itself
            torch.cuda.empty_cache()

    def _report(self, model: Model, case: Case, clock: _Clock) -> Report:
        return Report(
            model=model.id,
            version=model.version,
            digest=model.digest,
            device=describe_device(self.device),
            timings_s=clock.timings_s,
            software={"inference-server": __version__, "torch": torch.__version__, "monai": monai.__version__},
            notes=case.assumed,
        )

    @contextmanager
    def _failures(self, error: type[TaskError]) -> Iterator[None]:
        """Turn whatever a model raises into an error of ours; after it the engine can be used again."""
        try:
            yield
        except InferenceServerError:
            raise
        except Exception as exc:
            if not _is_out_of_memory(exc):
                raise error(_SENTENCES[error]) from exc
            self._make_room(exc)
            raise OutOfMemory from exc

    def _make_room(self, exc: BaseException) -> None:
        traceback.clear_frames(exc.__traceback__)  # their local variables hold the arrays
        self._warm.clear()
        free_memory(self.device)


def _of_members(result: Result, members: Sequence[Model], precisions: Sequence[str]) -> Result:
    asked = ", ".join(f"{member.id} {member.version}" for member in members)
    report = Report(precision=", ".join(sorted(set(precisions))), notes=(f"The members of the ensemble: {asked}.",))
    return replace(result, report=report)


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
    )


_SENTENCES: dict[type[TaskError], str] = {
    ModelLoadError: "The model could not be loaded: its own code or configuration failed. Ask the server's operator.",
    PredictionError: "The model failed on this case. Please check that the images are of the kind that it expects.",
}


def _is_out_of_memory(exc: Exception) -> bool:
    if isinstance(exc, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(exc).lower()
    return isinstance(exc, RuntimeError) and (
        "out of memory" in text or "allocate memory" in text or "enough memory" in text
    )
