"""Waiting for a task to change: one thread per process watches the records for all who wait."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field

from inference_server.errors import StoreUnavailable
from inference_server.tasks.record import Task
from inference_server.tasks.store import Store

log = logging.getLogger(__name__)

SQLITE_POLL_S = 0.004
"""SQLite counts the commits of others; reading that number takes microseconds."""
QUERY_POLL_S = 0.02
"""Elsewhere the revisions themselves are asked for."""
PAUSE_S = 1.0
"""Rest after an error of the database."""


@dataclass(eq=False)
class _Waiter:
    uid: str
    revision: int
    changed: threading.Event = field(default_factory=threading.Event)


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
        waiter = _Waiter(uid, revision)
        self._register(waiter)
        try:
            waiter.changed.wait(timeout_s)
        finally:
            with self._condition:
                self._waiters.discard(waiter)
        return self._store.get(uid)

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
                if is_news or count is None or count != seen:
                    seen = count
                    self._wake_changed()
                time.sleep(period_s)

    def _sleep_until_waited_for(self) -> bool:
        with self._condition:
            self._condition.wait_for(lambda: bool(self._waiters))
            is_news, self._is_news = self._is_news, False
            return is_news

    def _wake_changed(self) -> None:
        with self._condition:
            waiters = list(self._waiters)
        revisions = self._store.revisions({waiter.uid for waiter in waiters})
        for waiter in waiters:
            if revisions.get(waiter.uid) != waiter.revision:
                waiter.changed.set()
