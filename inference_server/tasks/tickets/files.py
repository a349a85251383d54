"""Files of tickets: bytes in blobs, names in rows."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from inference_server.errors import BadRequest, InferenceServerError, ResultGone, StoreUnavailable, TooLarge
from inference_server.tasks import audit
from inference_server.tasks.blobs import Blobs
from inference_server.tasks.caller import Caller
from inference_server.tasks.database import Database
from inference_server.tasks.tickets import rows
from inference_server.tasks.tickets.record import Area, TicketFile

logger = logging.getLogger(__name__)

FILE_LIMIT = 256
"""Most files in one area of a ticket."""
NAME_LIMIT_BYTES = 200
_UNFIT = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')

Check = Callable[[Connection], object]
"""Raises what speaks against a change, in the transaction of that change."""


class TicketFiles:
    """Keeps the files of tickets. Every method raises `StoreUnavailable` if records or files cannot be reached.

    Args:
        database: migrated.
        blobs: where files lie.
        file_limit: most files in one area of a ticket.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        *,
        file_limit: int = FILE_LIMIT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.database = database
        self.blobs = blobs
        self.clock = clock
        self._file_limit = file_limit

    def store(self, ticket_id: int, area: Area, name: str, staged: Path, *, check: Check) -> TicketFile:
        """Take a staged file, which is gone from its place afterwards; one of the same name is replaced.

        Args:
            ticket_id: the ticket's id.
            area: where it belongs.
            name: the file's.
            staged: as the blobs gave it.
            check: what it raises is raised.

        Raises:
            BadRequest: the name is not one of a file.
            TooLarge: the area has as many files as it may.
        """
        try:
            refuse_name(name)
            with self.database.reading() as connection:
                check(connection)
            size_bytes = staged.stat().st_size
            key = self.blobs.put(staged)
        finally:
            self.blobs.discard(staged)
        with self.kept(key), self.database.writing() as connection:
            check(connection)
            self._refuse_many(connection, ticket_id, area, name)
            replaced = rows.put_file(connection, ticket_id, area, name, blob=key, size_bytes=size_bytes)
            made = next(file for file in rows.files_of(connection, ticket_id, area) if file.blob == key)
        self.remove([replaced] if replaced else [])
        return made

    @contextmanager
    def kept(self, key: str) -> Iterator[None]:
        """Keep a blob only if the block that notes it succeeds.

        Where its commit was not acknowledged the record may be there: housekeeping decides about the blob then.
        """
        try:
            yield
        except StoreUnavailable:
            raise
        except InferenceServerError:
            self.remove([key])
            raise

    def given(self, connection: Connection, ticket_id: int, area: Area, number: int, caller: Caller) -> TicketFile:
        """Return a file, and note in the audit log that the caller is given it.

        Raises:
            BadRequest: there is no such file.
        """
        found = next((file for file in rows.files_of(connection, ticket_id, area) if file.number == number), None)
        if found is None:
            raise BadRequest("The ticket has no such file. Ask for the list of its files.")
        note(connection, caller, audit.Action.FETCHED, ticket_id, at=self.clock())
        return found

    def remove(self, keys: Collection[str]) -> None:
        """Remove blobs that no record refers to any more; what cannot be removed is left to housekeeping."""
        for key in keys:
            try:
                self.blobs.delete(key)
            except StoreUnavailable:
                logger.warning("blob left to housekeeping", exc_info=True)

    def _refuse_many(self, connection: Connection, ticket_id: int, area: Area, name: str) -> None:
        names = {file.name for file in rows.files_of(connection, ticket_id, area)}
        if name not in names and len(names) >= self._file_limit:
            raise TooLarge(f"A ticket takes {self._file_limit} files at most.")


def refuse_name(name: str) -> None:
    """Refuse what is not the bare name of a file on every system.

    Raises:
        BadRequest: the sentence says so, without the name.
    """
    size_bytes = len(name.encode())
    if _UNFIT.search(name) or name.strip(" .") != name.strip() or not name.strip() or size_bytes > NAME_LIMIT_BYTES:
        raise BadRequest(
            f"A file must have a bare name of {NAME_LIMIT_BYTES} bytes at most, without a path or control characters.",
            field="filename",
        )


def note(connection: Connection, caller: Caller, action: audit.Action, ticket_id: int, *, at: float) -> None:
    """Append a line to the audit log about a ticket; its name there is `ticket/<id>`."""
    audit.note(connection, caller, action, f"ticket/{ticket_id}", at=at)


def missing(what: str) -> ResultGone:
    """Return the refusal of what has been removed."""
    return ResultGone(f"There is no such {what}, or its ticket has been deleted.")
