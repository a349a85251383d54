"""What is done with the rows of tickets inside a transaction, by whoever opened it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, literal_column, select, update

from inference_server.errors import UnknownTask
from inference_server.tasks.tickets.record import (
    Area,
    Attachment,
    Category,
    LogEntry,
    Ticket,
    TicketFile,
    TicketStatus,
)
from inference_server.tasks.tickets.tables import attachments, chunks, files, log, tickets

UNKNOWN = "There is no such ticket of yours on this server."
ID_LIMIT = 2**62
"""No id is above it; databases know no larger ones."""
IS_READY = tickets.c.status == literal_column("'ready'")
"""A literal, since the partial index serves a query only if its condition is found in it word by word."""

_THE_TICKET = bindparam("the_ticket", type_=tickets.c.id.type)
_FIND = select(tickets).where(tickets.c.id == _THE_TICKET)
_FILES = (
    select(files.c.number, files.c.name, files.c.blob, files.c.size_bytes)
    .where(files.c.ticket == _THE_TICKET, files.c.area == bindparam("the_area"))
    .order_by(files.c.number)
)
_LOG = select(log).where(log.c.ticket == _THE_TICKET, log.c.id > bindparam("since")).order_by(log.c.id)
_ATTACHED = (
    select(attachments)
    .where(attachments.c.ticket == _THE_TICKET, attachments.c.log_id > bindparam("since"))
    .order_by(attachments.c.id)
)
_FILE_WAITING = (
    update(attachments)
    .where(attachments.c.ticket == _THE_TICKET, attachments.c.log_id.is_(None))
    .values(log_id=bindparam("the_line"))
)
_PROGRESS = select(func.sum((chunks.c.end - chunks.c.start) * chunks.c.progress)).where(chunks.c.ticket == _THE_TICKET)
_POSITION = select(func.count()).where(
    IS_READY, tickets.c.githash == bindparam("the_service"), tickets.c.id <= _THE_TICKET
)

_NOBODY: Mapping[str, Any] = dict.fromkeys(("provider", "instance", "claimant", "claimed_at", "seen_at"))


def find(connection: Connection, ticket_id: int) -> Ticket:
    """Return a ticket.

    Raises:
        UnknownTask: there is none of this id.
    """
    row = connection.execute(_FIND, {"the_ticket": ticket_id}).one_or_none() if ticket_id <= ID_LIMIT else None
    if row is None:
        raise UnknownTask(UNKNOWN)
    return to_ticket(row)


def to_ticket(row: Row[Any]) -> Ticket:
    """Return the ticket in a row of all its columns."""
    found = dict(row._mapping)
    outcome = TicketStatus(found["outcome"]) if found["outcome"] else None
    return Ticket(**{**found, "status": TicketStatus(found["status"]), "outcome": outcome})


def move(
    connection: Connection,
    ticket_id: int,
    status: TicketStatus,
    *,
    sources: Collection[TicketStatus],
    at: float,
    **values: Any,
) -> bool:
    """Give a ticket another status, if it has one of `sources`; return whether it had.

    Args:
        connection: of a writing transaction.
        ticket_id: its id.
        status: the one it gets.
        sources: those from which it may.
        at: now.
        **values: further columns.
    """
    statement = update(tickets).where(
        tickets.c.id == ticket_id, tickets.c.status.in_([source.value for source in sources])
    )
    return bool(connection.execute(statement.values(**{**_on_entry(status, at), **values})).rowcount)


def _on_entry(status: TicketStatus, at: float) -> dict[str, Any]:
    fixed: dict[str, Any] = {"status": status.value}
    match status:
        case TicketStatus.READY:
            return {**fixed, **_NOBODY, "ready_at": at, "ended_at": None, "outcome": None}
        case TicketStatus.CLAIMED:
            return {**fixed, "claimed_at": at, "seen_at": at}
        case TicketStatus.SUCCESS | TicketStatus.FAILED | TicketStatus.TIMEOUT:
            return {**fixed, "ended_at": at, "outcome": status.value}
    return fixed


def add_log(connection: Connection, ticket_id: int, category: Category, message: str, at: float) -> int:
    """Append a line to a ticket's log; attachments that wait belong to it. Return its id."""
    line = {"ticket": ticket_id, "time": at, "category": category.value, "message": message}
    log_id = connection.execute(insert(log).returning(log.c.id), line).scalar_one()
    connection.execute(_FILE_WAITING, {"the_ticket": ticket_id, "the_line": log_id})
    return int(log_id)


def log_of(connection: Connection, ticket_id: int, since: int = 0) -> tuple[LogEntry, ...]:
    """Return the lines of a ticket's log whose id is above `since`, the oldest first."""
    values = {"the_ticket": ticket_id, "since": since}
    attached: dict[int, list[Attachment]] = {}
    for row in connection.execute(_ATTACHED, values):
        attached.setdefault(row.log_id, []).append(to_attachment(row))
    return tuple(
        LogEntry(row.id, row.time, Category(row.category), row.message, tuple(attached.get(row.id, ())))
        for row in connection.execute(_LOG, values)
    )


def to_attachment(row: Row[Any]) -> Attachment:
    """Return the attachment in a row of all its columns."""
    return Attachment(row.id, row.link, row.description, row.mime_type, row.blob, row.size_bytes)


def files_of(connection: Connection, ticket_id: int, area: Area) -> tuple[TicketFile, ...]:
    """Return the files of a ticket's area, in the order of their arrival."""
    values = {"the_ticket": ticket_id, "the_area": area.value}
    return tuple(TicketFile(*row) for row in connection.execute(_FILES, values))


def put_file(
    connection: Connection, ticket_id: int, area: Area, name: str, *, blob: str, size_bytes: int
) -> str | None:
    """Note a file; one of the same name goes, and its blob is returned, which the caller removes after the commit."""
    there = files_of(connection, ticket_id, area)
    before = next((file for file in there if file.name == name), None)
    place = {"ticket": ticket_id, "area": area.value, "number": before.number if before else len(there)}
    content = {"name": name, "blob": blob, "size_bytes": size_bytes}
    if before is None:
        connection.execute(insert(files), {**place, **content})
        return None
    connection.execute(update(files).where(*(files.c[key] == value for key, value in place.items())).values(**content))
    return before.blob


def set_progress(connection: Connection, ticket_id: int, *, start: float, end: float, progress: float) -> None:
    """Say how far a part of the work is; 0 forgets all parts inside of it. All numbers are from 0 to 1."""
    inside = (chunks.c.start >= start, chunks.c.end <= end)
    same = (chunks.c.start == start, chunks.c.end == end)
    connection.execute(delete(chunks).where(chunks.c.ticket == ticket_id, *(same if progress else inside)))
    if progress:
        connection.execute(insert(chunks), {"ticket": ticket_id, "start": start, "end": end, "progress": progress})


def progress_of(connection: Connection, ticket: Ticket) -> float:
    """Return how far a ticket is, from 0 to 1."""
    if ticket.status.ended:
        return 1.0
    if ticket.status is not TicketStatus.CLAIMED:
        return 0.0
    total = connection.scalar(_PROGRESS, {"the_ticket": ticket.id}) or 0.0
    return min(max(round(total, 6), 0.0), 1.0)


def queue_position(connection: Connection, ticket: Ticket) -> int:
    """Return how many ready tickets of the same service go up to and including this one."""
    return connection.scalar(_POSITION, {"the_ticket": ticket.id, "the_service": ticket.githash}) or 0


def clear(connection: Connection, ticket_id: int, area: Area | None = None) -> list[str]:
    """Remove the files of an area, or all that a ticket has; return the blobs, which the caller removes afterwards.

    A file that stays in the other area keeps its blob.
    """
    of_ticket = files.c.ticket == ticket_id
    if area is not None:
        of_area = delete(files).where(of_ticket, files.c.area == area.value)
        gone = set(connection.scalars(of_area.returning(files.c.blob)))
        return list(gone.difference(connection.scalars(select(files.c.blob).where(of_ticket))))
    blobs = set(connection.scalars(delete(files).where(of_ticket).returning(files.c.blob)))
    attached = delete(attachments).where(attachments.c.ticket == ticket_id).returning(attachments.c.blob)
    blobs.update(connection.scalars(attached))
    for table in (log, chunks):
        connection.execute(delete(table).where(table.c.ticket == ticket_id))
    return list(blobs)
