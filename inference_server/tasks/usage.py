"""Recent device time of a token, halved every ten minutes, as a score that needs no upkeep.

The amount that is left at time t of what a token used is ``2 ** (score - t / HALF_LIFE_S)`` seconds. As t is the same
for all tokens, whoever has the lower score has used less, at any moment, and no row is touched for time to pass.
"""

from __future__ import annotations

import math
from typing import Any

from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from inference_server.tasks.schema import usage

HALF_LIFE_S = 600.0
UNUSED = 0.0
"""Score of a token that never used anything: the amount is then zero to any precision."""

_SCORE = select(usage.c.score).where(usage.c.token == bindparam("the_token")).with_for_update()
_SET_SCORE = update(usage).where(usage.c.token == bindparam("the_token")).values(score=bindparam("new_score"))
_INSERT: dict[str, Any] = {
    "sqlite": sqlite.insert(usage).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(usage).on_conflict_do_nothing(),
}


def amount_s(score: float, now: float) -> float:
    """Return the device seconds that a score stands for at time `now`."""
    return float(2.0 ** (score - now / HALF_LIFE_S))


def raised(score: float, device_s: float, now: float) -> float:
    """Return the score after `device_s` more seconds at time `now`."""
    if device_s <= 0:
        return score
    return math.log2(amount_s(score, now) + device_s) + now / HALF_LIFE_S


def know(connection: Connection, token: str) -> None:
    """Make sure that a token takes part in the sharing."""
    connection.execute(_INSERT[connection.dialect.name], {"token": token, "score": UNUSED})


def charge(connection: Connection, token: str, device_s: float, now: float) -> None:
    """Add device time to a token, in the transaction of `connection`."""
    score = connection.scalar(_SCORE, {"the_token": token})
    if score is not None and device_s > 0:
        connection.execute(_SET_SCORE, {"the_token": token, "new_score": raised(score, device_s, now)})
