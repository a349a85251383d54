"""Staged files: what a process of this machine writes or reads at the moment, in a folder that others see into."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inference_server.errors import StorageFull, StoreUnavailable

KEY = re.compile(r"[0-9a-f]{32}")
"""A blob's name: random, so that nobody can guess it."""
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


class Staging:
    """A folder of staged files, readable by their owner only.

    A file's name is the key of the blob that it may become. While it is staged it is locked, which the kernel undoes
    when the process ends: that tells what a crash has left from what is being written.

    Args:
        folder: made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._locks: dict[Path, int] = {}
        with disk_errors():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def stage(self) -> Path:
        """Return the path of a new empty file; `unlock` or `discard` ends it."""
        path = self._folder / uuid.uuid4().hex
        with disk_errors():
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._locks[path] = descriptor
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        return path

    def key(self, staged: Path) -> str:
        """Return the key of a staged file.

        Raises:
            ValueError: it was not staged here.
        """
        if staged.parent != self._folder or not KEY.fullmatch(staged.name):
            raise ValueError(f"{staged.name} is not a file that was staged here")
        return staged.name

    def unlock(self, staged: Path) -> None:
        """Let go of a staged file that has become a blob."""
        if (descriptor := self._locks.pop(staged, None)) is not None:
            os.close(descriptor)

    def discard(self, staged: Path) -> None:
        """Remove a staged file, if it is still there."""
        self.key(staged)
        with disk_errors():
            staged.unlink(missing_ok=True)
        self.unlock(staged)

    def delete(self, key: str) -> None:
        """Remove a staged file, whoever staged it."""
        with disk_errors():
            (self._folder / key).unlink(missing_ok=True)

    def older_than(self, age_s: float) -> list[str]:
        """Return the keys of staged files older than `age_s` seconds."""
        with disk_errors():
            return names_before(self._folder, time.time() - age_s)

    def abandoned(self) -> list[str]:
        """Return the keys of staged files whose process has ended."""
        with disk_errors():
            return [path.name for path in self._folder.iterdir() if _is_abandoned(path)]

    def free_bytes(self) -> int:
        """Return the free space of the folder's disk."""
        with disk_errors():
            return shutil.disk_usage(self._folder).free


def names_before(folder: Path, before: float) -> list[str]:
    """Return the names of a folder's files that were written before a time, and whose names are keys."""
    with os.scandir(folder) as files:
        return [file.name for file in files if KEY.fullmatch(file.name) and _is_older(file, before)]


def _is_older(file: os.DirEntry[str], before: float) -> bool:
    try:
        return file.stat(follow_symlinks=False).st_mtime < before
    except FileNotFoundError:
        return False


def _is_abandoned(staged: Path) -> bool:
    """A file that was made a moment ago may not be locked yet."""
    try:
        with staged.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return os.fstat(file.fileno()).st_ctime < time.time() - LOCKING_S
    except (BlockingIOError, FileNotFoundError):
        return False
