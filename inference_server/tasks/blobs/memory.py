"""Blobs in memory, for tests: only what is being written or read stands in a temporary file."""

from __future__ import annotations

import io
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from inference_server.errors import ResultGone


class MemoryBlobs:
    """A dictionary of blobs, gone with the object.

    Args:
        scratch: an empty folder for the files that are being written or read.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._blobs: dict[str, tuple[bytes, float]] = {}

    def stage(self) -> Path:
        """Return the path of a new empty file to write into; `put` or `discard` ends it."""
        path = self._scratch / uuid.uuid4().hex
        path.touch(mode=0o600)
        return path

    def put(self, staged: Path) -> str:
        """Keep a staged file and return its key. The staged path is gone afterwards."""
        self._blobs[staged.name] = (staged.read_bytes(), time.time())
        staged.unlink()
        return staged.name

    def discard(self, staged: Path) -> None:
        """Remove a staged file, if it is still there."""
        staged.unlink(missing_ok=True)

    def open(self, key: str) -> BinaryIO:
        """Open a blob for reading.

        Raises:
            ResultGone: there is no such blob.
        """
        if key not in self._blobs:
            raise ResultGone
        return io.BytesIO(self._blobs[key][0])

    @contextmanager
    def as_file(self, key: str) -> Iterator[Path]:
        """Give a blob as a file for the length of a `with` block. The file must not be changed."""
        with self.open(key) as blob:
            path = self._scratch / f"{uuid.uuid4().hex}.blob"
            path.write_bytes(blob.read())
        try:
            yield path
        finally:
            path.unlink()

    def delete(self, key: str) -> None:
        """Remove a blob; nothing happens if it is gone already."""
        self._blobs.pop(key, None)
        if key.isalnum():
            (self._scratch / key).unlink(missing_ok=True)

    def older_than(self, age_s: float) -> list[str]:
        """Return the keys of blobs and staged files older than `age_s` seconds."""
        before = time.time() - age_s
        staged = {path.name: path.stat().st_mtime for path in self._scratch.iterdir() if not path.suffix}
        times = staged | {key: since for key, (_, since) in self._blobs.items()}
        return [key for key, since in times.items() if since < before]

    def abandoned(self) -> list[str]:
        """Return nothing: all of it ends with the process."""
        return []

    def free_bytes(self) -> int | None:
        """Return None: there is no limit."""
        return None
