"""Waiting for a task to change: one thread per process watches the records for all who wait."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from inference_server.errors import StoreUnavailable
from inference_server.tasks.record import Status, Task
from inference_server.tasks.store import Store

log = logging.getLogger(__name__)

SQLITE_POLL_S = 0.004
"""SQLite counts the commits of others; reading that number takes microseconds."""
QUERY_POLL_S = 0.02
"""Elsewhere the tasks themselves are asked for."""
REST = 3.0
"""Rest after a look at the records, as a multiple of its time, which grows with the number of those who wait."""
PAUSE_S = 1.0
"""Rest after an error of the database."""


@dataclass(frozen=True, eq=False)
class _Waiter:
    uid: str
    revision: int | None
    """The one that is known; None waits for the end."""
    wake: Callable[[], object]

    def is_due(self, state: tuple[int, Status] | None) -> bool:
        """Whether what is waited for has happened, seeing a task's state, None for one that is gone."""
        if state is None:
            return True
        revision, status = state
        return status.ended if self.revision is None else revision != self.revision


class Watcher:
    """Lets requests wait for tasks. While nobody waits, its thread sleeps and costs nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._condition = threading.Condition()
        self._waiters: set[_Waiter] = set()
        self._thread: threading.Thread | None = None
        self._is_news = False

    def wait(self, uid: str, revision: int, timeout_s: float) -> Task:
        """Return a task as soon as its revision is another than `revision`, or after `timeout_s` as it is then.

        Raises:
            UnknownTask: there is none of this UID, or it was deleted meanwhile.
            StoreUnavailable: the database cannot be reached.
        """
        task = self._store.get(uid)
        if task.revision != revision or timeout_s <= 0:
            return task
        changed = threading.Event()
        with self.noticed(uid, changed.set, revision=revision):
            changed.wait(timeout_s)
        return self._store.get(uid)

    @contextmanager
    def noticed(self, uid: str, wake: Callable[[], object], *, revision: int | None = None) -> Iterator[None]:
        """Have a function called once a task has another revision than is known, or once it has ended, or it is gone.

        Args:
            uid: the task's.
            revision: the one that is known; without one, only the end is waited for.
            wake: called in the watching thread, within the `with` block and perhaps a moment after it, and perhaps
                more than once; returns at once.
        """
        waiter = _Waiter(uid, revision, wake)
        self._register(waiter)
        try:
            yield
        finally:
            with self._condition:
                self._waiters.discard(waiter)

    def _register(self, waiter: _Waiter) -> None:
        with self._condition:
            self._waiters.add(waiter)
            self._is_news = True
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="task-watcher", daemon=True)
                self._thread.start()
            self._condition.notify()

    def _run(self) -> None:
        while True:
            try:
                self._watch()
            except StoreUnavailable:
                log.warning("cannot watch the records")
                time.sleep(PAUSE_S)

    def _watch(self) -> None:
        database = self._store.database
        with database.commit_counter() as counter:
            period_s = SQLITE_POLL_S if database.is_sqlite else QUERY_POLL_S
            seen: int | None = None
            while True:
                is_news, count = self._sleep_until_waited_for(), counter()
                began = time.monotonic()
                if is_news or count is None or count != seen:
                    seen = count
                    self._wake_changed()
                time.sleep(max(period_s, REST * (time.monotonic() - began)))

    def _sleep_until_waited_for(self) -> bool:
        with self._condition:
            self._condition.wait_for(lambda: bool(self._waiters))
            is_news, self._is_news = self._is_news, False
            return is_news

    def _wake_changed(self) -> None:
        with self._condition:
            waiters = list(self._waiters)
        states = self._store.states({waiter.uid for waiter in waiters})
        for waiter in waiters:
            if waiter.is_due(states.get(waiter.uid)):
                waiter.wake()
