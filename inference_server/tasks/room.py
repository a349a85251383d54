"""Room on the disk for a result: what was computed is not thrown away because there is none at the moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from inference_server.errors import InferenceServerError, StorageFull, StoreUnavailable

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 4.0
"""Shorter than what a cancelled task is left to notice it."""
WAITING = "The result cannot be stored at the moment: the server waits for room on its disk."
FULL = (
    "The case was computed, but the server's disk has no room for the result. Ask its operator to free space, and then "
    "try the task again."
)
AWAY = "The case was computed, but the server could not store the result. Try the task again."

Written = TypeVar("Written")


class Waiting(Protocol):
    """What is needed of the task's `Keeper`."""

    def cancelled(self) -> bool:
        """Whether the result is for nobody any more."""

    def event(self, level: str, text: str) -> None:
        """Add a line to the task's log."""

    def excuse(self, seconds: float) -> None:
        """Leave some seconds out of the task's time limit."""


def when_there_is_room(write: Callable[[], Written], keeper: Waiting, *, limit_s: float) -> Written:
    """Store a result; where the disk does not take it, try again, less and less often, until it does.

    The task keeps its claim meanwhile: whoever computed it anew would need the same room. The wait is not part of the
    task's time limit.

    Args:
        write: stores the result and leaves nothing behind where it cannot.
        keeper: of the task.
        limit_s: the longest wait.

    Raises:
        StorageFull, StoreUnavailable: there was no room until then, or the task was cancelled.
    """
    until, pause_s = time.monotonic() + limit_s, FIRST_PAUSE_S
    while True:
        try:
            return write()
        except (StorageFull, StoreUnavailable) as exc:
            if keeper.cancelled() or time.monotonic() + pause_s > until:
                raise _given_up(exc) from exc
        if pause_s == FIRST_PAUSE_S:
            log.warning("no room for a result; waiting for it", extra={"limit_s": limit_s})
            keeper.event("warning", WAITING)
        keeper.excuse(pause_s)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _given_up(error: InferenceServerError) -> InferenceServerError:
    return StorageFull(FULL) if isinstance(error, StorageFull) else StoreUnavailable(AWAY)
