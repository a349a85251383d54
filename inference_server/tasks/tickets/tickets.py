"""Tickets as those who make them see them. Every verb takes the caller; someone else's ticket is an unknown one."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, select

from inference_server.errors import BadRequest, Conflict, Forbidden, OverQuota, UnknownTask
from inference_server.settings import Settings
from inference_server.tasks.audit import Action
from inference_server.tasks.blobs import Blobs
from inference_server.tasks.caller import Caller
from inference_server.tasks.database import Database
from inference_server.tasks.tickets import rows
from inference_server.tasks.tickets.files import FILE_LIMIT, TicketFiles, missing, note
from inference_server.tasks.tickets.record import (
    OPEN,
    Area,
    Attachment,
    Category,
    Detail,
    LogEntry,
    Service,
    Ticket,
    TicketFile,
    TicketStatus,
)
from inference_server.tasks.tickets.tables import attachments, log, tickets

TICKET_LIMIT = 100
QUEUED = "Ticket received and queued for processing"
RETRIED = "Retrying ticket"
RETRYABLE = (TicketStatus.FAILED, TicketStatus.TIMEOUT)
NOT_DELETED = tuple(status for status in TicketStatus if status is not TicketStatus.DELETED)

_LINK = re.compile(r"[0-9a-f]{32}")
_OPEN_OF = select(func.count()).where(tickets.c.status.in_([status.value for status in OPEN]))


class Tickets(TicketFiles):
    """The life of tickets. Every method raises `StoreUnavailable` if records or files cannot be reached.

    Args:
        database: migrated.
        blobs: where files lie.
        limit: most open tickets of one user.
        file_limit: most files in one area of a ticket.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        *,
        limit: int = TICKET_LIMIT,
        file_limit: int = FILE_LIMIT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(database, blobs, file_limit=file_limit, clock=clock)
        self._limit = limit

    def create(self, service: Service, caller: Caller) -> Ticket:
        """Make a ticket that waits for its files.

        Raises:
            OverQuota: the caller has as many open tickets as one may.
        """
        new = {"token": caller.name, "githash": service.githash, "service": service.name, "version": service.version}
        fixed = {"status": TicketStatus.INIT.value, "created_at": self.clock(), "event_seq": 0}
        with self.database.writing() as connection:
            self._refuse_too_many(connection, caller)
            row = connection.execute(insert(tickets).returning(tickets), {**new, **fixed}).one()
        return rows.to_ticket(row)

    def get(self, ticket_id: int, caller: Caller) -> Ticket:
        """Return a ticket.

        Raises:
            UnknownTask: there is none of this id that the caller may see.
        """
        with self.database.reading() as connection:
            return _seen(connection, ticket_id, caller)

    def list_of(self, caller: Caller) -> tuple[Ticket, ...]:
        """Return the caller's own tickets, the oldest first."""
        return self._listed(tickets.c.token == caller.name)

    def list_all(self) -> tuple[Ticket, ...]:
        """Return the tickets of everybody, the oldest first; for operators."""
        return self._listed()

    def add_file(self, ticket_id: int, name: str, staged: Path, caller: Caller) -> TicketFile:
        """Add an input; a file of the same name is replaced. The staged file is gone afterwards.

        Raises:
            UnknownTask: there is no such ticket that the caller may see.
            Forbidden: the caller may see it, but not steer it.
            BadRequest: the name is not one of a file, or the ticket takes no more files.
            TooLarge: it has as many files as it may.
        """

        def check(connection: Connection) -> None:
            ticket = _steered(connection, ticket_id, caller)
            if ticket.status is not TicketStatus.INIT:
                raise BadRequest(f"The ticket is {ticket.status}; files are taken only before it is made ready.")

        return self.store(ticket_id, Area.INPUT, name, staged, check=check)

    def files(self, ticket_id: int, area: Area, caller: Caller) -> tuple[TicketFile, ...]:
        """Return the files of an area.

        Raises:
            UnknownTask: there is no such ticket that the caller may see.
        """
        with self.database.reading() as connection:
            _seen(connection, ticket_id, caller)
            return rows.files_of(connection, ticket_id, area)

    def fetch(self, ticket_id: int, area: Area, number: int, caller: Caller) -> TicketFile:
        """Return a file whose blob the caller is given; the audit log notes it.

        Raises:
            UnknownTask: there is no such ticket that the caller may see.
            Forbidden: the caller may follow it, but not fetch its files.
            BadRequest: there is no such file.
        """
        with self.database.writing() as connection:
            if not caller.may_fetch(_seen(connection, ticket_id, caller)):
                raise Forbidden("This access token does not allow fetching files of others: 'read-all' does.")
            return self.given(connection, ticket_id, area, number, caller)

    def set_ready(self, ticket_id: int, caller: Caller, **values: Any) -> Ticket:
        """Say that all files of a ticket are there.

        Args:
            ticket_id: its id.
            caller: who says so.
            **values: further columns, set in the same transaction.

        Raises:
            UnknownTask: there is no such ticket that the caller may see.
            Forbidden: the caller may see it, but not steer it.
            BadRequest: it is not a fresh one, or has no files.
        """
        at = self.clock()
        with self.database.writing() as connection:
            before = _steered(connection, ticket_id, caller)
            if not rows.files_of(connection, ticket_id, Area.INPUT):
                raise BadRequest("The ticket has no files. Send them first.")
            if not rows.move(connection, ticket_id, TicketStatus.READY, sources=[TicketStatus.INIT], at=at, **values):
                raise BadRequest(f"The ticket is {before.status}; only a fresh one can be made ready.")
            rows.add_log(connection, ticket_id, Category.INFO, QUEUED, at)
            note(connection, caller, Action.SUBMITTED, ticket_id, at=at)
            return rows.find(connection, ticket_id)

    def detail(self, ticket_id: int, caller: Caller, since: int = 0) -> Detail:
        """Return all that a waiting client asks for; of the log the lines with an id above `since`.

        Raises:
            UnknownTask: there is no such ticket that the caller may see.
        """
        with self.database.reading() as connection:
            ticket = _seen(connection, ticket_id, caller)
            is_ready = ticket.status is TicketStatus.READY
            position = rows.queue_position(connection, ticket) if is_ready else None
            lines = rows.log_of(connection, ticket_id, since)
            return Detail(ticket, rows.progress_of(connection, ticket), position, lines)

    def log(self, ticket_id: int, caller: Caller, since: int = 0) -> tuple[LogEntry, ...]:
        """Return the lines of a ticket's log with an id above `since`, the oldest first.

        Raises:
            UnknownTask: there is no such ticket that the caller may see.
        """
        return self.detail(ticket_id, caller, since).log

    def attachments(self, log_id: int, caller: Caller) -> tuple[Attachment, ...]:
        """Return what belongs to a line of a log.

        Raises:
            UnknownTask: it is of no ticket that the caller may see.
        """
        query = select(attachments).where(attachments.c.log_id == log_id).order_by(attachments.c.id)
        with self.database.reading() as connection:
            ticket_id = connection.scalar(select(log.c.ticket).where(log.c.id == log_id))
            _seen(connection, -1 if ticket_id is None else ticket_id, caller)
            return tuple(map(rows.to_attachment, connection.execute(query)))

    def attachment_at(self, link: str) -> Attachment:
        """Return the attachment of a public address.

        Raises:
            ResultGone: there is none.
        """
        row = None
        if _LINK.fullmatch(link):
            with self.database.reading() as connection:
                row = connection.execute(select(attachments).where(attachments.c.link == link)).one_or_none()
        if row is None:
            raise missing("attachment")
        return rows.to_attachment(row)

    def retry(self, ticket_id: int, caller: Caller, **values: Any) -> Ticket:
        """Make a failed or timed-out ticket ready again; its results go.

        Args:
            ticket_id: its id.
            caller: who asks for it.
            **values: further columns, set in the same transaction.

        Raises:
            UnknownTask: there is no such ticket that the caller may see.
            Forbidden: the caller may see it, but not steer it.
            Conflict: it did not fail.
        """
        at = self.clock()
        with self.database.writing() as connection:
            before = _steered(connection, ticket_id, caller)
            if not rows.move(connection, ticket_id, TicketStatus.READY, sources=RETRYABLE, at=at, **values):
                raise Conflict(f"The ticket is {before.status}; only a failed or timed-out one can be tried again.")
            blobs = rows.clear(connection, ticket_id, Area.RESULTS)
            rows.set_progress(connection, ticket_id, start=0.0, end=1.0, progress=0.0)
            rows.add_log(connection, ticket_id, Category.INFO, RETRIED, at)
            note(connection, caller, Action.RETRIED, ticket_id, at=at)
            ticket = rows.find(connection, ticket_id)
        self.remove(blobs)
        return ticket

    def delete(self, ticket_id: int, caller: Caller) -> Ticket:
        """Remove all that a ticket has, in whatever state; return it as it was. The bare record is kept.

        Raises:
            UnknownTask: there is no such ticket that the caller may see.
            Forbidden: the caller may see it, but not steer it.
        """
        at = self.clock()
        with self.database.writing() as connection:
            before = _steered(connection, ticket_id, caller)
            blobs = rows.clear(connection, ticket_id)
            if rows.move(connection, ticket_id, TicketStatus.DELETED, sources=NOT_DELETED, at=at):
                note(connection, caller, Action.DELETED, ticket_id, at=at)
        self.remove(blobs)
        return before

    def _listed(self, *conditions: ColumnElement[bool]) -> tuple[Ticket, ...]:
        there = tickets.c.status != TicketStatus.DELETED.value
        with self.database.reading() as connection:
            found = connection.execute(select(tickets).where(there, *conditions).order_by(tickets.c.id))
            return tuple(map(rows.to_ticket, found))

    def _refuse_too_many(self, connection: Connection, caller: Caller) -> None:
        if (connection.scalar(_OPEN_OF.where(tickets.c.token == caller.name)) or 0) >= self._limit:
            raise OverQuota(f"You have {self._limit} open tickets, as many as one may. Delete some, or wait for them.")


def open_tickets(settings: Settings, database: Database, blobs: Blobs) -> Tickets:
    """Return the tickets in some records and blobs, with the limits that the settings name."""
    return Tickets(database, blobs, limit=settings.dss_ticket_limit, file_limit=settings.member_limit)


def _seen(connection: Connection, ticket_id: int, caller: Caller) -> Ticket:
    ticket = rows.find(connection, ticket_id)
    if not caller.may_see(ticket):
        raise UnknownTask(rows.UNKNOWN)
    return ticket


def _steered(connection: Connection, ticket_id: int, caller: Caller) -> Ticket:
    ticket = _seen(connection, ticket_id, caller)
    if not caller.may_steer(ticket):
        raise Forbidden(
            "This access token does not allow changing this ticket: 'submit' does for one's own, 'operate' for all."
        )
    return ticket
