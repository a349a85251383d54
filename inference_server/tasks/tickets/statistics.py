"""How services fare, from the bare records of their tickets."""

from __future__ import annotations

from sqlalchemy import bindparam, case, func, select

from inference_server.tasks.database import Database
from inference_server.tasks.tickets import rows
from inference_server.tasks.tickets.record import Statistics, TicketStatus
from inference_server.tasks.tickets.tables import services, tickets

DAY_S = 86_400.0

_OF_SERVICE = tickets.c.githash == bindparam("the_service")
_SUCCEEDED = tickets.c.outcome == TicketStatus.SUCCESS.value
_ENDED = select(
    func.coalesce(func.sum(case((_SUCCEEDED, 1), else_=0)), 0).label("succeeded"),
    func.count().label("ended"),
    func.avg(case((_SUCCEEDED, tickets.c.ended_at - tickets.c.claimed_at))).label("duration_s"),
).where(_OF_SERVICE, tickets.c.outcome.is_not(None), tickets.c.ended_at > bindparam("since"))
_WAITING = select(func.count()).where(rows.IS_READY, _OF_SERVICE)
_SEEN = select(services.c.seen_at).where(services.c.githash == bindparam("the_service"))


def statistics(database: Database, githash: str, *, now: float) -> Statistics:
    """Return how a service fared during the day before `now` (seconds since the epoch); deleted tickets count too.

    Raises:
        StoreUnavailable: the database cannot be reached.
    """
    values = {"the_service": githash, "since": now - DAY_S}
    with database.reading() as connection:
        ended = connection.execute(_ENDED, values).one()
        seen_at = connection.scalar(_SEEN, values)
        waiting = connection.scalar(_WAITING, values) or 0
    duration_s = None if ended.duration_s is None else float(ended.duration_s)
    unheard_s = None if seen_at is None else round(now - seen_at, 1)
    return Statistics(int(ended.succeeded), int(ended.ended - ended.succeeded), duration_s, unheard_s, waiting)
