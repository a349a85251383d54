"""Figures: sums over all that ever happened, kept in the records, so that every process gives the same answer.

What happens to tasks is counted by the database (`outcomes.py`); the rest is added here, in the transaction of what it
tells where there is one. Nothing in them names a task, a token or a patient, and reading them costs the same however
many tasks there were.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from sqlalchemy import Connection, TextClause, func, select, text

from inference_server.tasks.outcomes import ADD, SLOT
from inference_server.tasks.record import Phase
from inference_server.tasks.schema import figures

BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Upper limits of the durations that are counted together; one more takes what is longer."""
PHASES = frozenset({"queued", "device_wait", *Phase})

_COLUMNS = (figures.c.figure, figures.c.model, figures.c.detail, figures.c.bucket)
_ALL = select(*_COLUMNS, func.sum(figures.c.counted), func.sum(figures.c.total)).group_by(*_COLUMNS).order_by(*_COLUMNS)


class Kind(StrEnum):
    """What is counted, and what `detail` says of it."""

    SUBMITTED = "submitted"
    """Tasks accepted, by door; `total` is the bytes of their cases."""
    ENDED = "ended"
    """Tasks that ended, by status."""
    FAILED = "failed"
    """Tasks that failed, by error code."""
    PHASE = "phase"
    """Durations of finished tasks, by phase and bucket; `total` is their seconds."""
    WARM = "warm"
    """How often a worker wanted a model: `hit`, it was loaded already, or `load`."""
    REFUSED = "refused"
    """Requests that were refused, by `door/code`."""
    SIGN_IN = "sign-in"
    """Tokens that were not valid, by door."""


@dataclass(frozen=True, order=True)
class Figure:
    """A sum, or what is added to it."""

    figure: str
    model: str = ""
    detail: str = ""
    bucket: int = 0
    counted: int = 1
    total: float = 0.0


def add(connection: Connection, more: Collection[Figure]) -> None:
    """Add to the figures, in the transaction of `connection`; the last that it does, so that nobody waits long.

    Rows are touched in one order, since two transactions that wait for each other would both be lost.
    """
    if more:
        connection.execute(_addition(connection.dialect.name), [vars(figure) for figure in sorted(more)])


def read(connection: Connection) -> list[Figure]:
    """Return every figure."""
    rows = connection.execute(_ALL)
    return [Figure(*row[:4], counted=int(row[4]), total=float(row[5])) for row in rows]


def durations(model: str, timings_s: Mapping[str, float]) -> list[Figure]:
    """Return what the phases of a finished task add.

    Args:
        model: its id.
        timings_s: seconds by phase; what is no phase is left out.
    """
    return list(_durations(model, timings_s.items()))


def _durations(model: str, timings_s: Iterable[tuple[str, float]]) -> Iterator[Figure]:
    for phase, seconds in timings_s:
        if phase in PHASES:
            yield Figure(Kind.PHASE, model, phase, bisect_left(BUCKETS_S, seconds), 1, seconds)


@lru_cache(maxsize=2)
def _addition(dialect: str) -> TextClause:
    return text(ADD.format(values=f"VALUES (:figure, :model, :detail, :bucket, {SLOT[dialect]}, :counted, :total)"))
