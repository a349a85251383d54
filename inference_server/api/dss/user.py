"""The routes of those who make tickets."""

from __future__ import annotations

from flask import Blueprint, Response

from inference_server.api.access import caller, needs
from inference_server.api.context import context
from inference_server.api.dss.answer import blobs_url, json_text, table, text
from inference_server.api.dss.codec import (
    ATTACHMENT_FIELDS,
    FILE_FIELDS,
    LOG_FIELDS,
    SUCCESS,
    TICKET_FIELDS,
    attachment_row,
    encode_detail,
    encode_progress,
    log_row,
)
from inference_server.api.dss.desk import desk
from inference_server.api.dss.files import send_blob
from inference_server.api.dss.forms import ID_LIMIT, area_of, field, receive_file, since, status
from inference_server.api.dss.session import refuse_foreign_pages
from inference_server.errors import BadRequest
from inference_server.tasks.caller import READING, STEERING, Scope
from inference_server.tasks.tickets.record import Area, TicketStatus

FETCHING = (Scope.READ_OWN, Scope.READ_ALL)

blueprint = Blueprint("user", __name__, url_prefix="/api/tickets")


@blueprint.get("")
@needs(*READING)
def list_tickets() -> Response:
    """List the caller's tickets."""
    here = desk()
    seen = [here.linked.refreshed(ticket) for ticket in here.tickets.list_of(caller())]
    return table(TICKET_FIELDS, ((ticket.id, ticket.service, ticket.status.value) for ticket in seen))


@blueprint.post("")
@needs(Scope.SUBMIT)
def create_ticket() -> Response:
    """Make a ticket; the answer is its id alone."""
    githash, name = field("githash", ""), field("name", "")
    if not githash and not name:
        raise BadRequest("Name the service, by its 'githash' or its 'name'.", field="githash")
    here = desk()
    service = here.service(githash=githash) if githash else here.service(name=name)
    return text(here.tickets.create(service, caller()).id)


@blueprint.get("/<int:ticket>/files/<area>")
@needs(*READING)
def list_files(ticket: int, area: str) -> Response:
    """List the files of an area: what to ask for, and what to call it."""
    desk().seen(ticket, caller())
    files = desk().tickets.files(ticket, area_of(area), caller())
    return table(FILE_FIELDS, ((file.number, file.name) for file in files))


@blueprint.post("/<int:ticket>/files/<area>")
@needs(*STEERING)
def add_file(ticket: int, area: str) -> Response:
    """Take an input."""
    here, tickets, who = context(), desk().tickets, caller()
    if tickets.get(ticket, who).status is not TicketStatus.INIT or area_of(area) is not Area.INPUT:
        raise BadRequest("Files are taken as 'input' only, and only before the ticket is made ready.")
    receive_file(here, lambda name, staged, _upload: tickets.add_file(ticket, name, staged, who))
    return text(SUCCESS)


@blueprint.get("/<int:ticket>/files/<area>/<int:number>")
@needs(*FETCHING)
def get_file(ticket: int, area: str, number: int) -> Response:
    """Answer with a file."""
    file = desk().tickets.fetch(ticket, area_of(area), number, caller())
    return send_blob(file.blob, name=file.name)


@blueprint.get("/<int:ticket>/status")
@needs(*READING)
def get_status(ticket: int) -> Response:
    """Answer with the status, as a bare word."""
    return text(desk().seen(ticket, caller()).status.value)


@blueprint.post("/<int:ticket>/status")
@needs(*STEERING)
def set_status(ticket: int) -> Response:
    """Say that all files are there."""
    if status() is not TicketStatus.READY:
        raise BadRequest("The maker of a ticket sets its status to ready, and to nothing else.", field="status")
    return text(desk().make_ready(ticket, caller()).status.value)


@blueprint.get("/<int:ticket>/log")
@needs(*READING)
def get_log(ticket: int) -> Response:
    """List the lines of the log with ids above `since`."""
    desk().seen(ticket, caller())
    return table(LOG_FIELDS, map(log_row, desk().tickets.log(ticket, caller(), since())))


@blueprint.get("/logs/<int:log_id>/attachments")
@needs(*READING)
def list_attachments(log_id: int) -> Response:
    """List what belongs to a line of a log."""
    found, base = desk().tickets.attachments(min(log_id, ID_LIMIT), caller()), blobs_url(context())
    return table(ATTACHMENT_FIELDS, (attachment_row(one, base) for one in found))


@blueprint.get("/<int:ticket>/progress")
@needs(*READING)
def get_progress(ticket: int) -> Response:
    """Answer how far the work is, from 0 to 1."""
    desk().seen(ticket, caller())
    return text(encode_progress(desk().tickets.detail(ticket, caller()).progress))


@blueprint.get("/<int:ticket>/queuepos")
@needs(*READING)
def get_queue_position(ticket: int) -> Response:
    """Answer how many ready tickets of the same service go up to this one; 0 where it does not wait."""
    desk().seen(ticket, caller())
    return text(desk().tickets.detail(ticket, caller()).queue_position or 0)


@blueprint.get("/<int:ticket>/detail")
@needs(*READING)
def get_detail(ticket: int) -> Response:
    """Answer all that a waiting client asks for, with the lines of the log above `since`."""
    desk().seen(ticket, caller())
    detail = desk().tickets.detail(ticket, caller(), since())
    return json_text(encode_detail(detail, blobs_url(context())))


@blueprint.get("/<int:ticket>/delete")
@needs(*STEERING)
def delete_ticket(ticket: int) -> Response:
    """Remove all that a ticket has."""
    refuse_foreign_pages()
    desk().delete(ticket, caller())
    return text(TicketStatus.DELETED.value)


@blueprint.get("/<int:ticket>/retry")
@needs(*STEERING)
def retry_ticket(ticket: int) -> Response:
    """Make a failed or timed-out ticket ready again."""
    refuse_foreign_pages()
    return text(desk().retry(ticket, caller()).status.value)
