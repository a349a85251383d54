"""Who computes on a device, whoever it belongs to: a lock between processes that their death frees."""

from __future__ import annotations

import fcntl
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from inference_server.errors import Cancelled

POLL_S = 0.01


class DeviceLock:
    """An flock on a file that stands for a device of this machine: held by one alone, or shared by some.

    Whoever came first goes first, which a second file sees to: those who share would otherwise let in others like them
    for ever, and nobody who wants the device alone. The kernel frees it when its holder ends, however that happens. A
    waiting task polls instead of blocking in the kernel, so that cancelling it does not cost its warm process.

    Args:
        folder: where the lock files are; the same for all workers of a machine.
        device: what tells the device from the others of its machine, as `models.device_id` has it.
    """

    def __init__(self, folder: Path, device: str) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = re.sub(r"[^A-Za-z0-9]+", "-", device)
        self._path, self._first = folder / f"{name}.lock", folder / f"{name}.first"

    @contextmanager
    def hold(self, cancelled: Callable[[], bool] = lambda: False, *, shared: bool = False) -> Iterator[None]:
        """Wait for the device and hold it for the length of a `with` block.

        Args:
            cancelled: asked while it waits whether to give up.
            shared: whether others who say so, too, may hold it at the same time.

        Raises:
            Cancelled: `cancelled` said so before the device was free.
        """
        with self._path.open("ab") as device:
            with self._first.open("ab") as first:
                _lock(first, fcntl.LOCK_EX, cancelled)
                _lock(device, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, cancelled)
            yield


def _lock(file: IO[bytes], kind: int, cancelled: Callable[[], bool]) -> None:
    while not _try_lock(file, kind):
        if cancelled():
            raise Cancelled
        time.sleep(POLL_S)


def _try_lock(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
