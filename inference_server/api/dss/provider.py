"""The routes of providers: instances of algorithms that claim tickets and work on them."""

from __future__ import annotations

from flask import Blueprint, Response

from inference_server.api.access import caller, needs
from inference_server.api.context import context
from inference_server.api.dss.answer import table, text
from inference_server.api.dss.codec import (
    AVAILABLE_FIELDS,
    CLAIM_FIELDS,
    FILE_FIELDS,
    NO_TICKET,
    NO_TICKET_OF_SERVICE,
    OFFER_FIELDS,
    SUCCESS,
    encode_progress,
)
from inference_server.api.dss.desk import desk
from inference_server.api.dss.files import send_blob
from inference_server.api.dss.forms import (
    area_of,
    category_of,
    description_of,
    field,
    hashes,
    message,
    mime_type_of,
    number,
    receive_file,
    status,
)
from inference_server.errors import BadRequest
from inference_server.tasks.tickets.record import Area

DEFAULT_CODE = "default"

blueprint = Blueprint("provider", __name__, url_prefix="/api/pro")


@blueprint.get("/services")
@needs()
def list_offers() -> Response:
    """List what the caller may serve."""
    offers = desk().serving.services(caller())
    rows = ((one.service.name, one.service.version, one.service.githash, one.provider) for one in offers)
    return table(OFFER_FIELDS, rows)


@blueprint.post("/services/claims")
@needs()
def claim_ticket() -> Response:
    """Claim the oldest ready ticket of some services; where there is none, the answer is the word that clients know."""
    ticket = desk().serving.claim(hashes(), field("provider"), field("code", DEFAULT_CODE), caller())
    if ticket is None:
        return text(NO_TICKET)
    return table(CLAIM_FIELDS, [(ticket.id, ticket.githash, ticket.status.value)])


@blueprint.post("/services/available")
@needs()
def list_available() -> Response:
    """List which of some services have ready tickets, and how many, without claiming one."""
    return table(AVAILABLE_FIELDS, desk().serving.available(hashes(), caller()))


@blueprint.post("/services/<githash>/claims")
@needs()
def claim_ticket_of(githash: str) -> Response:
    """Claim the oldest ready ticket of one service, as older clients do; the answer is its id alone."""
    ticket = desk().serving.claim([githash], field("provider"), field("code", DEFAULT_CODE), caller())
    return text(NO_TICKET_OF_SERVICE if ticket is None else ticket.id)


@blueprint.get("/tickets/<int:ticket>/status")
@needs()
def get_status(ticket: int) -> Response:
    """Answer with the status, as a bare word."""
    return text(desk().serving.status(ticket, caller()).value)


@blueprint.post("/tickets/<int:ticket>/status")
@needs()
def set_status(ticket: int) -> Response:
    """End a claimed ticket, as success or failed."""
    return text(desk().serving.set_status(ticket, status(), caller()).value)


@blueprint.get("/tickets/<int:ticket>/files/<area>")
@needs()
def list_files(ticket: int, area: str) -> Response:
    """List the files of an area of a claimed ticket."""
    files = desk().serving.files(ticket, area_of(area), caller())
    return table(FILE_FIELDS, ((file.number, file.name) for file in files))


@blueprint.post("/tickets/<int:ticket>/files/<area>")
@needs()
def add_file(ticket: int, area: str) -> Response:
    """Take a result."""
    here, serving, who = context(), desk().serving, caller()
    if area_of(area) is not Area.RESULTS:
        raise BadRequest("A provider sends results; the input is the user's.")
    serving.check_held(ticket, who)
    receive_file(here, lambda name, staged, _upload: serving.add_file(ticket, name, staged, who))
    return text(SUCCESS)


@blueprint.get("/tickets/<int:ticket>/files/<area>/<int:number>")
@needs()
def get_file(ticket: int, area: str, number: int) -> Response:
    """Answer with a file of a claimed ticket."""
    file = desk().serving.fetch(ticket, area_of(area), number, caller())
    return send_blob(file.blob, name=file.name)


@blueprint.post("/tickets/<int:ticket>/<category>")
@needs()
def add_log(ticket: int, category: str) -> Response:
    """Append a line to the log of a claimed ticket; the answer is the line's id."""
    return text(desk().serving.add_log(ticket, category_of(category), message(), caller()))


@blueprint.post("/tickets/<int:ticket>/attachments")
@needs()
def attach(ticket: int) -> Response:
    """Take a file that belongs to the next line of the log; the answer is its id."""
    here, serving, who = context(), desk().serving, caller()
    serving.check_held(ticket, who)
    made = receive_file(
        here,
        lambda name, staged, upload: serving.attach(
            ticket,
            staged,
            description=description_of(upload),
            mime_type=mime_type_of(name, upload),
            caller=who,
        ),
    )
    return text(made.id)


@blueprint.get("/tickets/<int:ticket>/progress")
@needs()
def get_progress(ticket: int) -> Response:
    """Answer how far a claimed ticket is, from 0 to 1."""
    return text(encode_progress(desk().serving.progress(ticket, caller())))


@blueprint.post("/tickets/<int:ticket>/progress")
@needs()
def set_progress(ticket: int) -> Response:
    """Note how far a part of the work is."""
    start, end, progress = number("chunk_start"), number("chunk_end"), number("progress")
    desk().serving.set_progress(ticket, start=start, end=end, progress=progress, caller=caller())
    return text(SUCCESS)
