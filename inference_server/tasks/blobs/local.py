"""Blobs in a folder of this machine: `staging/KEY` while written, `KE/KEY` once durable."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from inference_server.errors import ResultGone, StorageFull, StoreUnavailable

_KEY = re.compile(r"[0-9a-f]{32}")
LOCKING_S = 10.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn errors of the disk into `StorageFull` or `StoreUnavailable`; for whoever writes into a staged file, too."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise StorageFull from exc
        raise StoreUnavailable("The server cannot use its file storage at the moment; try again.") from exc


class LocalBlobs:
    """Files in a folder, readable by their owner only.

    A key is 32 random hexadecimal digits and the file's name from the moment it is staged, so that a staged file left
    by a crash is found and removed like any other blob. While it is staged it is locked, which the kernel undoes when
    the process ends: that tells what a crash has left from what is being written.

    Args:
        folder: made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._staging = self._folder / "staging"
        self._locks: dict[Path, int] = {}
        with disk_errors():
            for private in (self._folder, self._staging):
                private.mkdir(parents=True, exist_ok=True, mode=0o700)

    def stage(self) -> Path:
        """Return the path of a new empty file to write into; `put` or `discard` ends it."""
        path = self._staging / uuid.uuid4().hex
        with disk_errors():
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._locks[path] = descriptor
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        return path

    def put(self, staged: Path) -> str:
        """Make a staged file durable (fsync) and return its key. The staged path is gone afterwards."""
        key = self._staged_key(staged)
        target = self._path(key)
        with disk_errors():
            _sync_file(staged)
            if not target.parent.exists():
                target.parent.mkdir(exist_ok=True, mode=0o700)
                _sync_folder(self._folder)
            staged.rename(target)
            _sync_folder(target.parent)
        self._unlock(staged)
        return key

    def discard(self, staged: Path) -> None:
        """Remove a staged file, if it is still there."""
        self._staged_key(staged)
        with disk_errors():
            staged.unlink(missing_ok=True)
        self._unlock(staged)

    def open(self, key: str) -> BinaryIO:
        """Open a blob for reading.

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
            (self._staging / key).unlink(missing_ok=True)

    def older_than(self, age_s: float) -> list[str]:
        """Return the keys of blobs and staged files older than `age_s` seconds."""
        before = time.time() - age_s
        with disk_errors():
            return [file.name for file in self._files() if _is_older(file, before)]

    def abandoned(self) -> list[str]:
        """Return the keys of staged files whose process has ended."""
        with disk_errors():
            return [path.name for path in self._staging.iterdir() if _is_abandoned(path)]

    def free_bytes(self) -> int | None:
        """Return the free space of the folder's disk."""
        with disk_errors():
            return shutil.disk_usage(self._folder).free

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ResultGone
        return self._folder / key[:2] / key

    def _unlock(self, staged: Path) -> None:
        if (descriptor := self._locks.pop(staged, None)) is not None:
            os.close(descriptor)

    def _staged_key(self, staged: Path) -> str:
        if staged.parent != self._staging or not _KEY.fullmatch(staged.name):
            raise ValueError(f"{staged.name} is not a file that was staged here")
        return staged.name

    def _files(self) -> Iterator[os.DirEntry[str]]:
        for folder in self._folder.iterdir():
            if folder.is_dir():
                with os.scandir(folder) as files:
                    yield from (file for file in files if _KEY.fullmatch(file.name))


def _is_abandoned(staged: Path) -> bool:
    """A file that was made a moment ago may not be locked yet."""
    try:
        with staged.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return os.fstat(file.fileno()).st_ctime < time.time() - LOCKING_S
    except (BlockingIOError, FileNotFoundError):
        return False


def _is_older(file: os.DirEntry[str], before: float) -> bool:
    try:
        return file.stat(follow_symlinks=False).st_mtime < before
    except FileNotFoundError:
        return False


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
