"""What housekeeping asks of the records and does with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence

from sqlalchemy import BindParameter, bindparam, delete, func, select, text

from inference_server.errors import QueueTimedOut
from inference_server.tasks.database import Database
from inference_server.tasks.record import Problem, Status
from inference_server.tasks.schema import ENDED, events, tasks
from inference_server.tasks.statements import has_status, moved, note_verb
from inference_server.tasks.transitions import Verb

BATCH = 500
"""How many records or keys one statement handles, so that no transaction is long."""

_SEQS = tasks.c.seq.in_(bindparam("seqs", expanding=True))
_KEYS: BindParameter[Sequence[str]] = bindparam("keys", expanding=True)
_WAITING = (
    select(tasks.c.queue, func.count().label("waiting"))
    .where(has_status(Status.QUEUED), tasks.c.queued_at < bindparam("before"))
    .group_by(tasks.c.queue)
)
_TIME_OUT = (
    moved(Verb.TIME_OUT, problem_code=QueueTimedOut.code, problem_message=QueueTimedOut().message)
    .where(tasks.c.queued_at < bindparam("before"))
    .returning(tasks.c.uid)
)
_WAITING_MODELS = select(tasks.c.model).distinct().where(has_status(Status.QUEUED))
_WITHDRAW = (
    moved(Verb.WITHDRAW, problem_code=bindparam("the_code"), problem_message=bindparam("the_message"))
    .where(tasks.c.model == bindparam("the_model"))
    .returning(tasks.c.uid)
)
_OLD = (
    select(tasks.c.seq, tasks.c.uid, tasks.c.case_blob, tasks.c.result_blob)
    .where(text(ENDED), tasks.c.ended_at < bindparam("before"))
    .order_by(tasks.c.ended_at)
    .limit(BATCH)
)
_EXPIRE = moved(Verb.EXPIRE).where(_SEQS)
_FORGET_EVENTS = delete(events).where(events.c.uid.in_(bindparam("uids", expanding=True)))
_CASES = select(tasks.c.case_blob).where(tasks.c.case_blob.in_(_KEYS))
_RESULTS = select(tasks.c.result_blob).where(tasks.c.result_blob.in_(_KEYS))


class Upkeep:
    """Records of tasks, as housekeeping uses them.

    Every method raises `StoreUnavailable` if the database cannot be reached; nothing is changed then.

    Args:
        database: migrated.
        clock: seconds since the epoch.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self._clock = clock

    def waiting(self, older_than_s: float) -> dict[str, int]:
        """Return, per queue, how many tasks have waited in it for longer than `older_than_s` seconds."""
        before = self._clock() - older_than_s
        with self.database.reading() as connection:
            return {row.queue: row.waiting for row in connection.execute(_WAITING, {"before": before})}

    def queue_timed_out(self, limit_s: float) -> list[str]:
        """Fail every task that has waited for longer than `limit_s` seconds and return their UIDs."""
        at = self._clock()
        with self.database.writing() as connection:
            uids = list(connection.scalars(_TIME_OUT, {"at": at, "before": at - limit_s}))
            note_verb(connection, uids, Verb.TIME_OUT, at=at)
        return uids

    def waiting_models(self) -> set[str]:
        """Return the ids of the models that tasks wait for."""
        with self.database.reading() as connection:
            return set(connection.scalars(_WAITING_MODELS))

    def withdraw(self, model: str, problem: Problem) -> list[str]:
        """Fail every task that waits for a model and return their UIDs."""
        at = self._clock()
        values = {"at": at, "the_model": model, "the_code": problem.code, "the_message": problem.message}
        with self.database.writing() as connection:
            uids = list(connection.scalars(_WITHDRAW, values))
            note_verb(connection, uids, Verb.WITHDRAW, at=at)
        return uids

    def expire(self, retention_s: float) -> list[str]:
        """Empty the records of tasks that ended more than `retention_s` seconds ago, the oldest 500 of them.

        What remains of one is what ran, when, for whom and how it ended.

        Returns:
            Keys of their blobs, which the caller removes.
        """
        at = self._clock()
        with self.database.writing() as connection:
            old = connection.execute(_OLD, {"before": at - retention_s}).all()
            uids = [row.uid for row in old]
            connection.execute(_EXPIRE, {"seqs": [row.seq for row in old]})
            connection.execute(_FORGET_EVENTS, {"uids": uids})
            note_verb(connection, uids, Verb.EXPIRE, at=at)
        return [key for row in old for key in (row.case_blob, row.result_blob) if key is not None]

    def known_blobs(self, keys: Collection[str]) -> set[str]:
        """Return those of the keys that a record refers to."""
        known: set[str] = set()
        with self.database.reading() as connection:
            for some in _batches(list(keys)):
                for query in (_CASES, _RESULTS):
                    known.update(connection.scalars(query, {"keys": some}))
        return known


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + BATCH] for start in range(0, len(keys), BATCH))
