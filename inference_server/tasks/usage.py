"""Recent device time of a token, halved every ten minutes, as a score that needs no upkeep.

The amount that is left at time t of what a token used is ``2 ** (score - t / HALF_LIFE_S)`` seconds. As t is the same
for all tokens, whoever has the lower score has used less, at any moment, and no row is touched for time to pass.

A start costs `TASK_S` at least, and does so from the claim on: the running tasks of a token are added to its amount
when it is compared with others. Hence no model is so quick, and no number of workers so large, that one token's tasks
all start before another token's first.

Beside its score a token has a *standing*, a score too, by which its tasks are ordered. It rises with use like the
score, and is set anew when the token begins to wait beside others (`joined`).
"""

from __future__ import annotations

import math
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from inference_server.tasks.record import Priority
from inference_server.tasks.schema import loads, usage

HALF_LIFE_S = 600.0
TASK_S = 0.1
UNUSED = 0.0
"""Score of a token that never used anything: the amount is then zero to any precision."""

_TOKEN = usage.c.token == bindparam("the_token")
_USAGE = select(usage.c.score, usage.c.standing).where(_TOKEN).with_for_update()
_SET = update(usage).where(_TOKEN).values(score=bindparam("new_score"), standing=bindparam("new_standing"))
_INSERT: dict[str, Any] = {
    "sqlite": sqlite.insert(usage).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(usage).on_conflict_do_nothing(),
}
_WAITS = (
    select(func.sum(loads.c.waiting))
    .where(loads.c.token == bindparam("the_token"), loads.c.queue == bindparam("the_queue"))
    .where(loads.c.priority == bindparam("the_priority"))
)
_OTHERS = (
    select(loads.c.token)
    .where(loads.c.token != bindparam("the_token"))
    .group_by(loads.c.token)
    .having(func.sum(loads.c.waiting) > 0)
    .subquery()
)
_LOWEST = select(func.min(usage.c.standing)).select_from(_OTHERS.join(usage, usage.c.token == _OTHERS.c.token))


def amount_s(score: float, now: float) -> float:
    """Return the device seconds that a score stands for at time `now`."""
    return float(2.0 ** (score - now / HALF_LIFE_S))


def raised(score: float, device_s: float, now: float) -> float:
    """Return the score after `device_s` more seconds at time `now`."""
    if device_s <= 0:
        return score
    return math.log2(amount_s(score, now) + device_s) + now / HALF_LIFE_S


def joined(score: float, lowest: float, now: float) -> float:
    """Return the standing of a token that begins to wait beside others, of which the lowest stands at `lowest`.

    What it did not use while it was away gives it no series of tasks: it stands no lower than the others, and if equal
    goes first by its score. What it used too much is forgiven down to half a task above the lowest, so that each of the
    others starts one more task, at most, before it.
    """
    return min(max(score, lowest), raised(lowest, TASK_S / 2, now))


def join(connection: Connection, token: str, queue: str, priority: Priority, now: float) -> None:
    """Let a token take part in the sharing, before a task of it is added to a queue."""
    connection.execute(_INSERT[connection.dialect.name], {"token": token, "score": UNUSED, "standing": UNUSED})
    values = {"the_token": token, "the_queue": queue, "the_priority": int(priority)}
    if connection.scalar(_WAITS, values):
        return
    used, lowest = connection.execute(_USAGE, values).one(), connection.scalar(_LOWEST, values)
    standing = used.score if lowest is None else joined(used.score, lowest, now)
    connection.execute(_SET, {"the_token": token, "new_score": used.score, "new_standing": standing})


def charge(connection: Connection, token: str, device_s: float, now: float) -> None:
    """Add the device time of a task that ran to its token, in the transaction of `connection`."""
    used = connection.execute(_USAGE, {"the_token": token}).one_or_none()
    if used is not None:
        score, standing = (raised(before, max(device_s, TASK_S), now) for before in used)
        connection.execute(_SET, {"the_token": token, "new_score": score, "new_standing": standing})
