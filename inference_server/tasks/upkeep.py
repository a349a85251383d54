"""What housekeeping asks of the records and does with them."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import BindParameter, bindparam, delete, func, select, text, tuple_, update
from sqlalchemy.dialects import postgresql

from inference_server.errors import QueueTimedOut
from inference_server.tasks.database import Database
from inference_server.tasks.record import Problem, Status
from inference_server.tasks.schema import ENDED, events, loads, tasks
from inference_server.tasks.statements import has_status, moved, note_verb
from inference_server.tasks.transitions import Verb

KEPT = (Status.FINISHED, Status.FAILED, Status.CANCELLED)
"""Tasks that ended like this have a case, and perhaps a result, until they expire."""
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
_DIGESTS = select(tasks.c.digest).distinct().where(has_status(Status.QUEUED, Status.RUNNING))
_WITHDRAW = (
    moved(Verb.WITHDRAW, problem_code=bindparam("the_code"), problem_message=bindparam("the_message"))
    .where(tasks.c.model == bindparam("the_model"))
    .returning(tasks.c.uid)
)
_OLD = (
    select(tasks.c.seq, tasks.c.uid, tasks.c.case_blob, tasks.c.result_blob)
    .where(text(ENDED), tasks.c.ended_at < bindparam("before"))
    .where(tasks.c.status.in_(bindparam("statuses", expanding=True)))
    .order_by(tasks.c.ended_at)
    .limit(BATCH)
)
_USED_CASES = (
    select(tasks.c.seq, tasks.c.case_blob)
    .where(has_status(Status.FINISHED), tasks.c.case_blob.is_not(None))
    .limit(BATCH)
)
_DROP_CASES = update(tasks).where(_SEQS).values(case_blob=None)
_SHARE = ("model", "queue", "token", "priority")
_COUNTS = ("waiting", "running")
_FREE_COUNTS = select(*loads.primary_key).with_for_update(skip_locked=True)
_TAKE_COUNTS = (
    delete(loads)
    .where(tuple_(*loads.primary_key).in_(_FREE_COUNTS))
    .returning(*(loads.c[name] for name in (*_SHARE, *_COUNTS)))
)
_NEW_COUNTS = postgresql.insert(loads)
_ADD_COUNTS = _NEW_COUNTS.on_conflict_do_update(
    index_elements=list(loads.primary_key),
    set_={name: loads.c[name] + _NEW_COUNTS.excluded[name] for name in _COUNTS},
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

    def needed_digests(self) -> set[str]:
        """Return the digests of what waiting and running tasks were submitted for."""
        with self.database.reading() as connection:
            return set(connection.scalars(_DIGESTS))

    def withdraw(self, model: str, problem: Problem) -> list[str]:
        """Fail every task that waits for a model and return their UIDs."""
        at = self._clock()
        values = {"at": at, "the_model": model, "the_code": problem.code, "the_message": problem.message}
        with self.database.writing() as connection:
            uids = list(connection.scalars(_WITHDRAW, values))
            note_verb(connection, uids, Verb.WITHDRAW, at=at)
        return uids

    def expire(self, retention_s: float, statuses: Collection[Status] = KEPT) -> list[str]:
        """Empty the records of tasks that ended more than `retention_s` seconds ago, the oldest 500 of them.

        What remains of one is what ran, when, for whom and how it ended.

        Args:
            retention_s: may be negative, for all.
            statuses: how the tasks ended.

        Returns:
            Keys of their blobs, which the caller removes.
        """
        at = self._clock()
        with self.database.writing() as connection:
            values = {"before": at - retention_s, "statuses": [status.value for status in statuses]}
            old = connection.execute(_OLD, values).all()
            uids = [row.uid for row in old]
            connection.execute(_EXPIRE, {"seqs": [row.seq for row in old]})
            connection.execute(_FORGET_EVENTS, {"uids": uids})
            note_verb(connection, uids, Verb.EXPIRE, at=at)
        return [key for row in old for key in (row.case_blob, row.result_blob) if key is not None]

    def drop_cases(self) -> list[str]:
        """Forget the cases of finished tasks, of 500 at most, and return their keys; the caller removes them."""
        with self.database.writing() as connection:
            used = connection.execute(_USED_CASES).all()
            connection.execute(_DROP_CASES, {"seqs": [row.seq for row in used]})
        return [row.case_blob for row in used]

    def tidy(self) -> None:
        """Have removed data leave the database's own files, and put together what connections counted each for itself.

        SQLite overwrites what is removed, but keeps earlier states of it in its log until that is written back.
        PostgreSQL keeps removed rows until its own vacuum.
        """
        if self.database.is_sqlite:
            self.database.empty_log()
        else:
            self._put_counts_together()

    def _put_counts_together(self) -> None:
        sums: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
        with self.database.writing() as connection:
            for *share, waiting, running in connection.execute(_TAKE_COUNTS):
                sums[tuple(share)].update(waiting=waiting, running=running)
            rows = [
                {**dict(zip(_SHARE, share, strict=True)), "slot": 0, **{name: counts[name] for name in _COUNTS}}
                for share, counts in sums.items()
                if any(counts.values())
            ]
            if rows:
                connection.execute(_ADD_COUNTS, rows)

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
