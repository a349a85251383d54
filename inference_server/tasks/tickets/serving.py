"""Tickets as providers see them: claimed by one instance at a time, and written to by that one alone."""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, bindparam, func, insert, select, update

from inference_server.errors import BadRequest, Conflict, UnknownTask
from inference_server.tasks.caller import Caller
from inference_server.tasks.tickets import rows
from inference_server.tasks.tickets.providers import Providers
from inference_server.tasks.tickets.record import (
    Area,
    Attachment,
    Category,
    Offer,
    Ticket,
    TicketFile,
    TicketStatus,
)
from inference_server.tasks.tickets.tables import attachments, tickets
from inference_server.tasks.tickets.tickets import Tickets

MESSAGE_LIMIT = 4000
DESCRIPTION_LIMIT = 500
FINAL = (TicketStatus.SUCCESS, TicketStatus.FAILED)
_NEXT = (
    select(tickets.c.id)
    .where(rows.IS_READY, tickets.c.task_uid.is_(None), tickets.c.githash.in_(bindparam("hashes", expanding=True)))
    .order_by(tickets.c.id)
    .limit(1)
    .with_for_update(skip_locked=True)
    .scalar_subquery()
)
_CLAIM = (
    update(tickets)
    .where(tickets.c.id == _NEXT, rows.IS_READY)
    .values(
        status=TicketStatus.CLAIMED.value,
        provider=bindparam("the_provider"),
        instance=bindparam("the_instance"),
        claimant=bindparam("the_claimant"),
        claimed_at=bindparam("at"),
        seen_at=bindparam("at"),
    )
    .returning(tickets)
)
"""Whoever comes second finds the row taken: SQLite lets one writer in at a time, PostgreSQL passes over locked rows."""
_SEEN = update(tickets).where(tickets.c.id == bindparam("the_id")).values(seen_at=bindparam("at"))


class Serving:
    """What providers do. Every method raises `StoreUnavailable` if records or files cannot be reached.

    Args:
        tickets: all tickets.
        providers: who may serve what.
    """

    def __init__(self, tickets: Tickets, providers: Providers) -> None:
        self._tickets = tickets
        self._providers = providers

    def services(self, caller: Caller) -> tuple[Offer, ...]:
        """Return what the caller may serve, and for which provider."""
        return self._providers.offers_to(caller.name)

    def claim(self, services: Collection[str], provider: str, instance: str, caller: Caller) -> Ticket | None:
        """Take the oldest ready ticket of some services, or return None where there is none.

        Args:
            services: their hashes.
            provider: for whom.
            instance: which of its instances.
            caller: who claims.

        Raises:
            BadRequest: the caller may not serve one of them for the provider.
        """
        self._refuse_foreign(services, caller, provider)
        at = self._tickets.clock()
        who = {"the_provider": provider, "the_instance": instance[:100], "the_claimant": caller.name}
        with self._tickets.database.writing() as connection:
            self._providers.note_seen(connection, services, at)
            row = connection.execute(_CLAIM, {**who, "hashes": list(services), "at": at}).one_or_none()
            if row is None:
                return None
            said = f"Ticket claimed by provider {provider} instance {instance[:100]}"
            rows.add_log(connection, row.id, Category.INFO, said, at)
        return rows.to_ticket(row)

    def available(self, services: Collection[str], caller: Caller) -> list[tuple[str, str, int]]:
        """Return hash, name and number of ready tickets of those services that have some, the oldest ticket first.

        Raises:
            BadRequest: the caller may not serve one of them.
        """
        self._refuse_foreign(services, caller)
        count = func.count().label("waiting")
        query = (
            select(tickets.c.githash, tickets.c.service, count)
            .where(rows.IS_READY, tickets.c.task_uid.is_(None), tickets.c.githash.in_(list(services)))
            .group_by(tickets.c.githash, tickets.c.service)
            .order_by(func.min(tickets.c.id))
        )
        with self._tickets.database.writing() as connection:
            self._providers.note_seen(connection, services, self._tickets.clock())
            return [(row.githash, row.service, row.waiting) for row in connection.execute(query)]

    def status(self, ticket_id: int, caller: Caller) -> TicketStatus:
        """Return how a ticket is that the caller has claimed or may claim.

        Raises:
            UnknownTask: there is no such ticket.
        """
        with self._tickets.database.writing() as connection:
            ticket = rows.find(connection, ticket_id)
            if ticket.claimant == caller.name:
                connection.execute(_SEEN, {"the_id": ticket_id, "at": self._tickets.clock()})
                return ticket.status
        if not any(offer.service.githash == ticket.githash for offer in self.services(caller)):
            raise UnknownTask(rows.UNKNOWN)
        return ticket.status

    def files(self, ticket_id: int, area: Area, caller: Caller) -> tuple[TicketFile, ...]:
        """Return the files of an area of a ticket that the caller has claimed.

        Raises:
            UnknownTask, Conflict: he has not, or no longer.
        """
        with self._tickets.database.writing() as connection:
            self._held(connection, ticket_id, caller)
            return rows.files_of(connection, ticket_id, area)

    def fetch(self, ticket_id: int, area: Area, number: int, caller: Caller) -> TicketFile:
        """Return a file whose blob the caller is given; the audit log notes it.

        Raises:
            UnknownTask, Conflict: he has not claimed the ticket, or has no longer.
            BadRequest: there is no such file.
        """
        with self._tickets.database.writing() as connection:
            self._held(connection, ticket_id, caller)
            return self._tickets.given(connection, ticket_id, area, number, caller)

    def check_held(self, ticket_id: int, caller: Caller) -> None:
        """Note that the caller, who has claimed a ticket, was heard of.

        Raises:
            UnknownTask, Conflict: he has not claimed it, or has no longer.
        """
        with self._tickets.database.writing() as connection:
            self._held(connection, ticket_id, caller)

    def add_file(self, ticket_id: int, name: str, staged: Path, caller: Caller) -> TicketFile:
        """Add a result; one of the same name is replaced. The staged file is gone afterwards.

        Raises:
            UnknownTask, Conflict: the caller has not claimed the ticket, or has no longer.
            BadRequest: the name is not one of a file.
            TooLarge: it has as many files as it may.
        """
        check = partial(self._check_held, ticket_id=ticket_id, caller=caller)
        return self._tickets.store(ticket_id, Area.RESULTS, name, staged, check=check)

    def set_status(self, ticket_id: int, status: TicketStatus, caller: Caller) -> TicketStatus:
        """End a ticket, as success or failed. Saying the same again is answered the same.

        Raises:
            BadRequest: it is another status.
            UnknownTask, Conflict: the caller has not claimed the ticket, or has no longer.
        """
        if status not in FINAL:
            raise BadRequest(f"A provider sets the status to success or failed, not to {status}.", field="status")
        with self._tickets.database.writing() as connection:
            before = rows.find(connection, ticket_id)
            if before.claimant == caller.name and before.status is status:
                return status
            self._held(connection, ticket_id, caller)
            rows.move(connection, ticket_id, status, sources=[TicketStatus.CLAIMED], at=self._tickets.clock())
        return status

    def add_log(self, ticket_id: int, category: Category, message: str, caller: Caller) -> int:
        """Append a line to a ticket's log and return its id; attachments that wait belong to it.

        Raises:
            UnknownTask, Conflict: the caller has not claimed the ticket, or has no longer.
        """
        with self._tickets.database.writing() as connection:
            self._held(connection, ticket_id, caller)
            return rows.add_log(connection, ticket_id, category, message[:MESSAGE_LIMIT], self._tickets.clock())

    def attach(self, ticket_id: int, staged: Path, *, description: str, mime_type: str, caller: Caller) -> Attachment:
        """Add a file to the next line of a ticket's log. The staged file is gone afterwards.

        Raises:
            UnknownTask, Conflict: the caller has not claimed the ticket, or has no longer.
        """
        stored = self._tickets
        try:
            with stored.database.writing() as connection:
                self._held(connection, ticket_id, caller)
            size_bytes = staged.stat().st_size
            key = stored.blobs.put(staged)
        finally:
            stored.blobs.discard(staged)
        about = {"description": description[:DESCRIPTION_LIMIT], "mime_type": mime_type, "link": secrets.token_hex(16)}
        row = {**about, "ticket": ticket_id, "blob": key, "size_bytes": size_bytes}
        with stored.kept(key), stored.database.writing() as connection:
            self._held(connection, ticket_id, caller)
            return rows.to_attachment(connection.execute(insert(attachments).returning(attachments), row).one())

    def set_progress(self, ticket_id: int, *, start: float, end: float, progress: float, caller: Caller) -> None:
        """Say how far a part of the work is; 0 forgets all parts inside of it.

        Raises:
            BadRequest: a number is not from 0 to 1, or the part has no length.
            UnknownTask, Conflict: the caller has not claimed the ticket, or has no longer.
        """
        if not all(math.isfinite(number) and 0 <= number <= 1 for number in (start, end, progress)) or start >= end:
            raise BadRequest("Progress and the ends of its part are numbers from 0 to 1, the start before the end.")
        with self._tickets.database.writing() as connection:
            self._held(connection, ticket_id, caller)
            rows.set_progress(connection, ticket_id, start=start, end=end, progress=progress)

    def progress(self, ticket_id: int, caller: Caller) -> float:
        """Return how far a ticket is that the caller has claimed, from 0 to 1.

        Raises:
            UnknownTask, Conflict: he has not, or no longer.
        """
        with self._tickets.database.writing() as connection:
            return rows.progress_of(connection, self._held(connection, ticket_id, caller))

    def _check_held(self, connection: Connection, *, ticket_id: int, caller: Caller) -> None:
        _held_by(connection, ticket_id, caller)

    def _held(self, connection: Connection, ticket_id: int, caller: Caller) -> Ticket:
        """Return a ticket that the caller holds, and note that he was heard of."""
        ticket = _held_by(connection, ticket_id, caller)
        connection.execute(_SEEN, {"the_id": ticket_id, "at": self._tickets.clock()})
        return ticket

    def _refuse_foreign(self, services: Collection[str], caller: Caller, provider: str | None = None) -> None:
        mine = {
            offer.service.githash for offer in self.services(caller) if provider is None or offer.provider == provider
        }
        if not services or not set(services) <= mine:
            named = "a provider" if provider is None else f"the provider '{provider[:64]}'"
            raise BadRequest(
                f"You do not serve all of these services for {named}. The operator of the server says who does.",
                field="services",
            )


def _held_by(connection: Connection, ticket_id: int, caller: Caller) -> Ticket:
    ticket = rows.find(connection, ticket_id)
    if ticket.claimant != caller.name:
        raise UnknownTask(rows.UNKNOWN)
    if ticket.status is not TicketStatus.CLAIMED:
        raise Conflict(f"The ticket is {ticket.status}; nothing can be added to it any more.")
    return ticket
