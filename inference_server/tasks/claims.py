"""Claims: what workers do with records. Every write carries the claim's token; without it nothing is written."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, case, or_, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from inference_server.errors import StoreUnavailable, WorkerLost
from inference_server.tasks.database import Database
from inference_server.tasks.figures import add, durations
from inference_server.tasks.precedence import next_in_turn
from inference_server.tasks.record import Claim, Holder, Phase, Problem, Status
from inference_server.tasks.schema import tasks
from inference_server.tasks.statements import HAS_UID, TASK_COLUMNS, has_status, moved, note, note_verb, to_task
from inference_server.tasks.transitions import Verb
from inference_server.tasks.upkeep import Upkeep
from inference_server.tasks.usage import charge

_HOLDS = HAS_UID & (tasks.c.claim_token == bindparam("token_held"))
_IS_HELD = (has_status(Status.RUNNING), _HOLDS)
_OF_WORKER = tasks.c.holder_worker == bindparam("the_worker")

_FINISH = (
    moved(
        Verb.FINISH,
        result_blob=bindparam("the_blob"),
        result_size_bytes=bindparam("the_size"),
        report=bindparam("the_report"),
    )
    .where(_HOLDS)
    .returning(tasks.c.token)
)
_FAIL = (
    moved(
        Verb.FAIL,
        problem_code=bindparam("the_code"),
        problem_message=bindparam("the_message"),
        report=bindparam("the_report"),
    )
    .where(_HOLDS)
    .returning(tasks.c.token)
)
_HAND_BACK = moved(Verb.HAND_BACK).returning(tasks.c.uid)
_LOST = select(tasks.c.token, tasks.c.started_at).where(has_status(Status.RUNNING)).with_for_update()
_ATTEMPT = tasks.c.attempts + 1
_LOSE = moved(Verb.LOSE, attempts=_ATTEMPT).returning(tasks.c.uid)
_GIVE_UP = (
    moved(Verb.GIVE_UP, attempts=_ATTEMPT, problem_code=WorkerLost.code, problem_message=WorkerLost().message)
    .where(bindparam("max_attempts") <= _ATTEMPT)
    .returning(tasks.c.uid)
)
_DEAD_CHILD = _OF_WORKER & tasks.c.holder_pid.not_in(bindparam("alive", expanding=True))
_LAPSED = tasks.c.lease_until < bindparam("at")

LOOKS = {"sqlite": 1, "postgresql": 3}
"""How often a claim looks for a task: on PostgreSQL others may have taken all that it saw, while newer ones wait."""


@dataclass(frozen=True)
class Wish:
    """What a child wants to claim: a task of one of these queues, at least one, for so long unless it is renewed."""

    queues: tuple[str, ...]
    holder: Holder
    lease_s: float


class Claims(Upkeep):
    """Records of tasks, as workers, their guardians and housekeeping use them.

    Every method raises `StoreUnavailable` if the database cannot be reached; nothing is changed then.

    Args:
        database: migrated.
        max_attempts: how often the worker of a task may die before the task fails.
        clock: seconds since the epoch.
    """

    def __init__(self, database: Database, *, max_attempts: int = 3, clock: Callable[[], float] = time.time) -> None:
        super().__init__(database, clock=clock)
        self._max_attempts = max_attempts

    def claim(self, queues: Sequence[str], holder: Holder, lease_s: float) -> Claim | None:
        """Take the waiting task whose turn it is, or return None if none waits in these queues.

        The order is priority, then the token that used least device time lately, then age.

        Args:
            queues: names, at least one.
            holder: who claims.
            lease_s: how long the claim lasts unless it is renewed.
        """
        with self.database.writing() as connection:
            return _claimed(connection, Wish(tuple(queues), holder, lease_s), self._clock())

    def renew(
        self,
        claim: Claim,
        lease_s: float,
        *,
        phase: Phase | None = None,
        progress: float | None = None,
        events: Sequence[tuple[str, str]] = (),
    ) -> bool:
        """Prolong a claim and report what the task is doing; return False if the claim is gone.

        The revision rises only if phase or progress are other than before.

        Args:
            claim: as `claim` gave it.
            lease_s: how long it lasts from now on.
            phase: what the task does; None leaves it as it was.
            progress: 0 to 1; None leaves it as it was.
            events: (level, text) of lines for the task's log.
        """
        at = self._clock()
        given = {"phase": phase.value if phase else None, "progress": progress}
        news = {name: value for name, value in given.items() if value is not None}
        with self.database.writing() as connection:
            values = {**_held(claim), **{f"the_{name}": value for name, value in news.items()}, "lease": at + lease_s}
            if not connection.execute(_renewal(tuple(news)), values).rowcount:
                return False
            for level, text in events:
                note(connection, [claim.task.uid], at=at, level=level, text=text)
        return True

    def finish(self, claim: Claim, *, blob: str, size_bytes: int, report: Mapping[str, Any], device_s: float) -> bool:
        """Commit the result; return False, with nothing written, if the claim is gone.

        Args:
            claim: as `claim` gave it.
            blob: key of the stored result, which the caller removes if the answer is False.
            size_bytes: its size.
            report: how the result was made, as JSON takes it.
            device_s: how long the device was held; charged to the task's token.
        """
        result: dict[str, Any] = {"blob": blob, "size_bytes": size_bytes, "report": report, "device_s": device_s}
        return self.finish_and_claim(claim, None, **result)[0]

    def finish_and_claim(
        self,
        claim: Claim,
        wish: Wish | None,
        *,
        blob: str,
        size_bytes: int,
        report: Mapping[str, Any],
        device_s: float,
    ) -> tuple[bool, Claim | None]:
        """Commit a result as `finish` does, and claim the next task, whether or not the result was still wanted.

        Where there can be one writer only (SQLite) it takes one transaction. Elsewhere those who do both at a time
        could wait for each other.
        """
        values = {"the_blob": blob, "the_size": size_bytes, "the_report": dict(report), "at": self._clock()}
        took, following = durations(claim.task.model, report.get("timings_s", {})), None
        with self.database.writing() as connection:
            ended = _end(connection, claim, _FINISH, values, verb=Verb.FINISH, device_s=device_s)
            if wish and self.database.is_sqlite:
                following = _claimed(connection, wish, self._clock())
            add(connection, took if ended else ())
        if wish and not self.database.is_sqlite:
            with suppress(StoreUnavailable):  # the result is safe, and housekeeping sends the turn again
                following = self.claim(wish.queues, wish.holder, wish.lease_s)
        return ended, following

    def fail(self, claim: Claim, problem: Problem, report: Mapping[str, Any], device_s: float) -> bool:
        """Commit a failure; return False, with nothing written, if the claim is gone."""
        said = {"the_code": problem.code, "the_message": problem.message, "the_report": dict(report)}
        values = {**said, "at": self._clock()}
        with self.database.writing() as connection:
            return _end(connection, claim, _FAIL, values, verb=Verb.FAIL, device_s=device_s)

    def hand_back(self, worker: str) -> int:
        """Queue everything that a stopping worker still holds and return how many tasks that was.

        It counts no attempt.
        """
        values = {"the_worker": worker, "at": self._clock()}
        with self.database.writing() as connection:
            return len(_apply(connection, _HAND_BACK.where(_OF_WORKER), Verb.HAND_BACK, values))

    def hand_back_claim(self, claim: Claim) -> bool:
        """Queue a claimed task again without counting an attempt; return False if the claim is gone."""
        values = {**_held(claim), "at": self._clock()}
        with self.database.writing() as connection:
            return bool(_apply(connection, _HAND_BACK.where(_HOLDS), Verb.HAND_BACK, values))

    def lose(self, worker: str, alive_pids: Collection[int] = ()) -> list[str]:
        """Return to the queue, or fail, what dead children of a worker held; each counts an attempt.

        Args:
            worker: its name.
            alive_pids: process ids of its living children; empty if the worker as a whole is dead.

        Returns:
            UIDs of the tasks.
        """
        values = {"the_worker": worker, "alive": list(alive_pids), "at": self._clock()}
        return self._lose(_DEAD_CHILD, values)

    def expire_leases(self, now: float | None = None) -> list[str]:
        """Return to the queue, or fail, tasks whose claim was not renewed in time; each counts an attempt.

        Args:
            now: seconds since the epoch; default: the clock's time.

        Returns:
            UIDs of the tasks.
        """
        return self._lose(_LAPSED, {"at": self._clock() if now is None else now})

    def _lose(self, which: ColumnElement[bool], values: Mapping[str, Any]) -> list[str]:
        at = values["at"]
        with self.database.writing() as connection:
            for row in connection.execute(_LOST.where(which), values).all():
                charge(connection, row.token, at - (row.started_at or at), at)
            limit = {**values, "max_attempts": self._max_attempts}
            failed = _apply(connection, _GIVE_UP.where(which), Verb.GIVE_UP, limit)
            return failed + _apply(connection, _LOSE.where(which), Verb.LOSE, values)


@lru_cache(maxsize=4)
def claim_statement(dialect: str) -> ReturningUpdate[Any]:
    """Return the statement that claims the task whose turn it is, as a database of this dialect takes it."""
    return (
        moved(
            Verb.CLAIM,
            claim_token=bindparam("fresh"),
            holder_worker=bindparam("the_worker"),
            holder_pid=bindparam("the_pid"),
            lease_until=bindparam("lease"),
        )
        .where(tasks.c.seq == next_in_turn(dialect))
        .returning(*TASK_COLUMNS)
    )


@lru_cache(maxsize=4)
def _renewal(names: tuple[str, ...]) -> Any:
    news = {name: bindparam(f"the_{name}", type_=tasks.c[name].type) for name in names}
    values: dict[str, Any] = {"lease_until": bindparam("lease"), **news}
    if news:
        changed = or_(*(tasks.c[name].is_distinct_from(value) for name, value in news.items()))
        values["revision"] = tasks.c.revision + case((changed, 1), else_=0)
    return update(tasks).where(*_IS_HELD).values(**values)


def _claimed(connection: Connection, wish: Wish, at: float) -> Claim | None:
    token, holder = uuid.uuid4().hex, wish.holder
    held = {"fresh": token, "the_worker": holder.worker, "the_pid": holder.pid, "lease": at + wish.lease_s}
    statement, values = claim_statement(connection.dialect.name), {**held, "queues": list(wish.queues), "at": at}
    looks = (connection.execute(statement, values).one_or_none() for _ in range(LOOKS[connection.dialect.name]))
    row = next((found for found in looks if found is not None), None)
    if row is None:
        return None
    note_verb(connection, [row.uid], Verb.CLAIM, at=at)
    return Claim(token, to_task(row), holder)


def _end(
    connection: Connection,
    claim: Claim,
    statement: ReturningUpdate[Any],
    values: Mapping[str, Any],
    *,
    verb: Verb,
    device_s: float,
) -> bool:
    """Write how a claimed task ended; return False, with nothing written, if the claim is gone."""
    token = connection.scalar(statement, {**_held(claim), **values})
    if token is None:
        return False
    charge(connection, token, device_s, values["at"])
    note_verb(connection, [claim.task.uid], verb, at=values["at"])
    return True


def _held(claim: Claim) -> dict[str, Any]:
    return {"task_uid": claim.task.uid, "token_held": claim.token}


def _apply(connection: Connection, statement: ReturningUpdate[Any], verb: Verb, values: Mapping[str, Any]) -> list[str]:
    uids = list(connection.scalars(statement, values))
    note_verb(connection, uids, verb, at=values["at"])
    return uids
