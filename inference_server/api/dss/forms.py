"""What clients of this dialect send: short forms, and one file at a time."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from flask import request
from werkzeug.datastructures import MultiDict

from inference_server.api.context import Context
from inference_server.api.dss.codec import decode_message
from inference_server.api.upload import Parts, Upload, received
from inference_server.errors import BadRequest
from inference_server.tasks.tickets.record import Area, Category, TicketStatus

FORM_LIMIT_BYTES = 256 * 1024
FILE = "myfile"
PARTS = Parts(files=frozenset({FILE}), texts=frozenset({"filename", "submit", "desc", "mime_type"}), others_pass=True)
UNKNOWN_TYPE = "application/octet-stream"
ID_LIMIT = 2**53
_MIME_TYPE = re.compile(r"[\w.+-]{1,80}/[\w.+-]{1,80}", re.ASCII)

Taken = TypeVar("Taken")


def has(name: str) -> bool:
    """Whether a form has a field."""
    return name in _form()


def field(name: str, default: str | None = None) -> str:
    """Return a field of a form, without blanks around it.

    Raises:
        BadRequest: it is missing, and there is no default; or it is no text.
    """
    found = _form().get(name, default)
    if found is None:
        raise BadRequest(f"The field '{name}' is missing.", field=name)
    if "\0" in found:
        raise BadRequest(f"The field '{name}' must be a text.", field=name)
    return found.strip()


def number(name: str) -> float:
    """Return a field that is a number.

    Raises:
        BadRequest: it is missing or something else.
    """
    try:
        return float(field(name))
    except ValueError:
        raise BadRequest(f"The field '{name}' must be a number.", field=name) from None


def hashes() -> list[str]:
    """Return the services that a provider names, by their hashes.

    Raises:
        BadRequest: the field is missing.
    """
    return [part.strip() for part in field("services").split(",") if part.strip()]


def message() -> str:
    """Return the text of a line for a log.

    Raises:
        BadRequest: there is none.
    """
    request.max_content_length = FORM_LIMIT_BYTES
    found = decode_message(request.get_data(cache=False)).replace("\0", "").strip()
    if not found:
        raise BadRequest("The field 'message' is missing.", field="message")
    return found


def status() -> TicketStatus:
    """Return the status that a client sets.

    Raises:
        BadRequest: it is none.
    """
    try:
        return TicketStatus(field("status"))
    except ValueError:
        raise BadRequest("There is no such status of a ticket.", field="status") from None


def area_of(name: str) -> Area:
    """Return an area of a ticket by its name.

    Raises:
        BadRequest: there is none of this name.
    """
    try:
        return Area(name)
    except ValueError:
        raise BadRequest("The files of a ticket are in the areas 'input' and 'results'.") from None


def category_of(name: str) -> Category:
    """Return the category of a line for a log by its name; `log` is another one for information.

    Raises:
        BadRequest: there is none of this name.
    """
    try:
        return Category.INFO if name == "log" else Category(name)
    except ValueError:
        raise BadRequest("Lines of a log are of the categories info, warning and error.") from None


def since() -> int:
    """Return the id of the last line of a log that the client has, 0 where it has none.

    Raises:
        BadRequest: it is no number.
    """
    given = request.args.get("since", "0").strip()
    if not re.fullmatch(r"[0-9]{1,18}", given, re.ASCII):
        raise BadRequest("What is given as 'since' must be the id of a line of the log.", field="since")
    return int(given)


def receive_file(here: Context, take: Callable[[str, Path, Upload], Taken]) -> Taken:
    """Receive the one file of a form and hand it, staged, to what takes it: its name, its path, and what came with it.

    Raises:
        BadRequest: there is no file, or more than one.
        MalformedMessage, TooLarge, StorageFull: as `received`.
    """
    with received(request, here.tasks, PARTS, limit_bytes=here.settings.upload_limit_bytes) as upload:
        paths = upload.files[FILE]
        if len(paths) != 1:
            raise BadRequest(f"The form must have one file, as '{FILE}'.", field=FILE)
        name = upload.texts.get("filename") or upload.file_names.get(FILE, "")
        return take(name, paths[0], upload)


def mime_type_of(name: str, upload: Upload) -> str:
    """Return the type of an attachment, as its sender says or as its name suggests."""
    said = upload.texts.get("mime_type", "").strip() or mimetypes.guess_type(name)[0] or UNKNOWN_TYPE
    return said if _MIME_TYPE.fullmatch(said) else UNKNOWN_TYPE


def description_of(upload: Upload) -> str:
    """Return what the sender of an attachment says of it."""
    return upload.texts.get("desc", "").replace("\0", "").strip()


def _form() -> MultiDict[str, str]:
    request.max_content_length = FORM_LIMIT_BYTES
    return request.form
