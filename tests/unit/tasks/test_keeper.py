from __future__ import annotations

import faulthandler
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import pytest
from records import HOLDER

from inference_server.errors import StoreUnavailable
from inference_server.settings import Settings
from inference_server.tasks import keeper as keeper_module
from inference_server.tasks.keeper import NEWS_S, Keeper
from inference_server.tasks.record import Claim, Phase, Priority, Problem, Status, Task

LIMIT_S = 10.0


class Renewals:
    """Claims as the keeper sees them, which answer as they are told."""

    def __init__(self) -> None:
        self.held = True
        self.reachable = True
        self.beats: list[tuple[Phase | None, float | None, tuple[tuple[str, str], ...]]] = []
        self.refused = 0
        self.problems: list[Problem] = []

    def renew(
        self,
        claim: Claim,
        lease_s: float,
        *,
        phase: Phase | None = None,
        progress: float | None = None,
        events: Sequence[tuple[str, str]] = (),
    ) -> bool:
        self._refuse()
        self.beats.append((phase, progress, tuple(events)))
        return self.held

    def fail(self, claim: Claim, problem: Problem, report: dict[str, object], device_s: float) -> bool:
        self._refuse()
        self.problems.append(problem)
        return True

    def _refuse(self) -> None:
        if not self.reachable:
            self.refused += 1
            raise StoreUnavailable

    @property
    def news(self) -> list[tuple[Phase | None, float | None, tuple[tuple[str, str], ...]]]:
        return [beat for beat in self.beats if beat != (None, None, ())]


@pytest.fixture
def watchdog(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the end from C was set to; it is not let loose on the test run."""
    limits: list[float] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda limit_s, **_: limits.append(limit_s))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: limits.append(0.0))
    return limits


@pytest.fixture
def claims(watchdog: list[float]) -> Renewals:
    return Renewals()


def claim(**changes: Any) -> Claim:
    given: dict[str, Any] = {
        "uid": "u",
        "model": "m",
        "version": "1",
        "digest": "d",
        "queue": "default",
        "dialect": "native",
        "token": "anonymous",
        "priority": Priority.NORMAL,
        "status": Status.RUNNING,
        "revision": 1,
        "attempts": 0,
        "created_at": time.time(),
        "queued_at": time.time(),
        "started_at": time.time(),
        "case_blob": "c",
        "case_size_bytes": 1,
        "parameters": {},
        "outputs": (),
    }
    return Claim("t", Task(**{**given, **changes}), HOLDER)


def settings(**changes: float) -> Settings:
    return Settings(**{"lease_s": 5.0, "beat_s": 0.02, "cancel_grace_s": 0.05, **changes})


def until(question: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_the_claim_is_renewed_until_the_task_is_over(claims: Renewals) -> None:
    with Keeper(claims, claim(), settings()) as keeper:
        until(lambda: len(claims.beats) >= 3)
        assert not keeper.cancelled()
    until(lambda: all(thread.name != "keeper" for thread in threading.enumerate()))
    assert claims.beats[:3] == [(None, None, ())] * 3


def test_a_short_task_writes_nothing_and_waits_for_nothing(claims: Renewals) -> None:
    began = time.monotonic()
    with Keeper(claims, claim(), settings(beat_s=3.0)) as keeper:
        keeper.phase(Phase.READING)
        keeper.progress(0.5)
    assert time.monotonic() - began < NEWS_S
    until(lambda: all(thread.name != "keeper" for thread in threading.enumerate()))
    assert claims.beats == []


def test_news_go_out_soon_and_together(claims: Renewals) -> None:
    with Keeper(claims, claim(), settings(beat_s=60.0, lease_s=300.0)) as keeper:
        keeper.phase(Phase.READING)
        keeper.phase(Phase.PREDICTING)
        keeper.progress(0.25)
        keeper.progress(1.5)
        keeper.event("info", "first")
        keeper.event("warning", "second")
        until(lambda: claims.news)
    assert claims.news == [(Phase.PREDICTING, 1.0, (("info", "first"), ("warning", "second")))]


def test_the_model_is_told_that_the_claim_is_gone_and_may_stop_by_itself(claims: Renewals) -> None:
    killed = threading.Event()
    claims.held = False
    with Keeper(claims, claim(), settings(cancel_grace_s=60.0), kill=killed.set) as keeper:
        until(keeper.cancelled)
    until(lambda: all(thread.name != "keeper" for thread in threading.enumerate()))
    assert not killed.is_set()


def test_a_model_that_does_not_stop_ends_with_its_process(claims: Renewals) -> None:
    killed = threading.Event()
    claims.held = False
    with Keeper(claims, claim(), settings(), kill=killed.set):
        assert killed.wait(LIMIT_S)


def test_the_records_may_be_away_for_less_than_the_lease_and_no_news_is_lost(claims: Renewals) -> None:
    claims.reachable = False
    with Keeper(claims, claim(), settings(lease_s=60.0)) as keeper:
        keeper.event("info", "before")
        until(lambda: claims.refused >= 3)
        keeper.event("info", "after")
        assert not keeper.cancelled()
        claims.reachable = True
        until(lambda: sum((events for _, _, events in claims.news), ()) == (("info", "before"), ("info", "after")))


def test_a_claim_that_could_not_be_renewed_for_a_lease_is_taken_for_gone(claims: Renewals) -> None:
    claims.reachable = False
    began = time.monotonic()
    with Keeper(claims, claim(), settings(lease_s=0.2, cancel_grace_s=60.0)) as keeper:
        until(keeper.cancelled)
    assert time.monotonic() - began >= 0.19


def test_a_task_over_its_own_limit_fails_as_timed_out(claims: Renewals) -> None:
    with Keeper(claims, claim(time_limit_s=0.05), settings(beat_s=60.0, cancel_grace_s=60.0)) as keeper:
        until(keeper.cancelled)
    assert [problem.code for problem in claims.problems] == ["timed_out"]


def test_what_a_task_is_excused_for_is_not_in_its_limit(claims: Renewals) -> None:
    started = claim(started_at=time.time() - 100.0, time_limit_s=50.0)
    keeper = Keeper(claims, started, settings(lease_s=600.0, cancel_grace_s=60.0))
    keeper.excuse(3600.0)
    with keeper:
        until(lambda: len(claims.beats) >= 2)
        assert not keeper.cancelled()
        keeper.excuse(-3600.0)
        until(keeper.cancelled)
    assert [problem.code for problem in claims.problems] == ["timed_out"]


def test_a_time_limit_is_kept_although_the_records_are_away_when_it_is_reached(claims: Renewals) -> None:
    claims.reachable = False
    with Keeper(claims, claim(time_limit_s=0.01), settings(cancel_grace_s=60.0)) as keeper:
        until(lambda: claims.refused >= 2)
        claims.reachable = True
        until(keeper.cancelled)
    assert [problem.code for problem in claims.problems] == ["timed_out"]


def test_time_before_the_keeper_counts(claims: Renewals) -> None:
    """A child that was stopped between claim and keeper must not believe in a lease that has run out."""
    claims.reachable = False
    with Keeper(claims, claim(started_at=time.time() - 100.0), settings(lease_s=50.0, cancel_grace_s=60.0)) as keeper:
        until(keeper.cancelled)


def test_every_beat_sets_the_end_from_c_anew_and_the_end_of_the_task_takes_it_back(
    claims: Renewals, watchdog: list[float]
) -> None:
    with Keeper(claims, claim(), settings()):
        until(lambda: len(claims.beats) >= 2)
    until(lambda: all(thread.name != "keeper" for thread in threading.enumerate()))
    assert set(watchdog[:-1]) == {5.0}
    assert len(watchdog) >= 4
    assert watchdog[-1] == 0.0


def test_lines_of_a_short_task_are_written_before_its_end(claims: Renewals) -> None:
    with Keeper(claims, claim(), settings(beat_s=5.0)) as keeper:
        keeper.event("info", "one")
        keeper.event("info", "two")
        keeper.flush()
        assert claims.news == [(None, None, (("info", "one"), ("info", "two")))]
        keeper.flush()
    assert len(claims.news) == 1


def test_lines_that_could_not_be_written_wait(claims: Renewals) -> None:
    with Keeper(claims, claim(), settings(beat_s=5.0)) as keeper:
        claims.reachable = False
        keeper.event("info", "one")
        with pytest.raises(StoreUnavailable):
            keeper.flush()
        claims.reachable = True
        keeper.flush()
        assert [events for *_, events in claims.news] == [(("info", "one"),)]


def test_lines_before_the_time_limit_are_not_lost(claims: Renewals) -> None:
    with Keeper(claims, claim(time_limit_s=1.0), settings(beat_s=5.0), kill=lambda: None) as keeper:
        keeper.event("info", "one")
        until(keeper.cancelled)
    assert [events for *_, events in claims.news] == [(("info", "one"),)]
    assert [problem.code for problem in claims.problems] == ["timed_out"]


def test_a_task_above_the_memory_budget_fails_and_ends_with_its_process_at_once(claims: Renewals) -> None:
    killed = threading.Event()
    limits = settings(beat_s=60.0, lease_s=300.0, cancel_grace_s=60.0, child_memory_bytes=2**20)
    with Keeper(claims, claim(), limits, kill=killed.set):
        assert killed.wait(LIMIT_S)
    assert [problem.code for problem in claims.problems] == ["out_of_memory"]
    assert "1 MiB of memory" in claims.problems[0].message


def test_a_process_above_its_memory_budget_ends_although_the_records_are_away(claims: Renewals) -> None:
    killed = threading.Event()
    claims.reachable = False
    with Keeper(claims, claim(), settings(child_memory_bytes=2**20), kill=killed.set):
        assert killed.wait(LIMIT_S)


def test_looking_at_the_memory_renews_nothing(claims: Renewals, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(keeper_module, "LOOK_S", 0.001)
    monkeypatch.setattr(keeper_module.footprint, "exceeds", lambda limit_bytes: bool(looks.append(limit_bytes)))
    with Keeper(claims, claim(), settings(beat_s=60.0, lease_s=300.0)):
        until(lambda: len(looks) >= 5)
    assert claims.beats == []


ENDING = """
import os, subprocess, sys
from inference_server.tasks.keeper import kill_own_group
os.setpgid(0, 0)
own = subprocess.Popen(["sleep", "600"])
away = subprocess.Popen(["sh", "-c", "sleep 600 & wait"], start_new_session=True, stdout=subprocess.DEVNULL)
print(own.pid, away.pid, flush=True)
sys.stdin.readline()
kill_own_group()
"""


def test_a_process_ends_with_all_that_it_started_also_in_other_sessions() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", ENDING], **pipes)  # type: ignore[call-overload]
    started = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
    until(started[1].children)
    started += started[1].children()
    process.communicate("go")
    assert process.returncode == -signal.SIGKILL
    until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in started))
