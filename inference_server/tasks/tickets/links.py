"""What links a ticket to its task, in SQL. Every change is one transaction, and only what is still so is changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, or_, select, update

from inference_server.tasks.database import Database
from inference_server.tasks.record import Event, Status, Task
from inference_server.tasks.schema import tasks
from inference_server.tasks.tickets import rows
from inference_server.tasks.tickets.outputs import Stored
from inference_server.tasks.tickets.record import Area, Category, Ticket, TicketFile, TicketStatus
from inference_server.tasks.tickets.tables import tickets

IN_PROGRESS = (TicketStatus.READY, TicketStatus.CLAIMED)
_LINKED = tickets.c.task_uid.is_not(None)
_FOLLOWED = (
    select(tickets)
    .join(tasks, tasks.c.uid == tickets.c.task_uid, isouter=True)
    .where(_LINKED, tickets.c.status.in_([status.value for status in IN_PROGRESS]))
    .where(or_(tasks.c.status.is_(None), tasks.c.status != Status.QUEUED.value))
    .order_by(tickets.c.id)
)
_FORGOTTEN = select(tickets).where(_LINKED, tickets.c.status == TicketStatus.DELETED.value)
_HOLD = select(tickets).where(tickets.c.id == bindparam("the_ticket")).with_for_update()


@dataclass(frozen=True)
class Line:
    """A line for the log of a ticket."""

    category: Category
    message: str


class Links:
    """Tickets that are linked to tasks. Every method raises `StoreUnavailable` if the database cannot be reached.

    Args:
        database: migrated.
        clock: seconds since the epoch.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def now(self, ticket: Ticket) -> Ticket:
        """Return a ticket as it is."""
        with self._database.reading() as connection:
            return rows.find(connection, ticket.id)

    def followed(self) -> tuple[Ticket, ...]:
        """Return the tickets in progress whose tasks run, have ended or are gone, the oldest first.

        Those that wait have no news; there may be very many of them.
        """
        with self._database.reading() as connection:
            return tuple(map(rows.to_ticket, connection.execute(_FOLLOWED)))

    def forgotten(self) -> tuple[Ticket, ...]:
        """Return all deleted tickets whose tasks may still be there."""
        with self._database.reading() as connection:
            return tuple(map(rows.to_ticket, connection.execute(_FORGOTTEN)))

    def inputs(self, ticket: Ticket) -> tuple[TicketFile, ...]:
        """Return the files that a ticket came with."""
        with self._database.reading() as connection:
            return rows.files_of(connection, ticket.id, Area.INPUT)

    def unlink(self, ticket: Ticket) -> None:
        """Forget the task of a deleted ticket."""
        statement = update(tickets).where(tickets.c.id == ticket.id, tickets.c.task_uid == ticket.task_uid)
        with self._database.writing() as connection:
            connection.execute(statement.values(task_uid=None))

    def catch_up(self, ticket: Ticket, task: Task, events: Sequence[Event]) -> None:
        """Write down that a task has begun, how far it is, and the lines of its log that came since, each once."""
        if not events and not self._is_behind(ticket, task):
            return
        at = self._clock()
        with self._held(ticket) as (connection, now):
            if now is None:
                return
            if task.status is Status.RUNNING:
                rows.move(connection, ticket.id, TicketStatus.CLAIMED, sources=[TicketStatus.READY], at=at)
            rows.set_progress(connection, ticket.id, start=0.0, end=1.0, progress=_part(task))
            for event in events:
                if event.seq > now.event_seq:
                    rows.add_log(connection, ticket.id, _category(event), event.text, at)
            seen = max([now.event_seq, *(event.seq for event in events)])
            connection.execute(update(tickets).where(tickets.c.id == ticket.id).values(event_seq=seen))

    def end(self, ticket: Ticket, status: TicketStatus, lines: Iterable[Line], results: Sequence[Stored] = ()) -> bool:
        """End a ticket with its results and the last lines of its log; return whether it was done here."""
        at = self._clock()
        with self._held(ticket) as (connection, now):
            if now is None:
                return False
            rows.move(connection, ticket.id, status, sources=IN_PROGRESS, at=at)
            for one in results:
                rows.put_file(connection, ticket.id, Area.RESULTS, one.name, blob=one.key, size_bytes=one.size_bytes)
            for line in lines:
                rows.add_log(connection, ticket.id, line.category, line.message, at)
        return True

    def _is_behind(self, ticket: Ticket, task: Task) -> bool:
        if ticket.status is TicketStatus.READY:
            return task.status is Status.RUNNING
        with self._database.reading() as connection:
            return rows.progress_of(connection, ticket) != round(_part(task), 6)

    @contextmanager
    def _held(self, ticket: Ticket) -> Iterator[tuple[Connection, Ticket | None]]:
        """Give a transaction in which nobody else changes the ticket, which is None if it is another task's by now."""
        with self._database.writing() as connection:
            row = connection.execute(_HOLD, {"the_ticket": ticket.id}).one_or_none()
            now = None if row is None else rows.to_ticket(row)
            same = now is not None and now.task_uid == ticket.task_uid and now.status in IN_PROGRESS
            yield connection, now if same else None


def _part(task: Task) -> float:
    """Return how far a task is; one that has finished is, also while its results are being stored."""
    if task.status is Status.FINISHED:
        return 1.0
    return min(max(task.progress, 0.0), 1.0) if task.status is Status.RUNNING else 0.0


def _category(event: Event) -> Category:
    return Category(event.level) if event.level in set(Category) else Category.INFO
