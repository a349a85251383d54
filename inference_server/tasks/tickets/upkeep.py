"""What housekeeping does with tickets: times them out, removes old ones, and says whose blobs are whose."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, func, select

from inference_server.settings import Settings
from inference_server.tasks.caller import SERVER
from inference_server.tasks.tickets import rows
from inference_server.tasks.tickets.record import Category, TicketStatus
from inference_server.tasks.tickets.sessions import Sessions
from inference_server.tasks.tickets.tables import attachments, files, tickets
from inference_server.tasks.tickets.tickets import Tickets

logger = logging.getLogger(__name__)

BATCH = 100
SILENT = "The provider of this ticket fell silent. Please try it again."
UNCLAIMED = "No provider took this ticket in time. Please try it again later."
_EXTERNAL = tickets.c.task_uid.is_(None)


class TicketUpkeep:
    """Sweeps over tickets. Every method raises `StoreUnavailable` if records or files cannot be reached.

    Args:
        stored: the tickets.
        settings: ages.
    """

    def __init__(self, stored: Tickets, settings: Settings) -> None:
        self._tickets = stored
        self._settings = settings
        self._sessions = Sessions(stored.database, lifetime_s=settings.dss_session_s, clock=stored.clock)

    def sweep(self) -> None:
        """Do everything once."""
        now = self._tickets.clock()
        self.expire_silent(now)
        self.expire_unclaimed(now)
        self.remove_old(now)
        self._sessions.forget_old()

    def expire_silent(self, now: float) -> list[int]:
        """Time out claimed tickets whose providers were not heard of lately; return their ids."""
        before = now - self._settings.dss_provider_silence_s
        return self._time_out(TicketStatus.CLAIMED, tickets.c.seen_at < before, SILENT, now)

    def expire_unclaimed(self, now: float) -> list[int]:
        """Time out ready tickets that nobody claimed for as long as tasks may wait; return their ids."""
        before = now - self._settings.queue_time_limit_s
        return self._time_out(TicketStatus.READY, tickets.c.ready_at < before, UNCLAIMED, now)

    def remove_old(self, now: float) -> None:
        """Delete tickets whose time is over, as their owners could; the audit log notes it."""
        kept_s = {
            TicketStatus.INIT: self._settings.retention_s,
            TicketStatus.SUCCESS: self._settings.retention_s,
            TicketStatus.FAILED: self._settings.failed_retention_s,
            TicketStatus.TIMEOUT: self._settings.failed_retention_s,
        }
        since = func.coalesce(tickets.c.ended_at, tickets.c.created_at)
        for status, age_s in kept_s.items():
            for ticket_id in self._found(tickets.c.status == status.value, since < now - age_s):
                self._tickets.delete(ticket_id, SERVER)
                logger.info("ticket removed", extra={"ticket": ticket_id})

    def known_blobs(self, keys: Collection[str]) -> set[str]:
        """Return those of some keys of blobs that a ticket refers to."""
        some = list(keys)
        known: set[str] = set()
        with self._tickets.database.reading() as connection:
            for start in range(0, len(some), BATCH):
                for column in (files.c.blob, attachments.c.blob):
                    known.update(connection.scalars(select(column).where(column.in_(some[start : start + BATCH]))))
        return known

    def _time_out(self, status: TicketStatus, late: ColumnElement[bool], said: str, now: float) -> list[int]:
        done = []
        for ticket_id in self._found(_EXTERNAL, tickets.c.status == status.value, late):
            with self._tickets.database.writing() as connection:
                # Looked at again: its provider may have said something since.
                is_late = connection.scalar(select(tickets.c.id).where(tickets.c.id == ticket_id, late))
                if is_late and rows.move(connection, ticket_id, TicketStatus.TIMEOUT, sources=[status], at=now):
                    rows.add_log(connection, ticket_id, Category.ERROR, said, now)
                    done.append(ticket_id)
        for ticket_id in done:
            logger.warning("ticket timed out", extra={"ticket": ticket_id})
        return done

    def _found(self, *conditions: ColumnElement[bool]) -> Sequence[int]:
        query = select(tickets.c.id).where(*conditions).order_by(tickets.c.id).limit(BATCH)
        with self._tickets.database.reading() as connection:
            return connection.scalars(query).all()
