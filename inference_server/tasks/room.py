"""Waiting for the file storage: no task fails because it is full or away for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from inference_server.errors import InferenceServerError, StorageFull, StoreUnavailable

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 4.0
"""Shorter than what a cancelled task is left to notice it."""
Done = TypeVar("Done")


@dataclass(frozen=True)
class Words:
    """What a task's owner is told: that it waits, and that it has failed for want of room or of an answer."""

    waiting: str
    full: str
    away: str


WRITING = Words(
    "The result cannot be stored at the moment: the server waits for room on its disk.",
    "The case was computed, but the server's disk has no room for the result. Ask its operator to free space, and then "
    "try the task again.",
    "The case was computed, but the server could not store the result. Try the task again.",
)
READING = Words(
    "The case cannot be read at the moment: the server waits for its file storage.",
    "The server's disk has no room to read the case. Ask its operator to free space, and then try the task again.",
    "The server could not read the case from its file storage. Try the task again.",
)


class Waiting(Protocol):
    """What is needed of the task's `Keeper`."""

    def cancelled(self) -> bool:
        """Whether the result is for nobody any more."""

    def event(self, level: str, text: str) -> None:
        """Add a line to the task's log."""

    def excuse(self, seconds: float) -> None:
        """Leave some seconds out of the task's time limit."""


def when_there_is_room(work: Callable[[], Done], keeper: Waiting, *, limit_s: float, words: Words = WRITING) -> Done:
    """Store a result or read a case; where the storage does not let it, try again, less and less often, until it does.

    The task keeps its claim meanwhile: whoever computed it anew would need the same room. The wait is not part of the
    task's time limit.

    Args:
        work: stores or reads, and leaves nothing behind where it cannot.
        keeper: of the task.
        limit_s: the longest wait.
        words: what is said about it.

    Raises:
        StorageFull, StoreUnavailable: it was not possible until then, or the task was cancelled.
    """
    until, pause_s = time.monotonic() + limit_s, FIRST_PAUSE_S
    while True:
        try:
            return work()
        except (StorageFull, StoreUnavailable) as exc:
            if keeper.cancelled() or time.monotonic() + pause_s > until:
                raise _given_up(exc, words) from exc
        if pause_s == FIRST_PAUSE_S:
            log.warning("file storage full or away; waiting for it", extra={"limit_s": limit_s})
            keeper.event("warning", words.waiting)
        keeper.excuse(pause_s)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _given_up(error: InferenceServerError, words: Words) -> InferenceServerError:
    return StorageFull(words.full) if isinstance(error, StorageFull) else StoreUnavailable(words.away)
