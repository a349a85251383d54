"""What every door calls: submit a task, look at it, steer it, fetch its result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from inference_server.errors import Forbidden, InferenceServerError, StorageFull, StoreUnavailable, UnknownTask
from inference_server.models.manifest import Manifest
from inference_server.settings import Settings
from inference_server.tasks.admission import bounds_of
from inference_server.tasks.blobs import Blobs, open_blobs
from inference_server.tasks.caller import Caller
from inference_server.tasks.database import open_database
from inference_server.tasks.record import Event, NewTask, Priority, Status, Task, new_uid
from inference_server.tasks.results import ResultFile, without_result
from inference_server.tasks.store import Page, Store, TaskFilter
from inference_server.tasks.submission import Submission, check_outputs, fingerprint
from inference_server.tasks.traces import NO_TRACES, Traces, open_traces

log = logging.getLogger(__name__)


class Turns(Protocol):
    """A way to tell the workers of a queue that they may take a task."""

    def send(self, queue: str, priority: Priority = Priority.NORMAL) -> bool:
        """Send one turn; return False, soon and without an exception, if that was not possible."""

    def ready(self, queue: str) -> int | None:
        """Return how many turns wait in the queue, or None where the broker does not answer."""


class Served(Protocol):
    """A model of the repository."""

    @property
    def manifest(self) -> Manifest:
        """What the model declares of itself."""

    @property
    def digest(self) -> str:
        """Digest of the model's files."""


class Models(Protocol):
    """The model repository."""

    def get(self, model_id: str, /) -> Served:
        """Return the highest version of a model.

        Raises:
            UnknownModel: there is none of this id; the message names the known ones.
        """

    def models(self) -> Sequence[Served]:
        """Return all models, sorted by id, the highest version first."""

    def problems(self) -> Mapping[Path, str]:
        """Return the folders that cannot be served, and why."""


CheckCase = Callable[[Path, Manifest, Settings], object]
"""Raises the narrowest error for a case that the model cannot take; looks at headers only."""


class Tasks:
    """The life of tasks as the doors see it.

    A task that the `caller` may not see is answered as an unknown one. Every method raises `StoreUnavailable` if the
    records or the files cannot be reached.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        blobs: Blobs,
        turns: Turns,
        models: Models,
        check_case: CheckCase,
        traces: Traces = NO_TRACES,
    ) -> None:
        self.settings = settings
        self.store = store
        self.blobs = blobs
        self.turns = turns
        self.models = models
        self._check_case = check_case
        self._traces = traces

    def ensure_room(self, size_bytes: int = 0) -> None:
        """Check that the disk takes `size_bytes` more and stays above its low-water mark.

        Raises:
            StorageFull: it does not.
        """
        free_bytes = self.blobs.free_bytes()
        if free_bytes is not None and free_bytes - size_bytes < self.settings.disk_low_bytes:
            log.error("disk nearly full", extra={"free_bytes": free_bytes})
            raise StorageFull

    def stage(self) -> Path:
        """Return the path of a new empty file for a case's zip; `submit` or `discard` ends it."""
        return self.blobs.stage()

    def discard(self, staged: Path) -> None:
        """Remove a staged file that will not be submitted."""
        self.blobs.discard(staged)

    def submit(self, submission: Submission) -> tuple[Task, bool]:
        """Accept a case: from the return on, the task is durable, whatever happens to this process or the broker.

        The staged file is gone afterwards, accepted or not.

        Returns:
            The task and True, or False with the one that an earlier request of the same idempotency key made.

        Raises:
            UnknownModel: the server has no such model.
            BadRequest: the parameters or the case are not what the model takes; so do its subclasses and `TooLarge`.
            StorageFull: the disk is nearly full.
            QueueFull: as many tasks wait, in all or for the model, as may.
            OverQuota: the token has as many tasks as it may.
            Conflict: the idempotency key belongs to a request with another content.
        """
        began = time.time()
        try:
            new = self._checked(submission)
            task, created = self._record(new, submission.staged)
        finally:
            self.blobs.discard(submission.staged)
        if created:
            log.info("task accepted", extra={"task": task.uid, "model": task.model, "dialect": task.dialect})
            self._send_turn(task)
            self._traces.submitted(task, began, time.time())
        return task, created

    def get(self, uid: str, caller: Caller) -> Task:
        """Return a task.

        Raises:
            UnknownTask: there is none of this UID that the caller may see.
        """
        task = self.store.get(uid)
        if not caller.may_see(task):
            raise UnknownTask
        return task

    def page(self, only: TaskFilter, caller: Caller, cursor: str | None = None, limit: int = 50) -> Page:
        """Return tasks that the caller may see, latest first; see `Store.page`."""
        return self.store.page(only if caller.sees_all else replace(only, token=caller.name), cursor, limit)

    def position(self, task: Task) -> int:
        """Return about how many waiting tasks are before this one; see `Store.position`."""
        return self.store.position(task)

    def expected_wait_s(self, task: Task) -> float | None:
        """Return about how long a waiting task still waits; see `Store.expected_wait_s`."""
        return self.store.expected_wait_s(task)

    def cancel(self, uid: str, caller: Caller) -> Task:
        """Stop a task that waits or runs.

        Raises:
            UnknownTask: there is none of this UID that the caller may see.
            Forbidden: the caller may see it, but not steer it.
            Conflict: the task has ended.
        """
        self._steered(uid, caller)
        task = self.store.cancel(uid, caller)
        log.info("task cancelled", extra={"task": uid, "model": task.model, "by": caller.name})
        return task

    def retry(self, uid: str, caller: Caller) -> Task:
        """Queue a failed or cancelled task again.

        Raises:
            UnknownTask: there is none of this UID that the caller may see.
            Forbidden: the caller may see it, but not steer it.
            Conflict: the task did not fail, or its case has been removed.
        """
        self._steered(uid, caller)
        task = self.store.retry(uid, caller)
        log.info("task retried", extra={"task": uid, "model": task.model, "by": caller.name})
        self._send_turn(task)
        return task

    def delete(self, uid: str, caller: Caller) -> None:
        """Remove a task in whatever state, with all its data.

        Raises:
            UnknownTask: there is none of this UID that the caller may see.
            Forbidden: the caller may see it, but not steer it.
        """
        self._steered(uid, caller)
        keys = self.store.delete(uid, caller)
        log.info("task deleted", extra={"task": uid, "by": caller.name})
        for key in keys:
            self._delete_blob(key)

    def events(self, uid: str, caller: Caller, since: int = 0) -> list[Event]:
        """Return the lines of a task's log whose `seq` is above `since`.

        Raises:
            UnknownTask: there is none of this UID that the caller may see.
        """
        self.get(uid, caller)
        return self.store.events(uid, since)

    def result(self, uid: str, caller: Caller, *, wait_s: float | None = None) -> ResultFile:
        """Return the result of a finished task; the audit log notes that it was given.

        Args:
            uid: of the task.
            caller: who asks.
            wait_s: how long the log may be waited for; as long as may be where it is not given.

        Raises:
            StoreUnavailable: the audit log could not be told in this time.
            UnknownTask: there is none of this UID that the caller may see.
            Forbidden: the caller may follow it, but not fetch what came of it.
            NotFinished: it waits or runs.
            Cancelled: it was cancelled.
            ResultGone: its result has been removed.
            InferenceServerError: it failed; the class, code and sentence are those of its problem.
        """
        return self.give(self.get(uid, caller), caller, wait_s=wait_s)

    def give(self, task: Task, caller: Caller, *, wait_s: float | None = None) -> ResultFile:
        """Return the result of a task that was just looked at, as `result` does."""
        if not caller.may_fetch(task):
            raise Forbidden("This access token does not allow fetching results of others: 'read-all' does.")
        if task.status is Status.FINISHED and task.result_blob is not None:
            self.store.note_fetch(task.uid, caller, wait_s=wait_s)
            log.info("result fetched", extra={"task": task.uid, "by": caller.name})
            self._traces.fetched(task, time.time())
            return ResultFile(task, task.result_blob, task.result_size_bytes or 0, self.blobs)
        raise without_result(task)

    def _steered(self, uid: str, caller: Caller) -> None:
        if not caller.may_steer(self.get(uid, caller)):
            raise Forbidden(
                "This access token does not allow changing this task: 'submit' does for one's own, 'operate' for all."
            )

    def _checked(self, submission: Submission) -> NewTask:
        self.ensure_room()
        model = self.models.get(submission.model)
        manifest = model.manifest
        parameters = manifest.check_parameters(submission.parameters)
        self._check_case(submission.staged, manifest, self.settings)
        return NewTask(
            uid=new_uid(),
            model=manifest.id,
            version=manifest.version,
            digest=model.digest,
            queue=manifest.queue,
            dialect=submission.dialect,
            case_blob="",
            case_size_bytes=submission.staged.stat().st_size,
            token=submission.token,
            priority=submission.priority,
            parameters=parameters,
            outputs=check_outputs(submission.outputs),
            idempotency_key=submission.idempotency_key,
            fingerprint=fingerprint(submission) if submission.idempotency_key is not None else "",
            time_limit_s=manifest.resources.time_limit_s,
        )

    def _record(self, new: NewTask, staged: Path) -> tuple[Task, bool]:
        key = self.blobs.put(staged)
        try:
            task, created = self.store.add(replace(new, case_blob=key))
        except StoreUnavailable:
            # The record may be there although its commit was not acknowledged: housekeeping decides about the blob.
            raise
        except InferenceServerError:
            self._delete_blob(key)
            raise
        if not created:
            self._delete_blob(key)
        return task, created

    def _send_turn(self, task: Task) -> None:
        if not self.turns.send(task.queue, task.priority):
            log.warning("turn not sent", extra={"task": task.uid, "model": task.model, "queue": task.queue})

    def _delete_blob(self, key: str) -> None:
        try:
            self.blobs.delete(key)
        except StoreUnavailable:
            log.warning("blob left to housekeeping", exc_info=True)


def open_tasks(settings: Settings, models: Models | None = None) -> Tasks:
    """Return the life of tasks on the records, files, broker and models that the settings name.

    Args:
        settings: where those are.
        models: the model repository, where it is open already.

    Raises:
        StoreUnavailable: the records cannot be reached.
        SettingsError: traces are wanted, and the packages for that are not installed.
    """
    from inference_server.models.registry import open_registry
    from inference_server.tasks.case_zip import check_case
    from inference_server.tasks.queue import CeleryTurns

    store = Store(open_database(settings.database), bounds=bounds_of(settings))
    found = models or open_registry(settings)
    turns, traces = CeleryTurns(settings), open_traces(settings)
    return Tasks(settings, store, open_blobs(settings), turns, found, check_case, traces)
