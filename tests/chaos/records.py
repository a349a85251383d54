"""The records as the suite reads them: who holds what, and what became of each task."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, func, select

from inference_server.errors import StoreUnavailable
from inference_server.tasks.database import open_database
from inference_server.tasks.schema import events, tasks

PAUSE_S = 0.1
LIMIT_S = 60.0

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Held:
    """A running task and who holds it."""

    uid: str
    model: str
    token: str
    worker: str
    pid: int
    attempts: int

    @property
    def worker_pid(self) -> int:
        """Process id of the child's parent: a worker's name ends in it."""
        return int(self.worker.rpartition(":")[2])


@dataclass(frozen=True)
class Life:
    """What became of a task. Times are in seconds since the epoch."""

    uid: str
    model: str
    status: str
    problem: str | None
    message: str | None
    attempts: int
    created_at: float
    ended_at: float | None
    starts: int
    ends: int

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in ("finished", "failed", "cancelled")


_HELD = (
    tasks.c.uid, tasks.c.model, tasks.c.claim_token, tasks.c.holder_worker, tasks.c.holder_pid, tasks.c.attempts,
)  # fmt: skip
_LIFE = ("uid", "model", "status", "attempts", "created_at", "ended_at")
_PROBLEM = (tasks.c.problem_code, tasks.c.problem_message)
_STARTED = "A worker started."
_ENDED = ("Finished.", "Failed.", "The worker ended unexpectedly; given up.", "Cancelled.")


class Records:
    """Reads the records of a server, also while it is being hurt.

    Args:
        url: SQLAlchemy URL of migrated records.
    """

    def __init__(self, url: str) -> None:
        self._database = open_database(url)

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def running(self) -> list[Held]:
        """Return what runs, the longest-running first."""
        query = select(*_HELD).where(tasks.c.status == "running").order_by(tasks.c.started_at)
        return self._ask(lambda connection: [Held(*row) for row in connection.execute(query)])

    def state(self, uid: str) -> tuple[str, str | None, int]:
        """Return status, claim token and attempts of a task."""
        query = select(tasks.c.status, tasks.c.claim_token, tasks.c.attempts).where(tasks.c.uid == uid)
        status, token, attempts = self._ask(lambda connection: connection.execute(query).one())
        return status, token, attempts

    def holds(self, held: Held) -> bool:
        """Return whether a task still runs under the same claim."""
        return self.state(held.uid) == ("running", held.token, held.attempts)

    def keys(self) -> dict[str, int]:
        """Return how many records each idempotency key has."""
        query = select(tasks.c.idempotency_key, func.count()).group_by(tasks.c.idempotency_key)
        return self._ask(lambda connection: {row[0]: row[1] for row in connection.execute(query)})

    def lives(self, uids: Collection[str]) -> dict[str, Life]:
        """Return what became of these tasks; unknown ones are missing from the answer."""
        return self._ask(lambda connection: {life.uid: life for life in map(_life(connection), uids) if life})

    def _ask(self, question: Callable[[Connection], Answer]) -> Answer:
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                with self._database.reading() as connection:
                    return question(connection)
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE_S)


def _life(connection: Connection) -> Callable[[str], Life | None]:
    def read(uid: str) -> Life | None:
        columns = (*(tasks.c[name] for name in _LIFE), *_PROBLEM)
        row: Any = connection.execute(select(*columns).where(tasks.c.uid == uid)).one_or_none()
        if row is None:
            return None
        texts = list(connection.scalars(select(events.c.text).where(events.c.uid == uid)))
        return Life(
            **{name: getattr(row, name) for name in _LIFE},
            problem=row.problem_code,
            message=row.problem_message,
            starts=texts.count(_STARTED),
            ends=sum(text in _ENDED for text in texts),
        )

    return read
