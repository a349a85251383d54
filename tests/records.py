"""What the tests of records share: a clock that stands still, and tasks to put into the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inference_server.tasks.claims import Claims
from inference_server.tasks.database import Database
from inference_server.tasks.record import Claim, Holder, NewTask, Problem, Status, Task, new_uid
from inference_server.tasks.schema import audit, audit_forgetting, loads
from inference_server.tasks.store import Store
from inference_server.tasks.tickets.tables import metadata

HOLDER = Holder("worker-1", 4711)
PROBLEM = Problem("prediction", "The model failed on this case.")
LEASE_S = 15.0


@dataclass
class Clock:
    """Time that passes only when told to."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def emptied(database: Database) -> Database:
    """Remove every row; the counts of tasks follow by themselves, and what is left of them goes too."""
    with database.writing() as connection:
        connection.execute(audit_forgetting.insert(), {"before": float("inf")})
        connection.execute(audit.delete())
        for table in (*reversed(metadata.sorted_tables), loads):
            connection.execute(table.delete())
    return database


def new_task(**changes: Any) -> NewTask:
    given: dict[str, Any] = {
        "uid": new_uid(),
        "model": "ct-body",
        "version": "1.0.0",
        "digest": "d1",
        "queue": "default",
        "dialect": "native",
        "case_blob": new_uid(),
        "case_size_bytes": 1000,
    }
    return NewTask(**{**given, **changes})


def added(store: Store, **changes: Any) -> Task:
    return store.add(new_task(**changes))[0]


def claimed(claims: Claims, holder: Holder = HOLDER, queue: str = "default") -> Claim:
    claim = claims.claim([queue], holder, LEASE_S)
    assert claim is not None
    return claim


def task_in(status: Status, store: Store, claims: Claims) -> tuple[Task, Claim | None]:
    """Bring a fresh task to a status, and return the claim it has or had."""
    uid = added(store).uid
    if status is Status.QUEUED:
        return store.get(uid), None
    claim = claimed(claims)
    match status:
        case Status.FINISHED | Status.EXPIRED:
            assert claims.finish(claim, blob=new_uid(), size_bytes=10, report={"device": "cpu"}, device_s=1.0)
        case Status.FAILED:
            assert claims.fail(claim, PROBLEM, {}, 1.0)
        case Status.CANCELLED:
            store.cancel(uid)
    if status is Status.EXPIRED:
        assert len(claims.expire(-1.0)) == 2
    task = store.get(uid)
    assert task.status is status
    return task, claim
