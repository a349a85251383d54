"""The guardian: a thread in a worker's parent that returns what dead children held, and ends the worker in order."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from inference_server.errors import StoreUnavailable
from inference_server.settings import Settings
from inference_server.tasks.claims import Claims
from inference_server.tasks.presence import Presence
from inference_server.tasks.queue import send_turns
from inference_server.tasks.service import Turns
from inference_server.tasks.workers import WorkerState

log = logging.getLogger(__name__)

POLL_S = 0.1
KILL_LIMIT_S = 2.0
"""Longest wait for killed children; a process that hangs in a driver may not even heed SIGKILL at once."""

_FORK_GATE = threading.Lock()
"""Held while the guardian uses the records: a child forked at that moment would inherit SQLite's locked mutexes."""
os.register_at_fork(before=_FORK_GATE.acquire, after_in_parent=_FORK_GATE.release, after_in_child=_FORK_GATE.release)


class Guardian:
    """Watches the children of this process from a thread of its own, which works while Celery waits for its broker.

    Args:
        settings: of the worker.
        worker: its name.
        claims: for this thread alone.
        turns: to send turns for what goes back to the queue.
        presence: says in the records how the worker is.
        ready: called once with the worker's name when all children are warm.
    """

    def __init__(
        self,
        settings: Settings,
        worker: str,
        claims: Claims,
        turns: Turns,
        presence: Presence,
        ready: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._claims = claims
        self._turns = turns
        self._presence = presence
        self._ready = ready
        self._pid = os.getpid()
        self._inbox, self._outbox = os.pipe()
        self._unread = b""
        self._children: set[int] = set()
        self._warm: set[int] = set()
        self._is_ready = False
        self._owed = 0
        self._refused = False
        self._ending = False
        self._one_at_a_time = threading.Lock()
        self._drain_until: float | None = None

    def announce(self, what: str, pid: int, /, *facts: str | int) -> None:
        """Tell the guardian of a child: `up`, `warm`, `refused`, or of its warm models. Called in the child."""
        os.write(self._outbox, json.dumps([what, pid, *facts]).encode() + b"\n")

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, name="guardian", daemon=True).start()

    @property
    def draining(self) -> bool:
        """Whether the worker has begun to stop."""
        return self._drain_until is not None

    def drain(self) -> None:
        """Let the worker stop by itself, but not for longer than `drain_s`."""
        log.info("worker drains", extra={"worker": self._worker, "limit_s": self._settings.drain_s})
        self._drain_until = time.monotonic() + self._settings.drain_s

    def end(self, status: int = 0) -> NoReturn:
        """End the children, hand back what they held, and end this process.

        To be called in the main thread, which starts children: none can be added meanwhile.
        """
        if os.getpid() != self._pid:  # a signal that reached a child before it set its own handlers
            os._exit(status)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        self._ending = True
        # For good: whoever dies from here on is not lost. But with a limit: if the signal came while this thread forks,
        # the guardian's thread may be waiting for the fork.
        self._one_at_a_time.acquire(timeout=KILL_LIMIT_S)
        self._listen(0.0)
        try:
            self._bury()
            _kill_groups(self._children)
            _await_deaths(self._children, time.monotonic() + KILL_LIMIT_S)
            self._claims.hand_back(self._worker)
            self._send_turns(self._settings.worker_children)  # each may have had a turn, and claimed nothing yet
            self._presence.leave()
        except StoreUnavailable:
            log.warning("claims are left to housekeeping", extra={"worker": self._worker})
        log.info("worker stopped", extra={"worker": self._worker})
        logging.shutdown()
        os._exit(os.EX_CONFIG if self._refused else status)

    def _watch(self) -> None:
        try:
            while not self._ending:
                with self._one_at_a_time:
                    self._listen(POLL_S)
                    with _FORK_GATE:
                        self._tend()
                if self._drain_until is not None and time.monotonic() > self._drain_until:
                    break
        finally:
            # The main thread must do it. Also after an error here: a worker without its guardian must not go on.
            os.kill(self._pid, signal.SIGQUIT)

    def _listen(self, timeout_s: float) -> None:
        if not select.select([self._inbox], [], [], timeout_s)[0]:
            return
        *lines, self._unread = (self._unread + os.read(self._inbox, 4096)).split(b"\n")
        for line in lines:
            what, pid, *facts = json.loads(line)
            self._note(what, pid, facts)

    def _note(self, what: str, pid: int, facts: Sequence[Any]) -> None:
        match what:
            case "up":
                self._children.add(pid)
            case "warm":
                self._warm.add(pid)
            case "refused":
                self._refused = True
                os.kill(self._pid, signal.SIGQUIT)
            case verb:
                self._presence.heard(pid, (verb, *facts))
        if not self._is_ready and len(self._warm) >= self._settings.worker_children:
            self._is_ready = True
            self._presence.enter(WorkerState.READY)
            self._ready(self._worker)

    def _tend(self) -> None:
        with suppress(StoreUnavailable):
            self._bury()
        if self.draining:
            self._presence.enter(WorkerState.DRAINING)
        with suppress(StoreUnavailable):
            self._presence.beat()

    def _bury(self) -> None:
        dead = {pid for pid in self._children if not _is_alive(pid)}
        if dead:
            log.warning("worker child ended", extra={"worker": self._worker, "pids": sorted(dead)})
            _kill_groups(dead)  # what a dead child has started lives on
            self._children -= dead
            self._warm -= dead
            self._presence.lost(dead)
            self._owed += len(dead)
        if self._owed:
            self._return_claims()
            self._send_turns(self._owed)  # each had a turn, perhaps one for which nothing was claimed yet
            self._owed = 0

    def _return_claims(self) -> None:
        lost = self._claims.lose(self._worker, alive_pids=self._children)
        if lost:
            log.warning("tasks lost with their child", extra={"worker": self._worker, "tasks": lost})

    def _send_turns(self, count: int) -> None:
        send_turns(self._turns, self._settings.queue_names, count)


def _is_alive(pid: int) -> bool:
    """Whether a child of this process runs; its exit status is left for Celery to collect."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _kill_groups(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _await_deaths(pids: Iterable[int], deadline: float) -> None:
    while time.monotonic() < deadline and any(_is_alive(pid) for pid in pids):
        time.sleep(0.01)
