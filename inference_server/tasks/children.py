"""The child of a worker: the process that takes turns and computes."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.process import AuthenticationString  # type: ignore[attr-defined]
from pathlib import Path
from typing import Protocol

from inference_server.errors import SettingsError, StoreUnavailable
from inference_server.settings import Settings
from inference_server.tasks.blobs import open_blobs
from inference_server.tasks.claims import Claims, Wish
from inference_server.tasks.database import open_database
from inference_server.tasks.presence import WarmNews
from inference_server.tasks.queue import CeleryTurns
from inference_server.tasks.record import Holder
from inference_server.tasks.runner import Computes, Runner
from inference_server.tasks.scratch import SCRATCH, Scratch
from inference_server.tasks.traces import open_traces

log = logging.getLogger(__name__)

OpenEngine = Callable[[Settings], Computes]


class Announce(Protocol):
    """How a child tells its parent something."""

    def __call__(self, what: str, pid: int, /, *facts: str | int) -> None:
        """Tell what has happened, by which process, and what belongs to it."""


PARENT_POLL_S = 0.5
STORE_RETRY_S = 1.0
ROW_S = 1.0
"""How long a child goes on from task to task: a worker that is to stop, or loses its broker, waits for it."""
OOM_SCORE = "500"
"""When memory runs out the kernel ends a child first: its task is tried again, nothing else is lost."""
PR_SET_PDEATHSIG = 1


class Child:
    """What a child process is and does. Made in the parent; everything that matters happens after the fork.

    Args:
        settings: of the worker.
        worker: the worker's name.
        open_engine: makes the engine, in the child.
        announce: tells the parent `up`, then `warm` when its models are loaded, or `refused`, with its process id;
            and what changes in its warm models (`presence.Told`).
    """

    def __init__(self, settings: Settings, worker: str, open_engine: OpenEngine, announce: Announce) -> None:
        self._settings = settings
        self._worker = worker
        self._open_engine = open_engine
        self._announce = announce
        self._parent = os.getpid()
        self._scratch = Scratch(settings.data_dir / SCRATCH)
        self._claims: Claims | None = None
        self._runner: Runner | None = None
        self._turns: CeleryTurns | None = None
        self._warm_news = WarmNews()

    def start(self) -> None:
        """Become a child that can work: an own process group, own connections, warm models."""
        os.setpgid(0, 0)
        threading.Thread(target=_end_with_parent, args=(self._parent,), name="parent-watch", daemon=True).start()
        self._announce("up", os.getpid())
        _allow_children()
        _volunteer_for_oom()
        self._scratch.sweep()
        self._scratch.take()
        self._claims, self._runner = self._open()
        self._turns = CeleryTurns(self._settings)
        if self._settings.preload:
            self._runner.preload()
        self._tell_of_models(self._runner)
        _die_by_watch_alone()
        self._announce("warm", os.getpid())

    def take_turn(self) -> None:
        """Claim the task whose turn it is and run it, if there is one; after quick ones go on with the next.

        The turns of these are taken from the broker here: one that comes by way of the parent costs more processor
        time than a small task.
        """
        if self._claims is None or self._runner is None:
            return
        _leave_stopping_to_the_worker()
        goes_on_until = time.monotonic() + ROW_S
        wish = Wish(tuple(self._settings.queue_names), Holder(self._worker, os.getpid()), self._settings.lease_s)
        try:
            claim = self._claims.claim(wish.queues, wish.holder, wish.lease_s)
        except StoreUnavailable:
            log.warning("turn given up: the records cannot be reached; housekeeping sends another")
            return
        while claim is not None:
            claim = self._runner.run(claim, lambda: wish if self._has_next_turn(goes_on_until) else None)
            if claim is None or self._warm_news.is_of_models(self._runner.warmth()):
                self._tell_of_models(self._runner)

    def _has_next_turn(self, until: float) -> bool:
        if self._turns is None or time.monotonic() > until or os.getppid() != self._parent:  # which would end this, too
            return False
        return self._turns.take(self._settings.queue_names)

    def _tell_of_models(self, runner: Runner) -> None:
        for told in self._warm_news.since_last(runner.warmth()):
            self._announce(told[0], os.getpid(), *told[1:])

    def _open(self) -> tuple[Claims, Runner]:
        try:
            engine = self._open_engine(self._settings)
            claims = self._open_claims()
            traces = open_traces(self._settings)
            return claims, Runner(self._settings, claims, open_blobs(self._settings), engine, traces=traces)
        except SettingsError as exc:
            log.critical("worker child cannot start: %s", exc.message)
            self._announce("refused", os.getpid())
            os._exit(os.EX_CONFIG)

    def _open_claims(self) -> Claims:
        while True:
            try:
                return Claims(open_database(self._settings.database), max_attempts=self._settings.max_attempts)
            except StoreUnavailable:
                log.warning("waiting for the records")
                time.sleep(STORE_RETRY_S)


def _allow_children() -> None:
    """Let models use multiprocessing, which refuses it to a pool's processes, and cannot pickle the pool's own key."""
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    config["daemon"] = False
    config["authkey"] = AuthenticationString(bytes(config["authkey"]))
    os.register_at_fork(before=_hold_signals, after_in_parent=_let_signals, after_in_child=_heed_signals)


def _hold_signals() -> None:
    """Keep signals back during a fork: one that came to the process before `_heed_signals` would be lost."""
    _MASK.before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)


def _let_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _MASK.before)


def _heed_signals() -> None:
    """Have a model's own process end when it is told to; it inherits the handlers of a worker, which would not."""
    for number in _HANDLED:
        signal.signal(number, signal.SIG_DFL)
    _let_signals()


_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)
_MASK = threading.local()


def _leave_stopping_to_the_worker() -> None:
    """Go on at SIGTERM, which a service manager may send to every process of a service: the worker decides what ends.

    Set before every turn, since the pool sets its own after a child has started; and by a handler, since what a model
    starts would inherit that a signal is ignored, and could not be stopped by it.
    """
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)


def _volunteer_for_oom() -> None:
    try:
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    except OSError:
        log.debug("the kernel takes no preference for running out of memory")


def _end_with_parent(parent: int) -> None:
    """End the whole group when the parent is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os.killpg(os.getpid(), signal.SIGKILL)


def _die_by_watch_alone() -> None:
    """Take back the death signal that the pool has set: it would end this process before the rest of its group."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)
