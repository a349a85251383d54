"""What goes over the wire: rows of comma-separated values, the same as JSON, and the forms of clients.

The fielded C++ client ends a field at a comma or a carriage return alone, takes a line feed for nothing, and knows no
header: every row ends in CRLF, and texts have no line breaks of their own.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

from inference_server.tasks.tickets.record import Attachment, Detail, LogEntry, Statistics, Ticket

Row = Sequence[Any]
LOGGED_IN = "logged in as {name} \n"
NO_TICKET = "None"
NO_TICKET_OF_SERVICE = "-1"
SUCCESS = "success"

SERVICE_FIELDS = ("name", "githash", "version", "shortdesc")
STATISTICS_FIELDS = ("n_success", "n_failed", "avg_duration", "last_heard_from", "queue_length")
TICKET_FIELDS = ("id", "service", "status")
LOG_FIELDS = ("id", "atime", "category", "attachments", "message")
ATTACHMENT_FIELDS = ("id", "description", "mime_type", "url")
FILE_FIELDS = ("index", "filename")
OFFER_FIELDS = ("name", "version", "githash", "provider")
OFFERED_FIELDS = ("name", "version", "githash", "shortdesc")
CLAIM_FIELDS = ("id", "service_githash", "status")
AVAILABLE_FIELDS = ("service_githash", "service_name", "ready_tickets")
MEMBER_FIELDS = ("id", "email", "admin")
ALL_TICKETS_FIELDS = ("id", "email", "service", "status", "duration")

_ENCODED = re.compile(rb"[\w.~*!'()+%=&$,/:;@?-]*", re.ASCII)


def encode_rows(rows: Iterable[Row]) -> str:
    """Return rows as the clients read them; none at all is an empty text."""
    text = io.StringIO()
    csv.writer(text).writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def encode_table(fields: Sequence[str], rows: Iterable[Row]) -> str:
    """Return rows as JSON, each an object with these names."""
    return json.dumps({"result": [dict(zip(fields, row, strict=True)) for row in rows]})


def encode_detail(detail: Detail, blobs_url: str) -> str:
    """Return all of a ticket that a waiting client asks for, as JSON.

    Args:
        detail: the ticket.
        blobs_url: what the addresses of attachments begin with.
    """
    position = {} if detail.queue_position is None else {"queue_position": detail.queue_position}
    lines = [_line(entry, blobs_url) for entry in detail.log]
    said = {"status": detail.ticket.status.value, "progress": detail.progress, **position, "log": lines}
    return json.dumps({"result": said})


def encode_login(name: str, *, as_json: bool) -> str:
    """Return the answer to a successful sign-in; the C++ client looks at its beginning."""
    return json.dumps({"result": {"email": name}}) if as_json else LOGGED_IN.format(name=name)


def encode_progress(progress: float) -> str:
    """Return a progress from 0 to 1 as text."""
    return str(float(progress))


def log_row(entry: LogEntry) -> Row:
    """Return a line of a log as `LOG_FIELDS` name it."""
    return (entry.id, moment(entry.time), entry.category.value, len(entry.attachments), entry.message)


def attachment_row(attachment: Attachment, blobs_url: str) -> Row:
    """Return an attachment as `ATTACHMENT_FIELDS` name it."""
    return (attachment.id, attachment.description, attachment.mime_type, f"{blobs_url}{attachment.link}")


def statistics_row(found: Statistics) -> Row:
    """Return statistics as `STATISTICS_FIELDS` name them."""
    return (found.succeeded, found.failed, found.mean_duration_s, found.unheard_s, found.waiting)


def operator_row(ticket: Ticket) -> Row:
    """Return a ticket as `ALL_TICKETS_FIELDS` name it; the duration is in minutes, from its making to its end."""
    ended_at = ticket.ended_at or ticket.seen_at or ticket.ready_at or ticket.created_at
    minutes = round((ended_at - ticket.created_at) / 60)
    return (ticket.id, ticket.token, ticket.service, ticket.status.value, minutes)


def moment(seconds: float) -> str:
    """Return a moment in seconds since the epoch as text, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def decode_message(body: bytes) -> str:
    """Return the text of a form whose one field is `message`.

    The C++ client puts it in as it is: what no encoded form could hold, as blanks, shows that it was not encoded.
    """
    name, _, raw = body.partition(b"=")
    if name != b"message":
        return ""
    if _ENCODED.fullmatch(raw) is None:
        return raw.decode(errors="replace")
    return unquote_plus(raw.partition(b"&")[0].decode(), errors="replace")


def _line(entry: LogEntry, blobs_url: str) -> dict[str, Any]:
    attached = [
        dict(zip(ATTACHMENT_FIELDS, attachment_row(attachment, blobs_url), strict=True))
        for attachment in entry.attachments
    ]
    return {**dict(zip(LOG_FIELDS, log_row(entry), strict=True)), "attachments": attached}


def _cell(value: Any) -> Any:
    return " ".join(value.splitlines()) if isinstance(value, str) else value
