"""The keeper: a thread beside a running task that keeps its claim alive, and ends what has lost it."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from inference_server.errors import OutOfMemory, StoreUnavailable, TimedOut
from inference_server.imaging.sizes import size_text
from inference_server.settings import Settings
from inference_server.tasks import footprint
from inference_server.tasks.record import Claim, Phase, Problem

log = logging.getLogger(__name__)

NEWS_S = 0.25
"""Shortest time between two writes of one task's phase and progress."""

NEWS_LOOK_S = 0.1
"""How often it is seen whether there is such news."""

LOOK_S = 0.5
"""How often the memory of the process is looked at."""

RETRY_S = 0.5
"""Pause before the records are asked again after they could not be reached."""


class Renewals(Protocol):
    """What the keeper needs of `Claims`."""

    def renew(
        self,
        claim: Claim,
        lease_s: float,
        *,
        phase: Phase | None = None,
        progress: float | None = None,
        events: Sequence[tuple[str, str]] = (),
    ) -> bool:
        """Prolong a claim; return False if it is gone."""

    def fail(self, claim: Claim, problem: Problem, report: dict[str, object], device_s: float) -> bool:
        """Commit a failure; return False if the claim is gone."""


@dataclass
class _News:
    """What the task has said since the last beat."""

    phase: Phase | None = None
    progress: float | None = None
    events: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return self.phase is not None or self.progress is not None or bool(self.events)

    def before(self, later: _News) -> _News:
        """Return both together, the later one winning."""
        return _News(
            later.phase or self.phase,
            self.progress if later.progress is None else later.progress,
            self.events + later.events,
        )


def kill_own_group() -> None:
    """End this process and everything it started, also what left its group."""
    for pid in [*footprint.descendants()]:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


class Keeper:
    """Renews a claim while a `with` block runs the task.

    When the claim is gone (cancelled, deleted, over its time limit, taken over after an outage) `cancelled()` becomes
    true; a task that has not ended `cancel_grace_s` later ends with its process. A process that hangs with Python's
    global lock held is ended from C, one lease after the last beat. One that takes more memory than its budget ends at
    once, and its task fails: tried again, it would do the same.

    Args:
        claims: where the claim is renewed.
        claim: held by this process.
        settings: lease, beat, grace and the usual time limit.
        kill: ends the process.
    """

    def __init__(
        self, claims: Renewals, claim: Claim, settings: Settings, *, kill: Callable[[], None] = kill_own_group
    ) -> None:
        self._claims = claims
        self._claim = claim
        self._settings = settings
        self._kill = kill
        self._condition = threading.Condition()
        self._writing = threading.Lock()
        self._news = _News()
        self._stopped = False
        self._gone = threading.Event()
        began = time.monotonic() - max(0.0, time.time() - (claim.task.started_at or time.time()))
        self._began = self._beaten = began
        self._lease_until = began + settings.lease_s
        self._next_beat = began + settings.beat_s
        self._limit_at = began + (claim.task.time_limit_s or settings.task_time_limit_s)
        self._budget_bytes = footprint.budget_bytes(settings)
        self._next_look = time.monotonic() + LOOK_S
        self._not_before = began

    def __enter__(self) -> Keeper:
        self._arm(self._settings.lease_s)
        threading.Thread(target=self._run, name="keeper", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with self._condition:
            self._stopped = True
            faulthandler.cancel_dump_traceback_later()
            self._condition.notify()

    def cancelled(self) -> bool:
        """Whether the claim is gone, so that whatever the task still does is for nothing."""
        return self._gone.is_set()

    def phase(self, phase: Phase) -> None:
        """Say what the task does from here on."""
        self._tell(_News(phase=phase))

    def progress(self, fraction: float) -> None:
        """Say how much of the task is done, 0 to 1."""
        self._tell(_News(progress=min(max(fraction, 0.0), 1.0)))

    def event(self, level: str, text: str) -> None:
        """Add a line to the task's log."""
        self._tell(_News(events=((level, text),)))

    def excuse(self, seconds: float) -> None:
        """Leave some seconds out of the task's time limit, in which it waited for what is not its own."""
        with self._condition:
            self._limit_at += seconds

    def flush(self) -> None:
        """Write the lines of the log that wait for a beat: after the task's end is committed they would be refused.

        Raises:
            StoreUnavailable: the records cannot be reached; the lines wait on.
        """
        with self._writing:
            news = self._take_news()
            try:
                self._write_events(news)
            except StoreUnavailable:
                self._put_back(news)
                raise

    def _tell(self, news: _News) -> None:
        with self._condition:
            self._news = self._news.before(news)  # which is seen soon: waking a thread takes longer than many a phase

    def _run(self) -> None:
        while self._wait_until_due():
            self._arm(self._settings.lease_s)
            if self._is_too_large():
                self._end_too_large()
                return
            if time.monotonic() < self._beat_at():
                continue
            with self._writing:
                is_held = self._beat()
            if not is_held:
                self._gone.set()
                self._end_after_grace()
                return

    def _wait_until_due(self) -> bool:
        """Sleep until something is due; return False if the task is over."""
        with self._condition:
            while not self._stopped and (pause_s := min(self._beat_at(), self._next_look) - time.monotonic()) > 0:
                self._condition.wait(min(pause_s, NEWS_LOOK_S))
            return not self._stopped

    def _beat_at(self) -> float:
        news_at = self._beaten + NEWS_S if self._news else self._next_beat
        return max(self._not_before, min(self._next_beat, news_at, self._limit_at))

    def _arm(self, limit_s: float) -> None:
        """Have C end the process in `limit_s` unless this is called again: it needs no lock of Python's."""
        with self._condition:
            if not self._stopped:
                faulthandler.dump_traceback_later(limit_s, exit=True, file=sys.__stderr__ or 2)

    def _beat(self) -> bool:
        """Renew the claim; return False if it is gone."""
        news, asked_at = self._take_news(), time.monotonic()
        try:
            if asked_at >= self._limit_at:
                self._time_out(news)
                return False
            held = self._claims.renew(
                self._claim, self._settings.lease_s, phase=news.phase, progress=news.progress, events=news.events
            )
        except StoreUnavailable:
            return self._outlast(news)
        self._beaten = time.monotonic()
        self._lease_until = asked_at + self._settings.lease_s
        self._next_beat = asked_at + self._settings.beat_s
        return held

    def _take_news(self) -> _News:
        with self._condition:
            news, self._news = self._news, _News()
            return news

    def _write_events(self, news: _News) -> None:
        if news.events:
            self._claims.renew(self._claim, self._settings.lease_s, events=news.events)

    def _put_back(self, news: _News) -> None:
        with self._condition:
            self._news = news.before(self._news)

    def _time_out(self, news: _News) -> None:
        self._write_events(news)
        limit_s = self._limit_at - self._began
        log.warning("time limit reached", extra={"task": self._claim.task.uid, "limit_s": round(limit_s, 3)})
        self._claims.fail(self._claim, Problem(TimedOut.code, TimedOut().message), {}, time.monotonic() - self._began)

    def _is_too_large(self) -> bool:
        if time.monotonic() < self._next_look:
            return False
        too_large = footprint.exceeds(self._budget_bytes)
        self._next_look = time.monotonic() + LOOK_S
        return too_large

    def _end_too_large(self) -> None:
        limit = size_text(self._budget_bytes)
        log.error("memory budget exceeded; ending the process", extra={"task": self._claim.task.uid, "limit": limit})
        sentence = f"The computation took more than the {limit} of memory that the server gives it. Crop the image."
        with suppress(StoreUnavailable):
            self._claims.fail(self._claim, Problem(OutOfMemory.code, sentence), {}, time.monotonic() - self._began)
        self._kill()

    def _outlast(self, news: _News) -> bool:
        """Try again soon while the lease may still run; afterwards somebody else may have the task."""
        now = time.monotonic()
        self._put_back(news)
        self._not_before = now + min(RETRY_S, self._settings.beat_s)
        return now < self._lease_until

    def _end_after_grace(self) -> None:
        log.info("claim is gone", extra={"task": self._claim.task.uid})
        self._arm(self._settings.cancel_grace_s + self._settings.lease_s)
        with self._condition:
            if not self._condition.wait_for(lambda: self._stopped, self._settings.cancel_grace_s):
                log.warning("task does not stop; ending its process", extra={"task": self._claim.task.uid})
                self._kill()
