"""The bounds of the queue: how many tasks may wait, in all and per model, and how many a token may have at a time.

What is compared is read from the few rows of `loads`, so that a submission costs the same however many tasks wait.
Submissions that arrive at the same moment on PostgreSQL may pass a bound by as many as they are.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, bindparam, case, func, select

from inference_server.errors import InferenceServerError, OverQuota, QueueFull
from inference_server.settings import Settings
from inference_server.tasks.record import ANONYMOUS, Status
from inference_server.tasks.schema import loads, tasks
from inference_server.tasks.statements import has_status

RECENT_TASKS = 20
"""How many finished tasks of a model its pace is estimated from."""


def _sum_where(condition: ColumnElement[bool], count: ColumnElement[int]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, count), else_=0)), 0)


_OF_MODEL = loads.c.model == bindparam("the_model")
_OF_TOKEN = loads.c.token == bindparam("the_token")
_LOAD = select(
    func.coalesce(func.sum(loads.c.waiting), 0).label("waiting"),
    func.coalesce(func.sum(loads.c.running), 0).label("running"),
    _sum_where(_OF_MODEL, loads.c.waiting).label("of_model"),
    _sum_where(_OF_TOKEN, loads.c.waiting + loads.c.running).label("of_token"),
    _sum_where(_OF_TOKEN, loads.c.running).label("token_running"),
)
_DURATIONS = (
    select(tasks.c.ended_at - tasks.c.started_at)
    .where(has_status(Status.FINISHED), tasks.c.model == bindparam("the_model"))
    .order_by(tasks.c.ended_at.desc())
    .limit(RECENT_TASKS)
)


@dataclass(frozen=True)
class Bounds:
    """Most tasks that may wait in all, that may wait for one model, and that one token may have waiting or running."""

    queue_limit: int
    model_queue_limit: int
    token_task_limit: int
    anonymous_task_limit: int = sys.maxsize

    def of_token(self, token: str) -> int:
        """Return how many tasks a token may have; those who come without one share one small number."""
        return self.anonymous_task_limit if token == ANONYMOUS else self.token_task_limit


NO_BOUNDS = Bounds(sys.maxsize, sys.maxsize, sys.maxsize)


def bounds_of(settings: Settings) -> Bounds:
    """Return the bounds that the settings name."""
    return Bounds(
        settings.queue_limit, settings.model_queue_limit, settings.token_task_limit, settings.anonymous_task_limit
    )


def refuse_if_full(connection: Connection, bounds: Bounds, *, model: str, token: str) -> None:
    """Check that one more task of a model and a token may wait.

    Raises:
        QueueFull: as many tasks wait, in all or for the model, as may.
        OverQuota: the token has as many tasks as it may.
    """
    load = connection.execute(_LOAD, {"the_model": model, "the_token": token}).one()
    if load.waiting >= bounds.queue_limit:
        raise _refusal(QueueFull(), connection, model, load.running)
    if load.of_model >= bounds.model_queue_limit:
        full = QueueFull(f"As many tasks wait for the model '{model}' as the server takes; try again later.")
        raise _refusal(full, connection, model, load.running)
    if load.of_token >= bounds.of_token(token):
        raise _refusal(OverQuota(), connection, model, load.token_running)


def median_duration_s(connection: Connection, model: str) -> float | None:
    """Return how long the last tasks of a model ran, or None if none has finished lately."""
    durations = connection.scalars(_DURATIONS, {"the_model": model}).all()
    return statistics.median(durations) if durations else None


def _refusal(error: InferenceServerError, connection: Connection, model: str, running: int) -> InferenceServerError:
    """Say when the next place is free: so many tasks run, each for about as long as the model's last ones did."""
    duration_s = median_duration_s(connection, model)
    error.retry_after_s = None if duration_s is None else duration_s / max(running, 1)
    return error
