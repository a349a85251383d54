"""Faults that take away what the server needs: its disk, its database; and models that do not behave."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from chaos.arena import Arena, Hit
from chaos.killings import Strike

BLOCK_BYTES = 1 << 20
FILE_LIMIT_BYTES = 4096
"""Less than a case, a result, or any page of the records that is not among the first."""
LOW_BYTES = 32 << 20
"""The low-water mark of the run, on a disk of `DISK_BYTES`."""
DISK_BYTES = 192 << 20

_LOCKER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


def database_locked(arena: Arena) -> Hit:
    """Let another process hold the database's write lock."""
    running = arena.moment()
    command = [sys.executable, "-c", _LOCKER, str(arena.data / "records.sqlite")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as locker:
        assert locker.stdout is not None
        locker.stdout.readline()
        lasted_s = arena.pause()
        locker.communicate()
    return Hit("database_locked", tuple(held.uid for held in running), f"{lasted_s:.1f} s")


def file_limit(arena: Arena) -> Hit:
    """Let no process of ours write a file beyond a few kilobytes, which fails as a full disk does."""
    running = arena.moment()
    _limit_files(arena, FILE_LIMIT_BYTES)
    try:
        lasted_s = arena.pause()
    finally:
        _limit_files(arena, resource.RLIM_INFINITY)
    return Hit("file_limit", tuple(held.uid for held in running), f"{lasted_s:.1f} s")


def _limit_files(arena: Arena, limit_bytes: int) -> None:
    for process in arena.site.processes():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if "redis" not in process.name():
                _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit_bytes, hard))


def disk(kind: str, leave_bytes: int) -> Strike:
    """Return the fault that fills the disk until so much is free."""

    def strike(arena: Arena) -> Hit:
        running = arena.moment()
        with _ballast(arena.data, leave_bytes):
            lasted_s = arena.pause()
        return Hit(kind, tuple(held.uid for held in running), f"{lasted_s:.1f} s")

    return strike


@contextmanager
def _ballast(folder: Path, leave_bytes: int) -> Iterator[None]:
    path = folder / "ballast"
    try:
        with path.open("wb", buffering=0) as file, suppress(OSError):  # ENOSPC is what is wanted
            while (too_much := shutil.disk_usage(folder).free - leave_bytes) > 0:
                file.write(bytes(min(BLOCK_BYTES, too_much)))
        yield
    finally:
        path.unlink()


def model(kind: str) -> Strike:
    """Return the fault that sends a case to a model that does not behave; nobody waits for it."""

    def strike(arena: Arena) -> Hit:
        [uid] = arena.load.submit_all([arena.poison(kind)]).values()
        arena.poison_uids.append(uid)
        return Hit(f"model_{kind}", (uid,))

    return strike
