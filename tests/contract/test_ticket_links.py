"""Tickets and their tasks, in every database: whoever looks at the same moment, everything is written once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from records import HOLDER, added, claimed

from inference_server.tasks.blobs import LocalBlobs
from inference_server.tasks.caller import Caller, Scope
from inference_server.tasks.claims import Claims
from inference_server.tasks.database import Database
from inference_server.tasks.record import Event, Status
from inference_server.tasks.store import Store
from inference_server.tasks.tickets.links import Line, Links
from inference_server.tasks.tickets.outputs import Stored
from inference_server.tasks.tickets.record import Area, Category, Service, Ticket, TicketStatus
from inference_server.tasks.tickets.tickets import Tickets

ANNA = Caller("anna", frozenset({Scope.SUBMIT, Scope.READ_OWN}), "dss")
LOOKERS = 6

Answer = TypeVar("Answer")


@pytest.fixture
def tickets(database: Database, tmp_path: Path) -> Tickets:
    return Tickets(database, LocalBlobs(tmp_path))


@pytest.fixture
def ticket(tickets: Tickets, store: Store, claims: Claims) -> Ticket:
    """A ticket whose task runs."""
    made = tickets.create(Service("0" * 40, "one", "1.0.0", "One", model="one:1.0.0"), ANNA)
    staged = tickets.blobs.stage()
    tickets.add_file(made.id, "a.itksnap", staged, ANNA)
    uid = added(store, token="anna").uid
    claimed(claims)
    return tickets.set_ready(made.id, ANNA, task_uid=uid)


def at_once(do: Callable[[int], Answer]) -> list[Answer]:
    start = threading.Barrier(LOOKERS)

    def run(number: int) -> Answer:
        start.wait()
        return do(number)

    with ThreadPoolExecutor(LOOKERS) as pool:
        return list(pool.map(run, range(LOOKERS)))


def test_lines_of_the_tasks_log_are_copied_once(
    database: Database, store: Store, tickets: Tickets, ticket: Ticket
) -> None:
    task = replace(store.get(ticket.task_uid or ""), progress=0.5)
    events = [Event(7, 1.0, "info", "first"), Event(9, 2.0, "warning", "second"), Event(11, 2.0, "odd", "third")]
    at_once(lambda number: Links(database).catch_up(ticket, task, events[: number % 3 + 1]))
    lines = [(line.category, line.message) for line in tickets.log(ticket.id, ANNA)[1:]]
    assert lines == [(Category.INFO, "first"), (Category.WARNING, "second"), (Category.INFO, "third")]
    detail = tickets.detail(ticket.id, ANNA)
    assert (detail.ticket.status, detail.ticket.event_seq, detail.progress) == (TicketStatus.CLAIMED, 11, 0.5)


def test_a_ticket_ends_once_with_the_results_of_one(database: Database, tickets: Tickets, ticket: Ticket) -> None:
    def end(number: int) -> bool:
        result = Stored("a.nii.gz", f"{number:032x}", number)
        lines = [Line(Category.INFO, f"by {number}")]
        return Links(database).end(ticket, TicketStatus.SUCCESS, lines, [result])

    done = at_once(end)
    winner = done.index(True)
    assert done.count(True) == 1
    assert [file.size_bytes for file in tickets.files(ticket.id, Area.RESULTS, ANNA)] == [winner]
    assert tickets.log(ticket.id, ANNA)[-1].message == f"by {winner}"
    assert tickets.get(ticket.id, ANNA).outcome is TicketStatus.SUCCESS


def test_what_belongs_to_a_former_task_changes_nothing(
    database: Database, store: Store, tickets: Tickets, ticket: Ticket
) -> None:
    links = Links(database)
    assert links.end(ticket, TicketStatus.FAILED, [])
    again = tickets.retry(ticket.id, ANNA, task_uid=added(store, token="anna").uid)
    task = replace(store.get(ticket.task_uid or ""), status=Status.RUNNING)
    links.catch_up(ticket, task, [Event(20, 1.0, "info", "late")])
    assert not links.end(ticket, TicketStatus.SUCCESS, [])
    assert links.now(ticket) == again
    assert [line.message for line in tickets.log(ticket.id, ANNA)] == [
        "Ticket received and queued for processing",
        "Retrying ticket",
    ]
    assert links.followed() == ()


def test_tickets_are_followed_whose_tasks_run_have_ended_or_are_gone(
    database: Database, store: Store, claims: Claims, tickets: Tickets, ticket: Ticket
) -> None:
    links = Links(database)
    assert links.followed() == (ticket,)
    claims.hand_back(HOLDER.worker)
    assert links.followed() == ()
    store.cancel(ticket.task_uid or "")
    assert links.followed() == (ticket,)
    store.delete(ticket.task_uid or "")
    assert links.followed() == (ticket,)
    assert links.end(ticket, TicketStatus.FAILED, [])
    assert links.followed() == ()


def test_a_deleted_ticket_is_remembered_until_its_task_is_gone(
    database: Database, tickets: Tickets, ticket: Ticket
) -> None:
    links = Links(database)
    assert links.forgotten() == ()
    tickets.delete(ticket.id, ANNA)
    [deleted] = links.forgotten()
    assert (deleted.id, deleted.task_uid, links.followed()) == (ticket.id, ticket.task_uid, ())
    links.unlink(deleted)
    assert links.forgotten() == ()
