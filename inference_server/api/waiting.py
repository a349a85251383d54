"""Requests that wait for a task to change, in a bounded number of threads and for a bounded time."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from inference_server.tasks.record import Task

SLICE_S = 1.0
"""Longest wait in one piece: a stopping server releases its waiting requests within this time."""


class Watcher(Protocol):
    """What tells of changes; see `tasks.watch`."""

    def wait(self, uid: str, revision: int, timeout_s: float) -> Task:
        """Return the task as soon as its revision is another one, at the latest after `timeout_s`."""


class Waits:
    """Lets requests wait. Safe to use from many threads."""

    def __init__(self, watcher: Watcher, *, slots: int, limit_s: float) -> None:
        """Take a watcher.

        Args:
            watcher: tells of changes.
            slots: how many requests may wait at a time; all others are answered at once.
            limit_s: longest wait of one request.
        """
        self._watcher = watcher
        self._slots = threading.BoundedSemaphore(slots)
        self._limit_s = limit_s
        self._released = threading.Event()

    def release(self) -> None:
        """End all waits, and let no request wait any more: the server stops."""
        self._released.set()

    def changed(self, task: Task, *, revision: int | None, wait_s: float) -> Task:
        """Return the task once it has changed, or as it is after `wait_s` seconds.

        Args:
            task: as it is.
            revision: the one that the client has; None waits for another status than the present one.
            wait_s: as the client wishes; the server's limit holds. A task that has ended is not waited for.

        Raises:
            UnknownTask: it was deleted meanwhile.
        """
        if wait_s <= 0 or not self._slots.acquire(blocking=False):
            return task
        try:
            return self._wait(task, revision, time.monotonic() + min(wait_s, self._limit_s))
        finally:
            self._slots.release()

    def ended(self, task: Task, *, wait_s: float) -> Task:
        """Return the task once it has ended, or as it is after `wait_s` seconds, or at once where all slots are taken.

        For clients that cannot say how long they wait: the limit on one request does not hold here.

        Raises:
            UnknownTask: it was deleted meanwhile.
        """
        if wait_s <= 0 or not self._slots.acquire(blocking=False):
            return task
        deadline = time.monotonic() + wait_s
        try:
            while not task.status.ended and not self._released.is_set() and time.monotonic() < deadline:
                task = self._wait(task, task.revision, deadline)
            return task
        finally:
            self._slots.release()

    def _wait(self, task: Task, revision: int | None, deadline: float) -> Task:
        seen, before = task, task.status
        while not self._released.is_set() and not seen.status.ended:
            left_s = deadline - time.monotonic()
            news = seen.status is not before if revision is None else seen.revision != revision
            if news or left_s <= 0:
                break
            seen = self._watcher.wait(seen.uid, seen.revision, min(left_s, SLICE_S))
        return seen
