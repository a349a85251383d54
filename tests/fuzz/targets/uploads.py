"""Forms of uploads."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, cast

from door_support import BOUNDARY, form, part
from flask import Request
from werkzeug.test import EnvironBuilder

from fuzz.noise import damage
from fuzz.target import Target, expect
from inference_server.api.upload import TEXT_LIMIT_BYTES, Parts, received
from inference_server.tasks.service import Tasks

PARTS = Parts(files=frozenset({"case", "image"}), texts=frozenset({"model", "priority"}))
LIMIT_BYTES = 48 * 1024
EDGE = f"--{BOUNDARY}".encode()
PIECES = (
    EDGE, EDGE + b"--", EDGE + b"\r\n", b"\r\n", b"\n", b"\r", b"--", b"\r\n\r\n", b"; ", b'"', b"\\", b"\0", b"\xff",
    b'Content-Disposition: form-data; name="case"; filename="', b"Content-Disposition: form-data; name*=utf-8''%ff",
    b'name="model"', b"Content-Type: text/plain; charset=utf-7", b"Content-Transfer-Encoding: base64",
    b"Content-Length: 99999999999", b"filename*=UTF-16''%00", b": ", b" " * 300, b"\r\n" * 900, b"-" * 3000,
)  # fmt: skip


@dataclass
class Staging:
    """Stands in for `Tasks` where only staged files are wanted."""

    folder: Path
    staged: list[Path] = field(default_factory=list)

    def stage(self) -> Path:
        """Return a new file."""
        self.staged.append(self.folder / f"staged-{len(self.staged)}")
        self.staged[-1].touch()
        return self.staged[-1]

    def discard(self, path: Path) -> None:
        """Remove a file."""
        path.unlink(missing_ok=True)

    def ensure_room(self, _size_bytes: int = 0) -> None:
        """There is room."""


def seeds() -> list[bytes]:
    """Return forms as clients send them."""
    forms = (
        form(part("model", "ct-body"), part("case", b"PK\x03\x04" + bytes(50), "case.zip")),
        form(part("case", b"one\r\n--not the end", "")),
        form(part("image", b"1" * 300, "a.nii"), part("image", b"2", "ü.nii"), part("priority", "urgent")),
        form(),
    )
    return [made["data"] for made in forms]


def receive(content: bytes, folder: Path) -> str:
    """Receive a form; whatever comes of it, its files are gone afterwards."""
    staging = Staging(folder)
    with received(posted(content), cast(Tasks, staging), PARTS, limit_bytes=LIMIT_BYTES) as upload:
        paths = [path for found in upload.files.values() for path in found]
        expect(set(upload.files) <= PARTS.files, "a file that nobody takes")
        expect(set(upload.texts) <= PARTS.texts, "a text that nobody takes")
        expect(all(len(text) <= TEXT_LIMIT_BYTES for text in upload.texts.values()), "a text that is too long")
        expect(sum(path.stat().st_size for path in paths) <= len(content), "more came out than went in")
    return f"{len(paths)} files, {len(upload.texts)} texts"


def mutate(content: bytes, random: Random) -> bytes:
    """Put a piece that means something anywhere, or damage bytes."""
    if random.random() < 0.4:
        return damage(content, random)
    at = random.randrange(len(content) + 1)
    upto = at + random.choice((0, 0, 1, 2, 40))
    return content[:at] + random.choice(PIECES) * random.choice((1, 1, 1, 2, 40)) + content[upto:]


def posted(content: bytes) -> Request:
    """Return the request that posts a form."""
    environ: dict[str, Any] = EnvironBuilder("/", method="POST").get_environ()
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    sent = {"wsgi.input": io.BytesIO(content), "CONTENT_LENGTH": str(len(content)), "CONTENT_TYPE": kind}
    return Request({**environ, **sent})


UPLOAD = Target("upload", seeds, receive, mutate)
