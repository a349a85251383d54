"""Nobody's flood keeps another's task waiting: tried with real records over random arrivals."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import HOLDER, LEASE_S, Clock, added, emptied

from inference_server.tasks.claims import Claims
from inference_server.tasks.database import Database
from inference_server.tasks.record import Claim, Priority, new_uid
from inference_server.tasks.store import Store

MORE = 2
"""So many tasks of one other token may start before a token's only one."""


@dataclass
class _Waiter:
    """A task whose token had nothing else in the server when it came, and what started since.

    Tasks of its own token that started since (more urgent ones that came later) took turns of it.
    """

    token: str
    priority: Priority
    started: Counter[str] = field(default_factory=Counter)
    own: int = 0


class Clinic:
    """Records, and what is watched about them."""

    def __init__(self, database: Database) -> None:
        self.clock = Clock()
        self.store = Store(database, clock=self.clock)
        self.claims = Claims(database, clock=self.clock)
        self.held: list[Claim] = []
        self.at_home: Counter[str] = Counter()
        self.waiters: dict[str, _Waiter] = {}

    def submit(self, token: str, priority: Priority, *, queue: str = "default", count: int = 1) -> None:
        for _ in range(count):
            uid = added(self.store, token=token, priority=priority, queue=queue).uid
            if not self.at_home[token]:
                self.waiters[uid] = _Waiter(token, priority)
            self.at_home[token] += 1

    def claim(self, *queues: str) -> str | None:
        claim = self.claims.claim(queues or ["default"], HOLDER, LEASE_S)
        if claim is None:
            return None
        self.held.append(claim)
        self.waiters.pop(claim.task.uid, None)
        for waiter in self.waiters.values():
            if waiter.token == claim.task.token:
                waiter.own += 1
            else:
                assert claim.task.priority <= waiter.priority
                if claim.task.priority == waiter.priority:
                    waiter.started[claim.task.token] += 1
                    assert waiter.started[claim.task.token] <= MORE + waiter.own
        return claim.task.token

    def finish(self, number: int, device_s: float) -> None:
        claim = self.held.pop(number % len(self.held))
        assert self.claims.finish(claim, blob=new_uid(), size_bytes=1, report={}, device_s=device_s)
        self.at_home[claim.task.token] -= 1


@pytest.mark.parametrize("children", [1, 2, 8])
@pytest.mark.parametrize("device_s", [0.0, 0.02, 5.0])
@pytest.mark.parametrize("used_before_s", [0.0, 30.0])
def test_after_200_tasks_of_one_token_another_ones_starts_after_two_more_at_most(
    children: int, device_s: float, used_before_s: float, database: Database
) -> None:
    clinic = Clinic(database)
    if used_before_s:
        clinic.submit("b", Priority.BATCH)
        clinic.claim()
        clinic.finish(0, used_before_s)
    clinic.submit("a", Priority.BATCH, count=200)
    for _ in range(children):
        assert clinic.claim() == "a"
    clinic.submit("b", Priority.BATCH)
    started = []
    while "b" not in started:
        clinic.clock.now += device_s
        clinic.finish(0, device_s)
        started.append(clinic.claim())
    assert started.count("a") <= MORE


def test_who_waited_first_is_not_kept_waiting_by_the_flood_of_who_used_nothing_yet(database: Database) -> None:
    clinic = Clinic(database)
    clinic.submit("heavy", Priority.NORMAL)
    clinic.claim()
    clinic.finish(0, 3000.0)
    clinic.submit("heavy", Priority.NORMAL)
    clinic.submit("fresh", Priority.NORMAL, count=200)
    assert "heavy" in [clinic.claim() for _ in range(MORE + 1)]


def test_tokens_with_much_to_do_share_the_devices_by_time(database: Database) -> None:
    clinic = Clinic(database)
    clinic.submit("long", Priority.NORMAL, count=100)
    clinic.submit("short", Priority.NORMAL, count=100)
    used: Counter[str] = Counter()
    for _ in range(60):
        token = clinic.claim()
        assert token
        device_s = {"long": 10.0, "short": 1.0}[token]
        clinic.clock.now += device_s
        clinic.finish(0, device_s)
        used[token] += int(device_s)
    assert used["long"] == pytest.approx(used["short"], abs=11)


TOKENS = st.sampled_from("abcd")
PRIORITIES = st.sampled_from(Priority)
STEPS = st.one_of(
    st.tuples(st.just("submit"), TOKENS, PRIORITIES, st.sampled_from([1, 1, 7])),
    st.tuples(st.just("claim"), TOKENS, PRIORITIES, st.just(1)),
    st.tuples(st.just("claim"), TOKENS, PRIORITIES, st.just(1)),
    st.tuples(st.just("finish"), TOKENS, PRIORITIES, st.sampled_from([0, 1, 40, 2000])),
)


@pytest.mark.parametrize("priorities", [(Priority.NORMAL,), tuple(Priority)], ids=["one priority", "all priorities"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=10, max_size=60))
def test_whatever_comes_in_whichever_order_two_more_of_another_token_at_most(
    database: Database, priorities: tuple[Priority, ...], steps: list[tuple[str, str, Priority, int]]
) -> None:
    clinic = Clinic(emptied(database))
    for what, token, priority, number in steps:
        clinic.clock.now += number / 7
        match what:
            case "submit":
                clinic.submit(token, priorities[priority % len(priorities)], count=number)
            case "claim":
                clinic.claim()
            case "finish" if clinic.held:
                clinic.finish(number, number / 10)
