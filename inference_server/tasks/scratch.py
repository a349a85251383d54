"""Temporary files of a worker's child: in a private folder of its own, which does not outlive it however it ends."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

SCRATCH = "scratch"
"""Its place in the data folder."""
_LOCK = ".lock"


class Scratch:
    """The folders of all children of a data folder.

    Each is held by a lock that the kernel frees with its process: whoever gets the lock of a folder knows that nobody
    uses it any more.

    Args:
        folder: made if need be, for its owner only.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: int | None = None

    def take(self) -> Path:
        """Make a folder for this process, have temporary files made in it from now on, and return it."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / uuid.uuid4().hex
        while self._held is None:
            self._held = _locked_anew(path.with_suffix(_LOCK))
        path.mkdir(mode=0o700)
        tempfile.tempdir = os.environ["TMPDIR"] = str(path)
        return path

    def sweep(self) -> None:
        """Remove the folders of processes that have ended."""
        for path in self._folder.glob(f"*{_LOCK}"):
            with path.open("ab") as lock:
                if _is_free(lock):
                    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                    path.unlink(missing_ok=True)
                    log.info("temporary files of an ended process removed")


def _locked_anew(path: Path) -> int | None:
    """Return a lock file, open for good and locked; None if a sweep took it for an old one meanwhile and removed it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    if path.exists() and path.stat().st_ino == os.fstat(lock).st_ino:
        return lock
    os.close(lock)
    return None


def _is_free(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
