"""Whose turn it is: which of the waiting tasks goes first, as SQL.

The order is priority, then the token that used least device time lately (by its standing, then by its score), then
age. For every priority and token with waiting tasks the oldest one is a look into the index `tasks_to_claim`; what is
sorted are only these few, so that the number of waiting tasks does not matter.

Bound names: `queues` (a list), `at` (seconds since the epoch).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, bindparam, case, func, select, true
from sqlalchemy.sql.selectable import FromClause, ScalarSelect

from inference_server.tasks.record import Status
from inference_server.tasks.schema import loads, tasks, usage
from inference_server.tasks.statements import AT, has_status
from inference_server.tasks.usage import HALF_LIFE_S, TASK_S, UNUSED

CLAIMERS = 16
"""So many may claim tasks of one token at the same moment without one of them leaving empty-handed (PostgreSQL)."""

_EXPONENT_LIMIT = 1000.0
"""PostgreSQL takes a power that underflows for an error."""


def next_in_turn(dialect: str) -> ScalarSelect[int]:
    """Return the query for the `seq` of the task whose turn it is.

    Args:
        dialect: `sqlite`, where writers take turns; or `postgresql`, where the row is locked and those that others
            have locked are passed over, so that nobody waits and no task is taken twice.
    """
    return _locking() if dialect == "postgresql" else _plain()


def _plain() -> ScalarSelect[int]:
    shares, busy = _shares(), _busy()
    waiting = tasks.alias("waiting")
    oldest = select(func.min(waiting.c.seq)).where(*_of_share(waiting, shares)).correlate(shares).scalar_subquery()
    heads = select(shares.c.priority, _used(busy).label("used"), _score().label("score"), oldest.label("seq"))
    found = heads.select_from(_with_usage(shares, busy)).subquery("heads")
    order = (found.c.priority, found.c.used, found.c.score, found.c.seq)
    return select(found.c.seq).where(found.c.seq.is_not(None)).order_by(*order).limit(1).scalar_subquery()


def _locking() -> ScalarSelect[int]:
    shares, busy = _shares(), _busy()
    waiting, taken = tasks.alias("waiting"), tasks.alias("taken")
    oldest = select(waiting.c.seq).where(*_of_share(waiting, shares)).order_by(waiting.c.seq).limit(CLAIMERS)
    heads = oldest.correlate(shares).lateral("heads")
    places = _with_usage(shares, busy).join(heads, true()).join(taken, taken.c.seq == heads.c.seq)
    picked = (
        select(taken.c.seq)
        .select_from(places)
        .where(has_status(Status.QUEUED, table=taken))
        .order_by(shares.c.priority, _used(busy), _score(), taken.c.seq)
        .limit(1)
        .with_for_update(of=taken, skip_locked=True)
        .cte("picked")
    )
    return select(picked.c.seq).scalar_subquery()


def _shares() -> FromClause:
    share = (loads.c.queue, loads.c.token, loads.c.priority)
    listened = loads.c.queue.in_(bindparam("queues", expanding=True))
    return select(*share).where(listened).group_by(*share).having(func.sum(loads.c.waiting) > 0).subquery("shares")


def _busy() -> FromClause:
    running = func.sum(loads.c.running).label("running")
    return select(loads.c.token, running).group_by(loads.c.token).subquery("busy")


def _of_share(waiting: FromClause, shares: FromClause) -> tuple[ColumnElement[bool], ...]:
    same = (waiting.c[name] == shares.c[name] for name in ("queue", "token", "priority"))
    return (has_status(Status.QUEUED, table=waiting), *same)


def _with_usage(shares: FromClause, busy: FromClause) -> Any:
    return shares.join(busy, busy.c.token == shares.c.token).outerjoin(usage, usage.c.token == shares.c.token)


def _used(busy: FromClause) -> ColumnElement[float]:
    """Seconds that a token stands at, with those of its running tasks."""
    exponent = func.coalesce(usage.c.standing, UNUSED) - AT / HALF_LIFE_S
    bounded = case((exponent < -_EXPONENT_LIMIT, -_EXPONENT_LIMIT), else_=exponent)
    used: ColumnElement[float] = func.power(2.0, bounded) + busy.c.running * TASK_S
    return used


def _score() -> ColumnElement[float]:
    return func.coalesce(usage.c.score, UNUSED)
