"""SQL that the store and the claims share. Statements are built once, so that their compiled form is kept.

Bound names: `at` is now (seconds since the epoch), `task_uid` a task. A status in a condition is always a literal,
since a partial index serves a query only if its condition is found in it word by word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Connection, Row, bindparam, insert, literal_column, or_, update
from sqlalchemy.sql.dml import Update
from sqlalchemy.sql.selectable import FromClause

from inference_server.tasks.record import Phase, Priority, Problem, Status, Task
from inference_server.tasks.schema import events, tasks
from inference_server.tasks.transitions import TRANSITIONS, Verb

AT: BindParameter[float] = bindparam("at")
HAS_UID = tasks.c.uid == bindparam("task_uid")

_PLAIN = (
    "uid", "model", "version", "digest", "queue", "dialect", "token", "revision", "attempts", "created_at", "queued_at",
    "case_blob", "case_size_bytes", "parameters", "report", "progress", "started_at", "ended_at", "result_blob",
    "result_size_bytes", "time_limit_s",
)  # fmt: skip
_TRANSLATED = ("priority", "status", "outputs", "phase", "problem_code", "problem_message")
TASK_COLUMNS = tuple(tasks.c[name] for name in (*_PLAIN, *_TRANSLATED, "seq"))


def to_task(row: Row[Any]) -> Task:
    """Return the task in a row of `TASK_COLUMNS`."""
    found = row._mapping
    return Task(
        **{name: found[name] for name in _PLAIN},
        priority=Priority(found["priority"]),
        status=Status(found["status"]),
        outputs=tuple(found["outputs"]),
        phase=Phase(found["phase"]) if found["phase"] else None,
        problem=Problem(found["problem_code"], found["problem_message"]) if found["problem_code"] else None,
    )


def has_status(*statuses: Status, table: FromClause = tasks) -> ColumnElement[bool]:
    """Return the condition that a task has one of these statuses."""
    return or_(*(table.c.status == literal_column(f"'{status.value}'") for status in statuses))


_FREE: Mapping[str, Any] = dict.fromkeys(("claim_token", "holder_worker", "holder_pid", "lease_until", "phase"))
_EMPTY: Mapping[str, Any] = {
    **dict.fromkeys(("case_blob", "result_blob", "idempotency_key")),
    "parameters": {},
    "outputs": [],
    "report": {},
    "fingerprint": "",
}
_ON_ENTRY: Mapping[Status, Mapping[str, Any]] = {
    Status.QUEUED: {**_FREE, "queued_at": AT, "started_at": None, "ended_at": None, "progress": 0.0},
    Status.RUNNING: {"started_at": AT},
    Status.FINISHED: {**_FREE, "ended_at": AT, "progress": 1.0},
    Status.FAILED: {**_FREE, "ended_at": AT},
    Status.CANCELLED: {**_FREE, "ended_at": AT},
    Status.EXPIRED: _EMPTY,
}


def moved(verb: Verb, **values: Any) -> Update:
    """Return the UPDATE that applies a verb to every task whose status allows it; the caller narrows it down."""
    transition = TRANSITIONS[verb]
    entry = {**_ON_ENTRY[transition.target], **values}
    return (
        update(tasks)
        .where(has_status(*transition.sources))
        .values(status=transition.target.value, revision=tasks.c.revision + 1, **entry)
    )


_INSERT_EVENT = insert(events)


def note(connection: Connection, uids: Iterable[str], *, at: float, level: str, text: str) -> None:
    """Append one line to the log of each of these tasks."""
    rows = [{"uid": uid, "time": at, "level": level, "text": text} for uid in uids]
    if rows:
        connection.execute(_INSERT_EVENT, rows)


def note_verb(connection: Connection, uids: Iterable[str], verb: Verb, *, at: float) -> None:
    """Append what a verb did to the log of each of these tasks."""
    transition = TRANSITIONS[verb]
    note(connection, uids, at=at, level=transition.level, text=transition.text)
