"""What a DSS server tells, decoded: lines of CSV without a header, and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inference_server.clients.dss.errors import DSSAnswerError

CLAIMED = "claimed"
FINAL = frozenset({"success", "failed", "timeout", "deleted"})


@dataclass(frozen=True)
class ServiceRow:
    """A service that users may send tickets to; `githash` names one version of it."""

    name: str
    githash: str
    version: str
    shortdesc: str


@dataclass(frozen=True)
class ProvidedService:
    """A service that who is signed in provides, and for which provider."""

    service: str
    version: str
    hash: str
    provider: str


@dataclass(frozen=True)
class ReadyService:
    """A service with tickets that wait for a provider."""

    service: str
    service_name: str
    ready_tickets: int


@dataclass(frozen=True)
class TicketRow:
    """A ticket of a user; `service` is the service's name."""

    id: int
    service: str
    status: str


@dataclass(frozen=True)
class Claimed:
    """A ticket that was given to a provider; `service` is the service's hash."""

    ticket: int
    service: str
    status: str


@dataclass(frozen=True)
class FileRow:
    """A file of a ticket, fetched by its index."""

    index: int
    filename: str


@dataclass(frozen=True)
class Attachment:
    """A file that belongs to a line of a log; whoever has the URL may fetch it."""

    url: str
    description: str
    mime_type: str


@dataclass(frozen=True)
class LogLine:
    """A line of a ticket's log. Ids rise."""

    id: int
    atime: str
    category: str
    message: str
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True)
class Detail:
    """Where a ticket is; `queue_position` counts from 1, while it waits."""

    status: str
    progress: float
    queue_position: int | None = None
    log: tuple[LogLine, ...] = field(default=())

    @property
    def ended(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.status in FINAL


def rows(text: str, columns: int) -> list[list[str]]:
    """Decode lines of CSV.

    Raises:
        DSSAnswerError: a line has fewer columns.
    """
    found = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    if any(len(row) < columns for row in found):
        raise DSSAnswerError("What the server answered is not the table expected; is this the address of a DSS server?")
    return [row[:columns] for row in found]


def whole(text: str) -> int:
    """Decode a number.

    Raises:
        DSSAnswerError: it is none.
    """
    try:
        return int(text.strip())
    except ValueError as exc:
        raise DSSAnswerError("The server answered something else than the number expected.") from exc


def parse_files(text: str) -> list[FileRow]:
    """Decode the list of a ticket's files.

    Raises:
        DSSAnswerError: it is none, or a name in it is not a bare file name.
    """
    files = [FileRow(whole(index), name) for index, name in rows(text, 2)]
    for file in files:
        if file.filename in ("", ".", "..") or any(mark in file.filename for mark in "/\\\0"):
            raise DSSAnswerError("A file of the ticket has a name that leads out of its folder. Nothing was fetched.")
    return files


def parse_claim(text: str) -> Claimed | None:
    """Decode the answer to a claim: one row with the id of a ticket first; anything else means that none waits."""
    found = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    if len(found) != 1 or len(found[0]) < 3 or not found[0][0].strip().isdecimal() or int(found[0][0]) < 1:
        return None
    ticket, service, status = found[0][:3]
    return Claimed(int(ticket), service, status)


def parse_detail(answer: Any) -> Detail:
    """Decode the JSON of a ticket; what is missing has a default.

    Raises:
        DSSAnswerError: it is another document.
    """
    try:
        found = answer["result"]
        return Detail(
            status=str(found.get("status", "")),
            progress=float(found.get("progress", 0.0)),
            queue_position=found.get("queue_position"),
            log=tuple(_log_line(entry) for entry in found.get("log", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise DSSAnswerError("What the server tells of the ticket is not what the protocol says.") from exc


def _log_line(entry: Mapping[str, Any]) -> LogLine:
    attachments = tuple(
        Attachment(str(each["url"]), str(each.get("description", "")), str(each.get("mime_type", "")))
        for each in entry.get("attachments") or ()
    )
    said = {name: str(entry.get(name, "")) for name in ("atime", "category", "message")}
    return LogLine(int(entry["id"]), **said, attachments=attachments)
