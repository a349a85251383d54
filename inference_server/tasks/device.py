"""One computation per device at a time, whoever it belongs to: a lock between processes that their death frees."""

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
    """An flock on a file that stands for a device of this machine.

    The kernel frees it when its holder ends, however that happens. A waiting task polls instead of blocking in the
    kernel, so that cancelling it does not cost its warm process.

    Args:
        folder: where the lock files are; the same for all workers of a machine.
        device: what tells the device from the others of its machine, as `models.device_id` has it.
    """

    def __init__(self, folder: Path, device: str) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', device)}.lock"

    @contextmanager
    def hold(self, cancelled: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Wait for the device and hold it for the length of a `with` block.

        Raises:
            Cancelled: `cancelled` said so before the device was free.
        """
        with self._path.open("ab") as file:
            while not _try_lock(file):
                if cancelled():
                    raise Cancelled
                time.sleep(POLL_S)
            yield


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
