"""What the routes of this dialect work with."""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app

from inference_server.errors import BadRequest
from inference_server.settings import Settings
from inference_server.tasks.caller import Caller
from inference_server.tasks.service import Tasks
from inference_server.tasks.tickets.document import version_key
from inference_server.tasks.tickets.linked import Linked
from inference_server.tasks.tickets.providers import Providers
from inference_server.tasks.tickets.record import Service, Ticket
from inference_server.tasks.tickets.serving import Serving
from inference_server.tasks.tickets.sessions import Sessions
from inference_server.tasks.tickets.tickets import Tickets, open_tickets

EXTENSION = "dss"


@dataclass(frozen=True)
class Desk:
    """One per application: tickets, those who serve them, and the models that are services too."""

    tickets: Tickets
    serving: Serving
    providers: Providers
    sessions: Sessions
    linked: Linked

    def services(self) -> tuple[Service, ...]:
        """Return what tickets can be made for: models of this server, then external services."""
        return (*self.linked.services(), *self.providers.services())

    def service(self, *, githash: str | None = None, name: str | None = None) -> Service:
        """Return a service by its hash, or the highest version of the one of a name.

        Raises:
            BadRequest: there is none.
        """
        found = [one for one in self.services() if one.githash == githash or (githash is None and one.name == name)]
        if not found:
            raise BadRequest("There is no such service. Ask this server for the list of its services.", field="service")
        return max(found, key=version_key)

    def seen(self, ticket_id: int, caller: Caller) -> Ticket:
        """Return a ticket as its task left it, where it has one.

        Raises:
            UnknownTask: there is none of this id that the caller may see.
        """
        return self.linked.refreshed(self.tickets.get(ticket_id, caller))

    def make_ready(self, ticket_id: int, caller: Caller) -> Ticket:
        """Say that all files of a ticket are there. One on a model of this server becomes a task.

        Raises:
            UnknownTask, Forbidden: as `Tickets.set_ready`.
            BadRequest: the ticket is not fresh, its service is gone, or its files are not what the model takes.
        """
        ticket = self.tickets.get(ticket_id, caller)
        service = self.service(githash=ticket.githash)
        if service.model is None:
            return self.tickets.set_ready(ticket_id, caller)
        return self.linked.start(ticket, caller)

    def retry(self, ticket_id: int, caller: Caller) -> Ticket:
        """Make a failed or timed-out ticket ready again.

        Raises:
            UnknownTask, Forbidden, Conflict: as `Tickets.retry`.
            UnknownModel, QueueFull, OverQuota, StorageFull: as `Linked.restart`.
        """
        ticket = self.seen(ticket_id, caller)
        if ticket.task_uid is None:
            return self.tickets.retry(ticket_id, caller)
        return self.linked.restart(ticket, caller)

    def delete(self, ticket_id: int, caller: Caller) -> None:
        """Remove a ticket with all that it has, and its task.

        Raises:
            UnknownTask, Forbidden: as `Tickets.delete`.
        """
        self.linked.dropped(self.tickets.delete(ticket_id, caller), caller)


def open_desk(settings: Settings, tasks: Tasks) -> Desk:
    """Return the desk on the records and blobs of the tasks."""
    database = tasks.store.database
    tickets, providers = open_tickets(settings, database, tasks.blobs), Providers(database)
    return Desk(
        tickets,
        Serving(tickets, providers),
        providers,
        Sessions(database, lifetime_s=settings.dss_session_s),
        Linked(tasks, tickets),
    )


def desk() -> Desk:
    """Return the desk of the application that handles the present request."""
    found = current_app.extensions[EXTENSION]
    assert isinstance(found, Desk)
    return found
