"""What is to be seen of the server at one moment. It reads what waits, runs and is summed up, never what has ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, func, select

from inference_server.tasks import figures, workers
from inference_server.tasks.figures import Figure
from inference_server.tasks.record import Status
from inference_server.tasks.schema import loads, tasks
from inference_server.tasks.statements import has_status
from inference_server.tasks.workers import Worker, WorkerState

_DEPTHS = select(
    loads.c.queue, func.sum(loads.c.waiting).label("waiting"), func.sum(loads.c.running).label("running")
).group_by(loads.c.queue)
_OLDEST = select(func.min(tasks.c.queued_at)).where(has_status(Status.QUEUED), tasks.c.queue == bindparam("the_queue"))


@dataclass(frozen=True)
class Depth:
    """A queue: how many tasks wait and run, and for how long the oldest has waited."""

    waiting: int = 0
    running: int = 0
    oldest_s: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """The server at one moment.

    Attributes:
        depths: by queue, also the empty ones that are known.
        workers: that were heard of lately, in whatever state.
        figures: all sums.
    """

    depths: Mapping[str, Depth]
    workers: tuple[Worker, ...]
    figures: tuple[Figure, ...]

    @property
    def devices(self) -> Mapping[tuple[str, str], Worker]:
        """By host and device, the worker that spoke of it last; a silent one knows nothing of its device."""
        speaking = (worker for worker in self.workers if worker.state is not WorkerState.SILENT)
        latest = sorted(speaking, key=lambda worker: worker.beat_at)
        return {(worker.host, worker.device_id): worker for worker in latest}


def take(connection: Connection, queues: Collection[str], now: float) -> Snapshot:
    """Return what is to be seen.

    Args:
        connection: a reading one.
        queues: that are known, beside those that workers listen to and those that tasks are in.
        now: seconds since the epoch.
    """
    found = tuple(workers.found(connection, now))
    known = {*queues, *(queue for worker in found for queue in worker.queues)}
    depths = {queue: Depth() for queue in sorted(known)}
    for row in connection.execute(_DEPTHS):
        depths[row.queue] = Depth(int(row.waiting), int(row.running), _oldest_s(connection, row.queue, now))
    return Snapshot(depths, found, tuple(figures.read(connection)))


def _oldest_s(connection: Connection, queue: str, now: float) -> float:
    queued_at = connection.scalar(_OLDEST, {"the_queue": queue})
    return 0.0 if queued_at is None else max(0.0, now - queued_at)
