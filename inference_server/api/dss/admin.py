"""The routes of operators: providers, who may serve for them, what they offer, and all tickets."""

from __future__ import annotations

from flask import Blueprint, Response

from inference_server.api.access import caller, needs
from inference_server.api.dss.answer import table, text
from inference_server.api.dss.codec import (
    ALL_TICKETS_FIELDS,
    MEMBER_FIELDS,
    OFFERED_FIELDS,
    SUCCESS,
    operator_row,
)
from inference_server.api.dss.desk import desk
from inference_server.api.dss.forms import ID_LIMIT, field, has, number
from inference_server.api.dss.session import refuse_foreign_pages
from inference_server.errors import BadRequest
from inference_server.tasks.caller import Scope
from inference_server.tasks.tickets.document import decode_service
from inference_server.tasks.tickets.record import ENDED

DAY_S, HOUR_S = 86_400.0, 3600.0
PURGED_AFTER_S = 7 * DAY_S
COMPLETED, ALL = "completed", "all"

blueprint = Blueprint("admin", __name__, url_prefix="/api/admin")


@blueprint.get("/providers")
@needs(Scope.OPERATE)
def list_providers() -> Response:
    """List the providers."""
    return table(("name",), ((name,) for name in desk().providers.names()))


@blueprint.post("/providers")
@needs(Scope.OPERATE)
def add_provider() -> Response:
    """Make a provider."""
    desk().providers.add(field("name"))
    return text(SUCCESS)


@blueprint.get("/providers/<provider>/delete")
@needs(Scope.OPERATE)
def remove_provider(provider: str) -> Response:
    """Remove a provider."""
    refuse_foreign_pages()
    desk().providers.remove(provider)
    return text(SUCCESS)


@blueprint.get("/providers/<provider>/users")
@needs(Scope.OPERATE)
def list_users(provider: str) -> Response:
    """List who may serve for a provider."""
    members = desk().providers.members(provider)
    return table(MEMBER_FIELDS, ((one.id, one.name, int(one.is_admin)) for one in members))


@blueprint.post("/providers/<provider>/users")
@needs(Scope.OPERATE)
def admit_user(provider: str) -> Response:
    """Let the bearer of an access token, named as `email`, serve for a provider."""
    user = field("email")
    desk().providers.admit(provider, user, is_admin=field("admin", "0") not in ("", "0"))
    return text(f"Added user {user} to provider {provider}")


@blueprint.get("/providers/<provider>/users/<int:user>/delete")
@needs(Scope.OPERATE)
def dismiss_user(provider: str, user: int) -> Response:
    """Let somebody serve for a provider no longer."""
    refuse_foreign_pages()
    desk().providers.dismiss(provider, min(user, ID_LIMIT))
    return text(SUCCESS)


@blueprint.get("/providers/<provider>/services")
@needs(Scope.OPERATE)
def list_offers(provider: str) -> Response:
    """List what a provider offers."""
    services = desk().providers.offers_of(provider)
    return table(OFFERED_FIELDS, ((one.name, one.version, one.githash, one.shortdesc) for one in services))


@blueprint.post("/providers/<provider>/services")
@needs(Scope.OPERATE)
def add_offer(provider: str) -> Response:
    """Have a provider offer the service of a `service.json`, sent as `service`; the answer is its hash."""
    if has("repo"):
        raise BadRequest("This server fetches no repositories. Send the text of the service.json as 'service'.")
    service = decode_service(field("service"), field("githash", "") or None)
    desk().providers.offer(provider, service)
    return text(service.githash)


@blueprint.get("/providers/<provider>/services/<githash>/delete")
@needs(Scope.OPERATE)
def withdraw_offer(provider: str, githash: str) -> Response:
    """Have a provider offer a service no longer."""
    refuse_foreign_pages()
    desk().providers.withdraw(provider, githash)
    return text(SUCCESS)


@blueprint.get("/tickets")
@needs(Scope.OPERATE)
def list_tickets() -> Response:
    """List the tickets of everybody."""
    return table(ALL_TICKETS_FIELDS, map(operator_row, desk().tickets.list_all()))


@blueprint.post("/tickets/purge/<which>")
@needs(Scope.OPERATE)
def purge_tickets(which: str) -> Response:
    """Delete tickets, those that ended or all, that were made longer ago than `days` or `hours`."""
    if which not in (COMPLETED, ALL):
        raise BadRequest(f"Tickets are purged as '{COMPLETED}' or '{ALL}'.")
    here = desk()
    before = here.tickets.clock() - _age_s()
    old = [ticket for ticket in here.tickets.list_all() if ticket.created_at < before]
    chosen = [ticket for ticket in old if which == ALL or ticket.status in ENDED]
    for ticket in chosen:
        here.delete(ticket.id, caller())
    return text(f"Purged {len(chosen)} tickets")


def _age_s() -> float:
    if has("days"):
        return number("days") * DAY_S
    return number("hours") * HOUR_S if has("hours") else PURGED_AFTER_S
