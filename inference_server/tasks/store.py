"""The store: what the doors do with records. What workers do with them is in `claims.py`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, insert, select
from sqlalchemy.sql.dml import ReturningUpdate

from inference_server.errors import BadRequest, Conflict, UnknownTask
from inference_server.tasks import admission, audit, outlook, usage
from inference_server.tasks.admission import NO_BOUNDS, Bounds
from inference_server.tasks.caller import SERVER, Caller
from inference_server.tasks.database import Database
from inference_server.tasks.record import Event, NewTask, Status, Task
from inference_server.tasks.schema import events, tasks
from inference_server.tasks.statements import HAS_UID, TASK_COLUMNS, has_status, moved, note, note_verb, to_task
from inference_server.tasks.transitions import TRANSITIONS, Verb

PAGE_LIMIT = 200

_GET = select(*TASK_COLUMNS).where(HAS_UID)
_INSERT = insert(tasks).returning(*TASK_COLUMNS)
_SAME_KEY = select(tasks.c.fingerprint, *TASK_COLUMNS).where(
    tasks.c.token == bindparam("the_token"), tasks.c.idempotency_key == bindparam("key")
)
_STATES = select(tasks.c.uid, tasks.c.revision, tasks.c.status).where(
    tasks.c.uid.in_(bindparam("uids", expanding=True))
)
_CANCEL = moved(Verb.CANCEL).where(HAS_UID).returning(*TASK_COLUMNS)
_RETRY = (
    # Without a digest: the model may have been mended since.
    moved(Verb.RETRY, attempts=0, problem_code=None, problem_message=None, report={}, digest="")
    .where(HAS_UID, tasks.c.case_blob.is_not(None))
    .returning(*TASK_COLUMNS)
)
_DELETE = delete(tasks).where(HAS_UID).returning(*TASK_COLUMNS)
_EVENTS = (
    select(events.c.seq, events.c.time, events.c.level, events.c.text)
    .where(events.c.uid == bindparam("task_uid"), events.c.seq > bindparam("since"))
    .order_by(events.c.seq)
)


@dataclass(frozen=True)
class TaskFilter:
    """Which tasks a page shows; None lets all through."""

    status: Status | None = None
    model: str | None = None
    dialect: str | None = None
    token: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the filter as SQL."""
        plain = {tasks.c.model: self.model, tasks.c.dialect: self.dialect, tasks.c.token: self.token}
        wanted = [column == value for column, value in plain.items() if value is not None]
        return [*wanted, *([has_status(self.status)] if self.status else [])]


@dataclass(frozen=True)
class Page:
    """Some tasks, latest first, and the cursor that continues after them, None at the end."""

    tasks: tuple[Task, ...]
    next_cursor: str | None


class Store:
    """Records of tasks, as the doors use them.

    Every method raises `StoreUnavailable` if the database cannot be reached; nothing is changed then.

    Args:
        database: migrated.
        bounds: of the queue.
        clock: seconds since the epoch.
    """

    def __init__(
        self, database: Database, *, bounds: Bounds = NO_BOUNDS, clock: Callable[[], float] = time.time
    ) -> None:
        self.database = database
        self._bounds = bounds
        self._clock = clock

    def add(self, new: NewTask) -> tuple[Task, bool]:
        """Record a task and return it with True, or with False the one that has this idempotency key already.

        Raises:
            Conflict: the idempotency key belongs to a request with another content.
            QueueFull: as many tasks wait, in all or for the model, as may.
            OverQuota: the token has as many tasks as it may.
        """
        at = self._clock()
        with self.database.writing() as connection:
            if (existing := _same_key(connection, new)) is not None:
                return existing, False
            self._make_way(connection, new, at)
            task = to_task(connection.execute(_INSERT, _columns(new, at)).one())
            note(connection, [new.uid], at=at, level="info", text="Accepted.")
            submitter = Caller(new.token, frozenset(), new.dialect)
            audit.note(connection, submitter, audit.Action.SUBMITTED, new.uid, at=at)
        return task, True

    def get(self, uid: str) -> Task:
        """Return a task.

        Raises:
            UnknownTask: there is none of this UID.
        """
        with self.database.reading() as connection:
            return _get(connection, uid)

    def states(self, uids: Collection[str]) -> dict[str, tuple[int, Status]]:
        """Return the revision and status of each of these tasks; unknown ones are missing from the answer."""
        with self.database.reading() as connection:
            rows = connection.execute(_STATES, {"uids": list(uids)})
            return {uid: (revision, Status(status)) for uid, revision, status in rows}

    def page(self, only: TaskFilter, cursor: str | None = None, limit: int = 50) -> Page:
        """Return tasks, latest first, that come after a cursor; of `limit` (1 to 200) at most.

        Raises:
            BadRequest: the cursor is not one that an earlier page gave, or the limit is out of range.
        """
        if not 1 <= limit <= PAGE_LIMIT:
            raise BadRequest(f"A page has from 1 to {PAGE_LIMIT} tasks; {limit} were asked for.", field="limit")
        query = select(*TASK_COLUMNS).where(*only.conditions(), *_after(cursor))
        with self.database.reading() as connection:
            rows = connection.execute(query.order_by(tasks.c.seq.desc()).limit(limit + 1)).all()
        more = len(rows) > limit
        return Page(tuple(map(to_task, rows[:limit])), str(rows[limit - 1].seq) if more else None)

    def position(self, task: Task) -> int:
        """Return about how many waiting tasks go before this one (0: it is next); see `outlook.position`."""
        if task.status is not Status.QUEUED:
            return 0
        with self.database.reading() as connection:
            return outlook.position(connection, task)

    def expected_wait_s(self, task: Task) -> float | None:
        """Return about how long a waiting task still waits; None if it does not wait or nothing is known."""
        if task.status is not Status.QUEUED:
            return None
        with self.database.reading() as connection:
            return outlook.expected_wait_s(connection, task)

    def cancel(self, uid: str, by: Caller = SERVER) -> Task:
        """Stop a task that waits or runs. A worker that has it notices at its next beat.

        The audit log names who did it, `by`; so with the other verbs.

        Raises:
            UnknownTask: there is none of this UID.
            Conflict: the task has ended.
        """
        return self._move(uid, Verb.CANCEL, _CANCEL, by)

    def retry(self, uid: str, by: Caller = SERVER) -> Task:
        """Queue a failed or cancelled task again, at the place its age gives it.

        Raises:
            UnknownTask: there is none of this UID.
            QueueFull, OverQuota: as `add`.
            Conflict: the task did not fail, or its case has been removed.
        """
        return self._move(uid, Verb.RETRY, _RETRY, by)

    def delete(self, uid: str, by: Caller = SERVER) -> tuple[str, ...]:
        """Remove a task in whatever state and return the keys of its blobs, which the caller removes.

        Raises:
            UnknownTask: there is none of this UID.
        """
        at = self._clock()
        with self.database.writing() as connection:
            row = connection.execute(_DELETE, {"task_uid": uid}).one_or_none()
            if row is None:
                raise UnknownTask
            _charge_stopped(connection, to_task(row), at)
            audit.note(connection, by, audit.Action.DELETED, uid, at=at)
        return tuple(key for key in (row.case_blob, row.result_blob) if key is not None)

    def note_fetch(self, uid: str, by: Caller, *, wait_s: float | None = None) -> None:
        """Tell the audit log that somebody is given a task's result.

        Raises:
            StoreUnavailable: it could not be told, within `wait_s` if that is given.
        """
        with self.database.writing(wait_s=wait_s) as connection:
            audit.note(connection, by, audit.Action.FETCHED, uid, at=self._clock())

    def events(self, uid: str, since: int = 0) -> list[Event]:
        """Return the lines of a task's log whose `seq` is above `since`, in order.

        Raises:
            UnknownTask: there is none of this UID.
        """
        with self.database.reading() as connection:
            _get(connection, uid)
            return [Event(*row) for row in connection.execute(_EVENTS, {"task_uid": uid, "since": since})]

    def add_event(self, uid: str, level: str, text: str) -> None:
        """Append a line to a task's log.

        Raises:
            UnknownTask: there is none of this UID.
        """
        with self.database.writing() as connection:
            _get(connection, uid)
            note(connection, [uid], at=self._clock(), level=level, text=text)

    def _make_way(self, connection: Connection, task: NewTask | Task, at: float) -> None:
        admission.refuse_if_full(connection, self._bounds, model=task.model, token=task.token)
        usage.join(connection, task.token, task.queue, task.priority, at)

    def _move(self, uid: str, verb: Verb, statement: ReturningUpdate[Any], by: Caller) -> Task:
        at = self._clock()
        with self.database.writing() as connection:
            before = _get(connection, uid)
            if verb is Verb.RETRY and before.status in TRANSITIONS[verb].sources:
                self._make_way(connection, before, at)
            row = connection.execute(statement, {"task_uid": uid, "at": at}).one_or_none()
            if row is None:
                raise _refusal(before, verb)
            _charge_stopped(connection, before, at)
            note_verb(connection, [uid], verb, at=at)
            audit.note(connection, by, _ACTIONS[verb], uid, at=at)
        return to_task(row)


def _get(connection: Connection, uid: str) -> Task:
    row = connection.execute(_GET, {"task_uid": uid}).one_or_none()
    if row is None:
        raise UnknownTask
    return to_task(row)


def _same_key(connection: Connection, new: NewTask) -> Task | None:
    if new.idempotency_key is None:
        return None
    row = connection.execute(_SAME_KEY, {"the_token": new.token, "key": new.idempotency_key}).one_or_none()
    if row is not None and row.fingerprint != new.fingerprint:
        raise Conflict(
            "This idempotency key was used for a request with another content. Send a fresh key.",
            field="Idempotency-Key",
        )
    return to_task(row) if row is not None else None


def _columns(new: NewTask, at: float) -> dict[str, Any]:
    given = {name: getattr(new, name) for name in new.__dataclass_fields__}
    fixed = {"status": Status.QUEUED.value, "revision": 1, "attempts": 0, "progress": 0.0, "report": {}}
    changed = {"priority": int(new.priority), "parameters": dict(new.parameters), "outputs": list(new.outputs)}
    return {**given, **fixed, **changed, "created_at": at, "queued_at": at}


def _after(cursor: str | None) -> list[ColumnElement[bool]]:
    if cursor is None:
        return []
    if not re.fullmatch(r"[0-9]{1,18}", cursor):
        raise BadRequest("The cursor is not one that an earlier page gave.", field="cursor")
    return [tasks.c.seq < int(cursor)]


def _charge_stopped(connection: Connection, before: Task, at: float) -> None:
    """Charge a task that is stopped while it runs: whoever cancels has used the device nevertheless."""
    if before.status is Status.RUNNING:
        usage.charge(connection, before.token, at - (before.started_at or at), at)


def _refusal(task: Task, verb: Verb) -> Conflict:
    if task.status in TRANSITIONS[verb].sources:
        return Conflict("The task's images have been removed from the server, so it cannot be tried again.")
    allowed = " or ".join(TRANSITIONS[verb].sources)
    return Conflict(f"The task is {task.status.value}; only a {allowed} one can be {_PAST[verb]}.")


_ACTIONS = {Verb.CANCEL: audit.Action.CANCELLED, Verb.RETRY: audit.Action.RETRIED}
_PAST = {Verb.CANCEL: "cancelled", Verb.RETRY: "tried again"}
