"""What users do: send tickets to services, watch them, fetch results."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from inference_server.clients.dss.connection import Connection
from inference_server.clients.dss.errors import DSSAnswerError, DSSRefused, DSSUnreachable
from inference_server.clients.dss.export import exported
from inference_server.clients.dss.records import (
    Attachment,
    Detail,
    FileRow,
    LogLine,
    ServiceRow,
    TicketRow,
    parse_detail,
    parse_files,
    rows,
    whole,
)
from inference_server.clients.native import ServerError, result_folder

POLL_S = 5.0
MISSES = 30
"""So many polls in a row may go unanswered before a server counts as lost."""
_HASH_DIGITS = 40


def is_hash(service: str) -> bool:
    """Tell whether a service is named by its hash; else it is by its name."""
    return len(service) == _HASH_DIGITS and not set(service) - set("0123456789abcdef")


class User:
    """The user's side of a server. Every method raises `ServerError` where the server refuses or does not answer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def services(self) -> list[ServiceRow]:
        """Return the services that take tickets."""
        return [ServiceRow(*row) for row in rows(self._connection.get("api/services").text, 4)]

    def service(self, service: str) -> Mapping[str, Any]:
        """Return what a service says of itself, with the tags of the layers that it takes."""
        return dict(_json(self._connection.get(f"api/services/{self._hash(service)}/detail")))

    def create(self, service: str) -> int:
        """Make a ticket for a service, named by hash or name, and return its id; nothing runs yet."""
        form = {"githash" if is_hash(service) else "name": service}
        ticket = whole(self._connection.post("api/tickets", form).text)
        if ticket < 1:
            raise DSSAnswerError("The server gave no ticket.")
        return ticket

    def upload(self, ticket: int, workspace: Path, *, attempts: int = 5) -> list[str]:
        """Send a workspace and its images, under names that tell nothing; returns those names."""
        with exported(workspace, f"ticket_{ticket:08d}.itksnap") as files:
            for file in files:
                self._upload(ticket, file, attempts)
            return [file.name for file in files]

    def submit(self, ticket: int) -> str:
        """Say that all files are there; returns the ticket's status, `ready`."""
        return self._connection.post(f"api/tickets/{ticket}/status", {"status": "ready"}).text.strip()

    def send(self, service: str, workspace: Path) -> int:
        """Make a ticket, send a workspace, and say that all is there; a ticket that cannot be sent is deleted."""
        ticket = self.create(service)
        with ExitStack() as failed:
            failed.callback(self._dropped, ticket)
            self.upload(ticket, workspace)
            self.submit(ticket)
            failed.pop_all()
        return ticket

    def tickets(self) -> list[TicketRow]:
        """Return the user's tickets."""
        return [TicketRow(whole(row[0]), row[1], row[2]) for row in rows(self._connection.get("api/tickets").text, 3)]

    def status(self, ticket: int) -> str:
        """Return a ticket's status."""
        return self.detail(ticket).status

    def progress(self, ticket: int) -> float:
        """Return how much of a ticket is done, from 0 to 1."""
        return _number(self._connection.get(f"api/tickets/{ticket}/progress").text)

    def queue_position(self, ticket: int) -> int:
        """Return how many tickets of the service wait up to this one."""
        return whole(self._connection.get(f"api/tickets/{ticket}/queuepos").text)

    def detail(self, ticket: int, *, since: int = 0) -> Detail:
        """Return status, progress and the lines of the log after the id `since`."""
        return parse_detail(_json(self._connection.get(f"api/tickets/{ticket}/detail", since=since)))

    def log(self, ticket: int, *, since: int = 0) -> list[LogLine]:
        """Return the lines of a ticket's log after the id `since`, with their attachments."""
        found = rows(self._connection.get(f"api/tickets/{ticket}/log", since=since).text, 5)
        return [
            LogLine(whole(at), time_, category, message, self.attachments(whole(at)) if whole(count) else ())
            for at, time_, category, count, message in found
        ]

    def attachments(self, log_id: int) -> tuple[Attachment, ...]:
        """Return the attachments of a line of a log."""
        found = rows(self._connection.get(f"api/tickets/logs/{log_id}/attachments").text, 4)
        return tuple(Attachment(url, description, kind) for _, description, kind, url in found)

    def wait(
        self,
        ticket: int,
        *,
        timeout_s: float | None = None,
        poll_s: float = POLL_S,
        on_change: Callable[[Detail], None] | None = None,
    ) -> Detail:
        """Wait until a ticket has ended; a server that is away for a while is waited for.

        Args:
            ticket: its id.
            timeout_s: how long to wait; for ever if None.
            poll_s: how often to ask.
            on_change: called with every answer; its log has the lines that are new.

        Returns:
            The last answer, with the whole log.

        Raises:
            ServerError: the ticket is not the user's, or has not ended in time.
        """
        end = time.monotonic() + (math.inf if timeout_s is None else timeout_s)
        log: list[LogLine] = []
        while True:
            found = self._polled(ticket, log[-1].id if log else 0, poll_s)
            log.extend(found.log)
            if on_change:
                on_change(found)
            if found.ended:
                return Detail(found.status, found.progress, found.queue_position, tuple(log))
            if time.monotonic() + poll_s > end:
                raise ServerError(
                    f"The ticket is still {found.status} after {timeout_s:g} s.", problem_code="timed_out"
                )
            time.sleep(poll_s)

    def files(self, ticket: int, area: str = "results") -> list[FileRow]:
        """Return the files of an area of a ticket, `input` or `results`."""
        return parse_files(self._connection.get(f"api/tickets/{ticket}/files/{area}").text)

    def download(self, ticket: int, folder: Path, *, area: str = "results") -> list[Path]:
        """Fetch the files of a ticket into a folder, made if need be."""
        files = self.files(ticket, area)
        if not files:
            raise ServerError("The ticket has no files there (yet).", problem_code="not_finished")
        return download_all(self._connection, f"api/tickets/{ticket}/files/{area}", files, folder)

    def delete(self, ticket: int) -> str:
        """Remove a ticket and its files; what it computes is stopped."""
        return self._connection.get(f"api/tickets/{ticket}/delete").text.strip()

    def retry(self, ticket: int) -> str:
        """Queue a ticket that failed, or whose provider fell silent, once more."""
        return self._connection.get(f"api/tickets/{ticket}/retry").text.strip()

    def _hash(self, service: str) -> str:
        if is_hash(service):
            return service
        found = [each.githash for each in self.services() if each.name == service]
        if not found:
            raise ServerError(f"The server has no service named '{service}'.", problem_code="unknown_service")
        return found[-1]

    def _upload(self, ticket: int, file: Path, attempts: int) -> None:
        upload_file(self._connection, f"api/tickets/{ticket}/files/input", file, attempts)

    def _dropped(self, ticket: int) -> None:
        try:
            self.delete(ticket)
        except ServerError:
            return  # the error that brought us here says more; the ticket stays in `init`, where nothing happens to it

    def _polled(self, ticket: int, since: int, poll_s: float) -> Detail:
        for left in reversed(range(MISSES)):
            try:
                return self.detail(ticket, since=since)
            except (DSSUnreachable, DSSRefused) as error:
                if not left or (isinstance(error, DSSRefused) and not error.passing):
                    raise
                time.sleep(poll_s)
        raise AssertionError("the last poll returns or raises")


def upload_file(connection: Connection, place: str, file: Path, attempts: int) -> None:
    """Send one file, as ITK-SNAP does."""
    form = {"filename": file.name, "submit": "send"}
    connection.upload(place, file, form, mime_type="application/octet-stream", attempts=attempts)


def download_all(connection: Connection, place: str, files: list[FileRow], folder: Path) -> list[Path]:
    """Fetch files into a folder, made if need be."""
    target = result_folder(folder)
    for file in files:
        connection.download(f"{place}/{file.index}", target / file.filename)
    return [target / file.filename for file in files]


def _json(answer: Any) -> Any:
    try:
        return answer.json()
    except ValueError as exc:
        raise DSSAnswerError("What the server answered is not JSON; is this the address of a DSS server?") from exc


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as exc:
        raise DSSAnswerError("The server answered something else than the number expected.") from exc
