"""The workers: what each says of itself with its beats, for operators to see."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from inference_server.tasks import figures
from inference_server.tasks.database import Database
from inference_server.tasks.figures import Figure
from inference_server.tasks.record import Status
from inference_server.tasks.schema import tasks, workers
from inference_server.tasks.statements import has_status

SILENT_S = 15.0
"""A worker that was not heard of for so long, five beats, may be dead; its claims have lapsed."""
FORGOTTEN_S = 3600.0
"""A worker that was not heard of for so long is no longer listed."""
WAIT_S = 1.0
"""Longest wait of a beat for other writers: there is a next one."""

_NAMED = workers.c.name == bindparam("the_name")
# Sorted here: asked for an order, SQLite reads the whole table in that order instead of the index of what runs.
_RUNNING = select(tasks.c.seq, tasks.c.uid, tasks.c.holder_worker).where(has_status(Status.RUNNING))
_ALL = select(workers).order_by(workers.c.host, workers.c.device_id, workers.c.name)


class WorkerState(StrEnum):
    """How a worker is."""

    STARTING = "starting"
    """Its children load their models."""
    READY = "ready"
    """It takes tasks."""
    DRAINING = "draining"
    """It was told to stop, and finishes what it has."""
    SILENT = "silent"
    """It was not heard of for some beats: dead, or cut off from the records."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One Celery parent process on one device. Times are seconds since the epoch, UTC.

    Attributes:
        name: its host's name and its process id.
        host: name of its machine or container.
        version: of this software.
        device: what its models compute on, by its name for people.
        device_kind: `cpu` or `cuda`.
        device_id: names the device on its machine, whatever else sees it.
        queues: that it listens to.
        state: as it was last told, or `silent`.
        children: how many processes it computes with.
        memory_bytes: of the device; None where that is not known.
        memory_used_bytes: of the device, by whomever; None where the device does not say.
        utilisation: share of the last moments in which the device computed, 0 to 1; None where it does not say.
        models: that are loaded, as `id:version`.
        started_at: when it began.
        beat_at: when it was last heard of.
        tasks: UIDs of those that it runs, the oldest first.
    """

    name: str
    host: str
    version: str
    device: str
    device_kind: str
    device_id: str
    queues: tuple[str, ...]
    state: WorkerState
    children: int
    started_at: float
    beat_at: float
    memory_bytes: int | None = None
    memory_used_bytes: int | None = None
    utilisation: float | None = None
    models: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()


class Workers:
    """Records of workers. Every method raises `StoreUnavailable` if the database cannot be reached.

    Args:
        database: migrated.
        clock: seconds since the epoch.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self.clock = clock

    def beat(self, worker: Worker, more: Collection[Figure] = ()) -> None:
        """Note what a worker says of itself, and add figures that it has counted."""
        values = _columns(worker)
        with self.database.writing(wait_s=WAIT_S) as connection:
            if not connection.execute(update(workers).where(_NAMED), {"the_name": worker.name, **values}).rowcount:
                connection.execute(insert(workers), values)
            figures.add(connection, more)

    def leave(self, name: str) -> None:
        """Forget a worker that has ended in order."""
        with self.database.writing(wait_s=WAIT_S) as connection:
            connection.execute(delete(workers).where(_NAMED), {"the_name": name})

    def all(self) -> list[Worker]:
        """Return every worker that was heard of lately, by host and device."""
        with self.database.reading() as connection:
            return found(connection, self.clock())

    def forget(self) -> int:
        """Remove workers that were not heard of for an hour; return how many."""
        with self.database.writing() as connection:
            late = workers.c.beat_at < self.clock() - FORGOTTEN_S
            return connection.execute(delete(workers).where(late)).rowcount


def found(connection: Connection, now: float) -> list[Worker]:
    """Return every worker with the tasks that it runs at `now`."""
    held: Mapping[str, list[str]] = defaultdict(list)
    for row in sorted(connection.execute(_RUNNING)):
        held[row.holder_worker].append(row.uid)
    return [_worker(row, held.get(row.name, ()), now) for row in connection.execute(_ALL)]


def _worker(row: Row[Any], held: Sequence[str], now: float) -> Worker:
    values = {**row._mapping, "queues": tuple(row.queues.split(",")), "models": tuple(row.models)}
    known = Worker(**{**values, "state": WorkerState(row.state)}, tasks=tuple(held))
    return replace(known, state=WorkerState.SILENT) if now - known.beat_at > SILENT_S else known


def _columns(worker: Worker) -> dict[str, Any]:
    values = {name: getattr(worker, name) for name in workers.c.keys()}  # noqa: SIM118 - a collection of columns
    return {**values, "queues": ",".join(worker.queues), "models": list(worker.models), "state": worker.state.value}
