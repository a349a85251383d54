"""The audit log: who did what to which task, when, and through which door. Nothing of a patient.

Lines are written in the transaction of what they tell, and never changed: the database refuses it (`append_only.py`).
They outlive the task.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, insert, select

from inference_server.tasks.caller import Caller
from inference_server.tasks.database import Database
from inference_server.tasks.schema import audit, audit_forgetting

PAGE = 1000
"""How many lines are read at a time."""

_NOTE = insert(audit)
_PERMIT = insert(audit_forgetting)
_FORBID = delete(audit_forgetting)
_FORGET = delete(audit).where(audit.c.time < bindparam("before"))


class Action(StrEnum):
    """What somebody did to a task."""

    SUBMITTED = "submitted"
    FETCHED = "fetched"
    CANCELLED = "cancelled"
    RETRIED = "retried"
    DELETED = "deleted"


@dataclass(frozen=True)
class Entry:
    """A line of the audit log. `time` is in seconds since the epoch, `token` the name of one."""

    seq: int
    time: float
    token: str
    dialect: str
    action: str
    uid: str


def note(connection: Connection, caller: Caller, action: Action, uid: str, *, at: float) -> None:
    """Append a line, in the transaction of `connection`."""
    values = {"time": at, "token": caller.name, "dialect": caller.dialect, "action": action.value, "uid": uid}
    connection.execute(_NOTE, values)


class Audit:
    """The audit log, as its reader and housekeeping use it.

    Every method raises `StoreUnavailable` if the database cannot be reached.

    Args:
        database: migrated.
        clock: seconds since the epoch.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def entries(
        self, *, uid: str | None = None, token: str | None = None, since: float | None = None
    ) -> Iterator[Entry]:
        """Yield lines, the oldest first.

        Args:
            uid: only those of this task.
            token: only those of this token's name.
            since: only those from this moment on, in seconds since the epoch.
        """
        chosen = {audit.c.uid: uid, audit.c.token: token}
        query = select(audit).where(*(column == value for column, value in chosen.items() if value is not None))
        if since is not None:
            query = query.where(audit.c.time >= since)
        last = 0
        while page := self._page(query.where(audit.c.seq > last).order_by(audit.c.seq).limit(PAGE)):
            yield from page
            last = page[-1].seq

    def forget(self, older_than_s: float) -> int:
        """Remove the lines that are older than this; return how many those were."""
        moment = {"before": self._clock() - older_than_s}
        with self._database.writing() as connection:
            connection.execute(_PERMIT, moment)
            forgotten = connection.execute(_FORGET, moment).rowcount
            connection.execute(_FORBID)
        return forgotten

    def _page(self, query: Select[Any]) -> list[Entry]:
        with self._database.reading() as connection:
            return [Entry(*row) for row in connection.execute(query)]
