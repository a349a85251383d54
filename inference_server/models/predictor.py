"""Loaded models on one device: keeps them warm, and has them predict with as much memory as there is."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from traceback import clear_frames

import torch

from inference_server.errors import (
    DeviceFailed,
    InferenceServerError,
    ModelLoadError,
    OutOfMemory,
    PredictionError,
    TaskError,
)
from inference_server.models.cache import WarmCache
from inference_server.models.case import Case
from inference_server.models.course import Course
from inference_server.models.device import free_memory, memory_bytes
from inference_server.models.hooks import Hooks
from inference_server.models.precision import settle
from inference_server.models.registry import Model
from inference_server.models.runtimes import make_runtime
from inference_server.models.runtimes.base import Prediction, Runtime
from inference_server.models.trouble import (
    Effort,
    is_broken_device,
    is_out_of_memory,
    lesser_efforts,
    trial_efforts,
    with_less,
)
from inference_server.models.warmth import Warmth

logger = logging.getLogger(__name__)

WARM_SHARE = 0.25
"""Share of the device's memory for each child's warm models: with two children half of it stays for computing."""
CPU = torch.device("cpu")
TOO_LITTLE = "There was not enough memory for this case"


class Predictor:
    """Loads models and runs their networks.

    Args:
        device: what to compute on.
        cache_dir: folder that remembers which precision fits; None finds out anew in each process.
        budget_bytes: memory for models that are kept warm; None is a quarter of the device's.
        sharers: how many processes share the cores while they compute what is light.
    """

    def __init__(
        self, device: torch.device, *, cache_dir: Path | None, budget_bytes: int | None, sharers: int = 1
    ) -> None:
        self.device = device
        self._sharers = sharers
        self._cache_dir = cache_dir
        self._warm = WarmCache(int(memory_bytes(device) * WARM_SHARE) if budget_bytes is None else budget_bytes)

    def ready(self, model: Model, course: Course) -> Runtime:
        """Return a loaded model, loading it if it is not warm already.

        Raises:
            ModelLoadError: its files are not what they should be.
            OutOfMemory: the device's memory does not suffice, also without other models.
        """
        runtime = self._warm.get(model)
        if runtime is None:
            with course.phase("loading"), course.hooks.hold(), self.failures(ModelLoadError):
                runtime = self._load_with_room(model)
                if self._warm.put(model, runtime):
                    free_memory(self.device)
        return runtime

    def predict(self, model: Model, case: Case, course: Course, *, whole: bool = False) -> tuple[Runtime, Prediction]:
        """Predict on the device or, where its memory does not suffice and the model allows it, on the CPU.

        Args:
            model: of one runtime, no ensemble.
            case: not modified.
            course: of the run; hears what was degraded.
            whole: whether the scores of the whole case are wanted.
        """
        try:
            runtime = self.ready(model, course)
            return runtime, self._compute(runtime, self.device, case, course, whole=whole)
        except (MemoryError, RuntimeError, OutOfMemory) as exc:
            movable = self.device.type != "cpu" and model.manifest.resources.cpu_fallback
            if not (movable and is_out_of_memory(exc)):
                raise
            clear_frames(exc.__traceback__)
        self.make_room()
        course.note(f"{TOO_LITTLE} on the device: it was computed on the processor.")
        with course.phase("loading"):
            runtime = self._load(model, CPU)
        return runtime, self._compute(runtime, CPU, case, course, whole=whole)

    def predict_together(self, models: Sequence[Model], case: Case, course: Course) -> list[tuple[Runtime, Prediction]]:
        """Predict with light models that take the case prepared in one way, holding the device once.

        Returns:
            What each gave; nothing where a model is not warm or not of this kind, or the memory does not suffice for
            all of them: then they are asked one by one.
        """
        runtimes = [runtime for model in models if (runtime := self._warm.peek(model))]
        ways = {runtime.preparation if runtime.light else None for runtime in runtimes}
        if len(runtimes) < len(models) or len(ways) > 1 or None in ways:
            return []
        runtimes = [self.ready(model, course) for model in models]
        try:
            predictions = self._predict_light(runtimes, case, course)
        except (MemoryError, RuntimeError, OutOfMemory) as exc:
            if not is_out_of_memory(exc):
                raise
            clear_frames(exc.__traceback__)
            return []
        for runtime, prediction in zip(runtimes, predictions, strict=True):
            _tell(course, runtime, prediction)
        return list(zip(runtimes, predictions, strict=True))

    def _predict_light(self, runtimes: Sequence[Runtime], case: Case, course: Course) -> list[Prediction]:
        def predict(runtime: Runtime) -> Prediction:
            runtime.attend(course.hooks)
            return runtime.predict(prepared, progress=lambda _: None, cancelled=course.hooks.cancelled)

        with self._shared(course.hooks):
            with course.phase("preparing"):
                prepared = runtimes[0].prepare(case)
            with course.phase("predicting"):
                return [predict(runtime) for runtime in runtimes]

    def warmth(self) -> Warmth:
        """Return what is loaded, and how often that was of use."""
        return self._warm.warmth()

    def make_room(self) -> None:
        """Drop all models and give their memory back."""
        self._warm.clear()
        free_memory(self.device)

    @contextmanager
    def failures(self, error: type[TaskError]) -> Iterator[None]:
        """Turn whatever a model raises into an error of ours; after it the device can be used again.

        Raises:
            DeviceFailed: except after this: only a fresh process can use it.
        """
        try:
            yield
        except InferenceServerError:
            raise
        except Exception as exc:
            if is_broken_device(exc):
                raise DeviceFailed from exc
            if not is_out_of_memory(exc):
                raise error(_SENTENCES[error]) from exc
            clear_frames(exc.__traceback__)  # their local variables hold the arrays
            self.make_room()
            raise OutOfMemory from exc

    def _compute(
        self, runtime: Runtime, device: torch.device, case: Case, course: Course, *, whole: bool
    ) -> Prediction:
        """Predict with as much memory as the model asks for, and with less as long as that does not suffice."""
        hooks = course.hooks
        runtime.attend(hooks)

        def predict(effort: Effort) -> Prediction:
            runtime.effort = effort
            return runtime.predict(prepared, progress=hooks.progress, cancelled=hooks.cancelled)

        def told(note: str) -> None:
            self._warm.keep_only(runtime)
            free_memory(device)
            course.note(f"{TOO_LITTLE}: {note}.")

        with course.phase("preparing"):
            prepared = course.once(runtime.preparation, lambda: runtime.prepare(case))
        efforts = lesser_efforts(runtime.batch, device, whole=whole, room=self._warm.has_others(runtime))
        with course.phase("predicting"), self._place(runtime, device, hooks):
            prediction = with_less(predict, efforts, first=Effort(whole=whole), told=told)
            self._free_device()
        _tell(course, runtime, prediction)
        return prediction

    def _place(self, runtime: Runtime, device: torch.device, hooks: Hooks) -> AbstractContextManager[object]:
        """Return a context in which a runtime may compute; the processor takes what the GPU had no room for at once."""
        if device != self.device:
            return nullcontext()
        return self._shared(hooks) if runtime.light else hooks.hold()

    @contextmanager
    def _shared(self, hooks: Hooks) -> Iterator[None]:
        threads = torch.get_num_threads()
        with hooks.share():
            torch.set_num_threads(max(1, threads // self._sharers))
            try:
                yield
            finally:
                torch.set_num_threads(threads)

    def _load_with_room(self, model: Model) -> Runtime:
        """Load a model; where memory does not suffice, without others."""
        try:
            return self._load(model, self.device)
        except (MemoryError, RuntimeError) as exc:
            if not is_out_of_memory(exc):
                raise
            clear_frames(exc.__traceback__)
        self.make_room()
        return self._load(model, self.device)

    def _load(self, model: Model, device: torch.device) -> Runtime:
        runtime = make_runtime(model)
        runtime.load(device)
        with_less(
            partial(self._settle, runtime, device), trial_efforts(runtime.batch), told=lambda _: free_memory(device)
        )
        logger.info("model loaded", extra={"model": model.id, "version": model.version, "precision": runtime.precision})
        return runtime

    def _settle(self, runtime: Runtime, device: torch.device, effort: Effort) -> None:
        runtime.effort = effort
        settle(runtime, device, cache_dir=self._cache_dir)

    def _free_device(self) -> None:
        if self.device.type == "cuda":  # the device's other users cannot have what torch keeps for itself
            torch.cuda.empty_cache()


def _tell(course: Course, runtime: Runtime, prediction: Prediction) -> None:
    for note in (*runtime.notes, *prediction.notes):
        course.note(note)


_SENTENCES: dict[type[TaskError], str] = {
    ModelLoadError: "The model could not be loaded: its own code or configuration failed. Ask the server's operator.",
    PredictionError: "The model failed on this case. Please check that the images are of the kind that it expects.",
}
