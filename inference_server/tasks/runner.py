"""The runner: takes one claimed task from its stored case to its committed result."""

from __future__ import annotations

import gc
import logging
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from inference_server.errors import (
    DeviceFailed,
    InferenceServerError,
    OutOfMemory,
    ResultGone,
    StoreUnavailable,
    UnknownModel,
)
from inference_server.models.case import Case, Result
from inference_server.models.hooks import Hooks
from inference_server.models.registry import Model
from inference_server.models.warmth import Warmth
from inference_server.settings import Settings
from inference_server.tasks.attempt import Attempt
from inference_server.tasks.blobs import Blobs
from inference_server.tasks.blobs.staging import disk_errors
from inference_server.tasks.case_zip import read_case
from inference_server.tasks.claims import Claims, Wish
from inference_server.tasks.device import DeviceLock
from inference_server.tasks.footprint import budget_bytes
from inference_server.tasks.keeper import Keeper, kill_own_group
from inference_server.tasks.record import Claim, Phase, Problem, Task
from inference_server.tasks.report import Written, report_of
from inference_server.tasks.result_zip import write_result
from inference_server.tasks.room import READING, when_there_is_room
from inference_server.tasks.submission import Output
from inference_server.tasks.traces import NO_TRACES, Traces

log = logging.getLogger(__name__)

COMMIT_RETRY_S = 0.2


class Repository(Protocol):
    """Where the models are, as the runner uses it."""

    def get(self, id: str, version: str | None = None, digest: str = "") -> Model:  # noqa: A002
        """Return a model, in the state that a digest names, if it still is at hand.

        Raises:
            UnknownModel: there is none of this name and version.
        """

    def models(self) -> tuple[Model, ...]:
        """Return all versions of all models, the highest version of each first."""


class Computes(Protocol):
    """What runs models: `models.engine.Engine`, or a stand-in."""

    @property
    def registry(self) -> Repository:
        """Where its models are."""

    @property
    def device_id(self) -> str:
        """What tells its device from the others of this machine."""

    def warmth(self) -> Warmth:
        """Return which models are loaded, and how often that was of use."""

    def run(self, model: Model, case: Case, hooks: Hooks, /) -> Result:
        """Run a model on a case."""

    def load(self, model: Model, hooks: Hooks, /) -> object:
        """Make a model warm."""


class Runner:
    """Runs claimed tasks, one after the other, in a worker's child.

    Args:
        settings: limits, lease and beat.
        claims: where results and failures are committed.
        blobs: where cases are and results go.
        engine: runs the models.
        traces: where the way of each task is told.
        end: ends this process, which a device that failed leaves unusable.
    """

    def __init__(
        self,
        settings: Settings,
        claims: Claims,
        blobs: Blobs,
        engine: Computes,
        *,
        traces: Traces = NO_TRACES,
        end: Callable[[], None] = kill_own_group,
    ) -> None:
        # Found out once: it takes longer than many a task's own records.
        self._settings = settings.model_copy(update={"child_memory_bytes": budget_bytes(settings)})
        self._claims = claims
        self._blobs = blobs
        self._engine = engine
        self._traces = traces
        self._end = end
        self._lock = DeviceLock(settings.data_dir / "devices", engine.device_id)

    def warmth(self) -> Warmth:
        """Return which models are loaded, and how often that was of use."""
        return self._engine.warmth()

    def preload(self) -> None:
        """Load every model that this worker's queues may ask for and that wants it; a broken one is logged."""
        hooks = Hooks(hold=self._lock.hold)
        newest = {model.id: model for model in reversed(self._engine.registry.models())}
        for model in newest.values():
            if model.manifest.preload and model.manifest.queue in self._settings.queue_names:
                try:
                    self._engine.load(model, hooks)
                except DeviceFailed as error:
                    log.critical("device failed; its process ends", extra={"model": model.id, **_cause(error)})
                    self._end()
                except InferenceServerError as error:
                    log.error("model cannot be loaded", extra={"model": model.id, **_cause(error)})

    def run(self, claim: Claim, wish: Callable[[], Wish | None] = lambda: None) -> Claim | None:
        """Run a task and commit how it ended. Nothing is raised and nothing of the task stays in memory.

        Args:
            claim: of the task.
            wish: asked, when the task is to be finished, what to claim with the same commit.

        Returns:
            What was claimed.
        """
        with Keeper(self._claims, claim, self._settings) as keeper:
            attempt = Attempt(claim, keeper, self._lock, wish)
            log.info("task started", extra=_facts(claim.task))
            problem = self._problem_of(attempt)
            if problem is not None:
                self._fail(attempt, problem)
        self._traces.ran(claim.task, attempt.course, time.time(), problem.code if problem else None)
        if problem is not None:
            gc.collect()  # a failed case may be held by cycles between frames and exceptions
        return attempt.following

    def _problem_of(self, attempt: Attempt) -> Problem | None:
        try:
            self._complete(attempt)
        except DeviceFailed as error:
            _log_failure(attempt, error)
            self._leave(attempt)
        except InferenceServerError as error:
            _log_failure(attempt, error)
            return Problem(error.code, error.message)
        except MemoryError as error:
            _log_failure(attempt, error)
            return Problem(OutOfMemory.code, OutOfMemory().message)
        except Exception as error:  # noqa: BLE001 - the boundary of a task: this process goes on
            _log_failure(attempt, error)
            return Problem(InferenceServerError.code, "The server failed on this case. Please tell its operator.")
        return None

    def _leave(self, attempt: Attempt) -> None:
        """End this process and so lose the task, which counts as an attempt, to another one."""
        attempt.keeper.event("warning", "The device failed. The process that used it is replaced by a fresh one.")
        with suppress(StoreUnavailable):
            attempt.keeper.flush()
        log.critical("device failed; its process ends", extra=_facts(attempt.task))
        self._end()

    def _complete(self, attempt: Attempt) -> None:
        model, limit_s = self._model(attempt.task), self._settings.store_wait_s
        with attempt.phase(Phase.READING):
            read = partial(self._read, attempt.task, model)
            case = when_there_is_room(read, attempt.keeper, limit_s=limit_s, words=READING)
        result = self._engine.run(model, case, attempt.hooks)
        with attempt.phase(Phase.WRITING):
            outputs = attempt.task.outputs
            written = when_there_is_room(partial(self._write, result, outputs), attempt.keeper, limit_s=limit_s)
        timings_s = attempt.all_timings_s(result.report.timings_s)
        self._finish(attempt, written, report_of(result, case.result_grid, written.contents, outputs, timings_s))

    def _model(self, task: Task) -> Model:
        try:
            return self._engine.registry.get(task.model, task.version, task.digest)
        except UnknownModel as exc:
            raise UnknownModel(
                f"The model '{task.model}', version {task.version}, has been withdrawn since the case was sent. "
                "Please send it again."
            ) from exc

    def _read(self, task: Task, model: Model) -> Case:
        try:
            with self._blobs.as_file(task.case_blob or "") as path:
                return read_case(path, model.manifest, self._settings, parameters=task.parameters)
        except ResultGone as exc:
            raise InferenceServerError("The stored case is missing on the server. Please send it again.") from exc

    def _write(self, result: Result, outputs: Collection[str]) -> Written:
        staged = self._blobs.stage()
        try:
            with disk_errors():
                contents = write_result(staged, result, with_surfaces=Output.MESHES in outputs)
                size_bytes = staged.stat().st_size
            return Written(self._blobs.put(staged), size_bytes, contents)
        finally:
            self._blobs.discard(staged)

    def _finish(self, attempt: Attempt, written: Written, report: Mapping[str, Any]) -> None:
        wishes = [attempt.wish()]  # for the first try: where it is not known what came of that, none is made again

        def finish() -> bool:
            committed, attempt.following = self._claims.finish_and_claim(
                attempt.claim,
                wishes.pop() if wishes else None,
                blob=written.key,
                size_bytes=written.size_bytes,
                report=report,
                device_s=attempt.device_s,
            )
            return committed

        committed = self._commit(attempt, finish)
        if committed is False:
            self._blobs.delete(written.key)
        log.info("task finished" if committed else "result dropped", extra={**_facts(attempt.task), **_timings(report)})

    def _fail(self, attempt: Attempt, problem: Problem) -> None:
        report = {"timings_s": attempt.all_timings_s({})}
        self._commit(attempt, lambda: self._claims.fail(attempt.claim, problem, report, attempt.device_s))

    def _commit(self, attempt: Attempt, write: Callable[[], bool]) -> bool | None:
        """Return whether the end was written, or None if that is not known: the records could not be reached.

        A write that was not acknowledged may have happened; the blob of such a result is left to housekeeping.
        """
        is_known = True
        while True:
            try:
                attempt.keeper.flush()
                written = write()
                return written if written or is_known else None
            except StoreUnavailable:
                is_known = False
            if attempt.keeper.cancelled():
                return None
            time.sleep(COMMIT_RETRY_S)


def _facts(task: Task) -> dict[str, str]:
    return {"task": task.uid, "model": task.model, "version": task.version}


def _timings(report: Mapping[str, Any]) -> dict[str, float]:
    return {f"{name}_s": seconds for name, seconds in report["timings_s"].items()}


def _log_failure(attempt: Attempt, error: BaseException) -> None:
    """Say what failed and where, but not with which values: those may be a patient's."""
    if attempt.keeper.cancelled():
        log.info("task stopped", extra=_facts(attempt.task))
    elif isinstance(error, InferenceServerError) and error.__cause__ is None:
        log.warning("task failed", extra={**_facts(attempt.task), "code": error.code})
    else:
        log.error("task failed", extra={**_facts(attempt.task), **_cause(error)})


def _cause(error: BaseException) -> dict[str, object]:
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    frames = [
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(root.__traceback__)
    ]
    return {"code": getattr(error, "code", "internal"), "error": type(root).__name__, "frames": frames}
