"""Multipart uploads, streamed: each file part goes straight into a staged blob file; there is no second copy."""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

from flask import Request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData
from werkzeug.wsgi import get_input_stream

from inference_server.errors import BadRequest, MalformedMessage, TooLarge
from inference_server.imaging.sizes import size_text
from inference_server.settings import MIB
from inference_server.tasks.blobs.staging import disk_errors
from inference_server.tasks.service import Tasks

PIECE_BYTES = 96 * 1024
"""Below the size (128 KiB) from which the C library maps fresh pages for every buffer, which halves the speed."""
TEXT_LIMIT_BYTES = 64 * 1024
PART_LIMIT = 32
ROOM_STEP_BYTES = 64 * MIB
LINGER_S = 5.0

BROKEN_STREAM = (OSError, ParseException, HTTPException)
"""What reading a body raises when the client is gone or its chunks are not chunks."""


Decode = Callable[[str, Iterator[bytes]], Iterable[bytes]]
"""Makes what is saved of what was sent in a part, given the part's name."""


def _as_sent(_name: str, data: Iterator[bytes]) -> Iterable[bytes]:
    return data


@dataclass(frozen=True)
class Parts:
    """The parts that a route takes, by name: files, and texts of at most 64 KiB.

    Attributes:
        files: go to the disk.
        texts: go to memory.
        decode: of files.
        limit: most parts.
        others_pass: whether parts of other names are passed over, unread; else they are refused.
    """

    files: frozenset[str]
    texts: frozenset[str] = frozenset()
    decode: Decode = _as_sent
    limit: int = PART_LIMIT
    others_pass: bool = False


class Upload:
    """What a multipart body held. Its files are staged ones, and gone when `received` ends unless they were taken.

    `file_names` has, by part, what the client called the last file of that name.
    """

    def __init__(self, tasks: Tasks) -> None:
        self.files: defaultdict[str, list[Path]] = defaultdict(list)
        self.file_names: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        self._tasks = tasks
        self._staged: list[Path] = []

    def stage(self) -> Path:
        """Return a new staged file that is removed with the upload's own ones."""
        self._staged.append(self._tasks.stage())
        return self._staged[-1]

    def discard(self) -> None:
        """Remove every staged file that nobody took."""
        for path in self._staged:
            self._tasks.discard(path)


@contextmanager
def received(request: Request, tasks: Tasks, parts: Parts, *, limit_bytes: int) -> Iterator[Upload]:
    """Receive a multipart body for the length of a `with` block.

    Memory does not grow with the body. Whatever goes wrong, in here or in the block, no staged file is left.

    Args:
        request: its body has not been touched.
        tasks: gives staged files and knows how much room there is.
        parts: what the route takes.
        limit_bytes: largest body; one that announces more is refused before any of it is read.

    Raises:
        MalformedMessage: the body is not multipart/form-data, or ends early.
        BadRequest: a part that the route does not take, or a text given twice.
        TooLarge: the body, a text or the number of parts passes its limit.
        StorageFull: the disk has no room for it.
    """
    with staging(tasks) as upload:
        pieces = body(request, tasks, limit_bytes=limit_bytes)
        _receive(upload, parts, _events(_boundary(request), pieces))
        yield upload


@contextmanager
def staging(tasks: Tasks) -> Iterator[Upload]:
    """Give an upload whose staged files are gone at the end of the `with` block, unless they were taken."""
    upload = Upload(tasks)
    try:
        yield upload
    finally:
        upload.discard()


def body(request: Request, tasks: Tasks, *, limit_bytes: int) -> Iterator[bytes]:
    """Return the pieces of a body of any kind.

    Raises:
        TooLarge: it announces more than `limit_bytes`, or has more.
        StorageFull: the disk has no room for it.
        MalformedMessage: while it is read: it ends early.
    """
    _refuse_early(request, tasks, limit_bytes)
    return _pieces(request, tasks, limit_bytes)


@contextmanager
def at_part(name: str) -> Iterator[None]:
    """Name the part of the form in refusals of its content that name no field."""
    try:
        yield
    except (BadRequest, TooLarge) as exc:
        exc.field = exc.field or name
        raise


def linger(request: Request) -> None:
    """Read on for a moment after an answer that came before the end of an upload.

    Most clients listen only once they have sent everything. Closed at once, they would see a broken connection in
    place of the reason for the refusal.
    """
    connection: socket.socket | None = request.environ.get("gunicorn.socket")
    if connection is None:
        return
    deadline = time.monotonic() + LINGER_S
    with suppress(*BROKEN_STREAM):
        while (left_s := deadline - time.monotonic()) > 0:
            connection.settimeout(left_s)
            if not request.environ["wsgi.input"].read(PIECE_BYTES):
                return


def _refuse_early(request: Request, tasks: Tasks, limit_bytes: int) -> None:
    announced = request.content_length or 0
    if announced > limit_bytes:
        raise _too_large(limit_bytes)
    tasks.ensure_room(announced)


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"The upload is larger than the {size_text(limit_bytes)} that this server takes.")


def _boundary(request: Request) -> bytes:
    boundary = request.mimetype_params.get("boundary", "")
    if request.mimetype != "multipart/form-data" or not boundary or not boundary.isascii():
        raise MalformedMessage("The body must be a form of the type multipart/form-data, with its boundary.")
    return boundary.encode("ascii")


def _pieces(request: Request, tasks: Tasks, limit_bytes: int) -> Iterator[bytes]:
    stream = get_input_stream(request.environ)
    total = 0
    while piece := _read(stream):
        before, total = total, total + len(piece)
        if total > limit_bytes:
            raise _too_large(limit_bytes)
        if before // ROOM_STEP_BYTES != total // ROOM_STEP_BYTES:
            tasks.ensure_room(0)
        yield piece


def _read(stream: IO[bytes]) -> bytes:
    try:
        return stream.read(PIECE_BYTES)
    except BROKEN_STREAM as exc:
        raise MalformedMessage("The connection ended before the upload was complete.") from exc


def _events(boundary: bytes, pieces: Iterable[bytes]) -> Iterator[Event]:
    decoder = MultipartDecoder(boundary, max_form_memory_size=8 * PIECE_BYTES)
    for piece in chain(pieces, (None,)):
        yield from _decoded(decoder, piece)


def _decoded(decoder: MultipartDecoder, piece: bytes | None) -> Iterator[Event]:
    """Yield the events that are complete with this piece; the decoder's own errors become ours."""
    try:
        decoder.receive_data(piece)
        while not isinstance(event := decoder.next_event(), NeedData | Epilogue):
            yield event
    except (ValueError, HTTPException) as exc:
        raise MalformedMessage("The form is incomplete, or is not what its boundary says.") from exc


def _receive(upload: Upload, parts: Parts, events: Iterator[Event]) -> None:
    for count, (name, data) in enumerate(_named(events, upload), start=1):
        if count > parts.limit:
            raise TooLarge(f"The form has more than {parts.limit} parts.")
        if name in parts.files:
            upload.files[name].append(save(parts.decode(name, data), upload.stage()))
        elif name in parts.texts and name not in upload.texts:
            upload.texts[name] = _text(name, data)
        elif name in parts.texts or not parts.others_pass:
            raise _unexpected(name, parts)


def _named(events: Iterator[Event], upload: Upload) -> Iterator[tuple[str, Iterator[bytes]]]:
    # A part's name decides what it is: clients leave the file name out, or give one to a text.
    for event in events:
        if isinstance(event, File | Field):
            if isinstance(event, File):
                upload.file_names[event.name or ""] = event.filename
            yield event.name or "", _data(events)


def _data(events: Iterator[Event]) -> Iterator[bytes]:
    for event in events:
        if isinstance(event, Data):
            yield event.data
            if not event.more_data:
                return


def save(data: Iterable[bytes], path: Path) -> Path:
    """Write pieces into a staged file.

    Raises:
        StorageFull: the disk has no room for them.
        StoreUnavailable: it cannot be written to.
    """
    with disk_errors(), path.open("wb") as file:
        file.writelines(data)
    return path


def _text(name: str, data: Iterable[bytes]) -> str:
    collected = bytearray()
    for piece in data:
        collected += piece
        if len(collected) > TEXT_LIMIT_BYTES:
            raise TooLarge(f"The form's '{name}' is longer than {TEXT_LIMIT_BYTES // 1024} KiB.", field=name)
    try:
        return collected.decode()
    except UnicodeDecodeError as exc:
        raise BadRequest(f"The form's '{name}' must be text in UTF-8.", field=name) from exc


def _unexpected(name: str, parts: Parts) -> BadRequest:
    shown = name[:50]
    if name in parts.texts:
        return BadRequest(f"The form has more than one '{shown}'; one is taken.", field=shown)
    known = ", ".join(sorted(parts.files | parts.texts))
    return BadRequest(f"The form has a part '{shown}' that is not known here. Its parts: {known}.", field=shown)
