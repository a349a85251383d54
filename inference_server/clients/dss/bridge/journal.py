"""What a bridge has in hand, written down so that it outlives the process and the machine's power."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from inference_server.errors import BadRequest

_ENTRY = "entry.json"


@dataclass(frozen=True)
class Entry:
    """A ticket in hand.

    Attributes:
        ticket: its id on the DSS server.
        service: the hash of its service.
        key: with it the ticket becomes one task and no second one, however often it is submitted.
        uid: of that task, once it is known.
        events_seen: `seq` of the task's last event that the ticket's log has.
        noted: whether the log has what the task's report says in words.
    """

    ticket: int
    service: str
    key: str
    uid: str | None = None
    events_seen: int = 0
    noted: bool = False


def new_entry(ticket: int, service: str) -> Entry:
    """Return the entry of a ticket that was just claimed."""
    return Entry(ticket, service, uuid.uuid4().hex)


class Journal:
    """A folder, private to its owner, with one folder for each ticket in hand. One bridge at a time may have it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Journal]:
        """Give the journal of a folder, made if need be, for the length of a `with` block.

        Raises:
            BadRequest: another bridge has it, or the folder cannot be used.
        """
        lock = _locked(folder)
        try:
            yield cls(folder)
        finally:
            os.close(lock)

    def entries(self) -> list[Entry]:
        """Return the tickets in hand, the oldest first; what is left of ended ones is removed."""
        found = []
        for folder in self._folder.iterdir():
            if (folder / _ENTRY).is_file():
                found.append(Entry(**json.loads((folder / _ENTRY).read_text())))
            elif folder.is_dir():
                shutil.rmtree(folder)
        return sorted(found, key=lambda entry: entry.ticket)

    def write(self, entry: Entry) -> None:
        """Write an entry down, in the place of the one before; when this returns, it is on the disk."""
        folder = self.folder(entry.ticket)
        draft = folder / f"{_ENTRY}.new"
        with draft.open("w") as file:
            file.write(json.dumps(asdict(entry)))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / _ENTRY)
        _sync(folder)
        _sync(self._folder)

    def drop(self, ticket: int) -> None:
        """Forget a ticket and remove its files."""
        folder = self.folder(ticket)
        (folder / _ENTRY).unlink(missing_ok=True)
        shutil.rmtree(folder)

    def folder(self, ticket: int) -> Path:
        """Return the folder for a ticket's files."""
        folder = self._folder / str(ticket)
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder


def _locked(folder: Path) -> int:
    """Return an open file whose lock ends with the process, whatever ends it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as exc:
        raise BadRequest(f"The bridge's folder {folder} cannot be used: {exc.strerror}.") from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(lock)
        raise BadRequest(f"Another bridge works with the folder {folder}; give this one another.") from exc
    return lock


def _sync(folder: Path) -> None:
    """Put on the disk which files a folder has."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
