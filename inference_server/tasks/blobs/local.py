"""Blobs in a folder of this machine: `staging/KEY` while written, `KE/KEY` once durable."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from inference_server.errors import ResultGone
from inference_server.tasks.blobs.staging import KEY, Staging, disk_errors, names_before


class LocalBlobs:
    """Files in a folder, readable by their owner only.

    A key is a file's name from the moment it is staged, so that a staged file left by a crash is found and removed like
    any other blob.

    Args:
        folder: made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        with disk_errors():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._staging = Staging(self._folder / "staging")

    def stage(self) -> Path:
        """Return the path of a new empty file to write into; `put` or `discard` ends it."""
        return self._staging.stage()

    def put(self, staged: Path) -> str:
        """Make a staged file durable (fsync) and return its key. The staged path is gone afterwards."""
        key = self._staging.key(staged)
        target = self._path(key)
        with disk_errors():
            _sync_file(staged)
            if not target.parent.exists():
                target.parent.mkdir(exist_ok=True, mode=0o700)
                _sync_folder(self._folder)
            staged.rename(target)
            _sync_folder(target.parent)
        self._staging.unlock(staged)
        return key

    def discard(self, staged: Path) -> None:
        """Remove a staged file, if it is still there."""
        self._staging.discard(staged)

    def open(self, key: str) -> BinaryIO:
        """Open a blob for reading; it can be read to its end although it is deleted meanwhile.

        Raises:
            ResultGone: there is no such blob.
        """
        with disk_errors():
            try:
                return self._path(key).open("rb")
            except FileNotFoundError as exc:
                raise ResultGone from exc

    @contextmanager
    def as_file(self, key: str) -> Iterator[Path]:
        """Give a blob as a local file for the length of a `with` block. The file must not be changed."""
        path = self._path(key)
        if not path.is_file():
            raise ResultGone
        yield path

    def delete(self, key: str) -> None:
        """Remove a blob; nothing happens if it is gone already."""
        with suppress(ResultGone), disk_errors():
            self._path(key).unlink(missing_ok=True)
            self._staging.delete(key)

    def older_than(self, age_s: float) -> list[str]:
        """Return the keys of blobs and staged files older than `age_s` seconds."""
        before = time.time() - age_s
        with disk_errors():
            folders = [folder for folder in self._folder.iterdir() if folder.is_dir()]
            return [name for folder in folders for name in names_before(folder, before)]

    def abandoned(self) -> list[str]:
        """Return the keys of staged files whose process has ended."""
        return self._staging.abandoned()

    def free_bytes(self) -> int | None:
        """Return the free space of the folder's disk."""
        return self._staging.free_bytes()

    def _path(self, key: str) -> Path:
        if not KEY.fullmatch(key):
            raise ResultGone
        return self._folder / key[:2] / key


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        # The age of a blob counts from here: one that took long to write must not look like an orphan at once.
        os.utime(file.fileno())
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
