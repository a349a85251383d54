"""The bounds of the queue, and what they are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres import fresh_database
from records import HOLDER, LEASE_S, PROBLEM, Clock, added, claimed, emptied, new_task
from sqlalchemy import text

from inference_server.errors import Conflict, OverQuota, QueueFull
from inference_server.tasks import database as database_module
from inference_server.tasks.admission import Bounds
from inference_server.tasks.claims import Claims
from inference_server.tasks.database import Database, open_database
from inference_server.tasks.record import Claim, Priority, Status, new_uid
from inference_server.tasks.store import Store

WIDE = 10**6


def test_a_full_queue_takes_no_more_but_still_answers_a_repeated_request(database: Database, claims: Claims) -> None:
    store = Store(database, bounds=Bounds(2, WIDE, WIDE))
    first = added(store, idempotency_key="k", fingerprint="f", model="a", token="a")
    added(store, model="b", token="b")
    with pytest.raises(QueueFull, match="as many waiting tasks as it takes"):
        added(store, model="c", token="c")
    assert added(store, idempotency_key="k", fingerprint="f", model="a", token="a") == first
    claimed(claims)
    assert added(store).status is Status.QUEUED


def test_a_model_with_a_full_queue_leaves_the_others_alone(database: Database, claims: Claims) -> None:
    store = Store(database, bounds=Bounds(WIDE, 1, WIDE))
    added(store, model="busy", token="a")
    with pytest.raises(QueueFull, match="for the model 'busy'"):
        added(store, model="busy", token="b")
    added(store, model="other", token="b")
    claimed(claims)
    assert added(store, model="busy", token="b").status is Status.QUEUED


def test_a_token_has_only_so_many_tasks_that_wait_or_run(database: Database, claims: Claims) -> None:
    store = Store(database, bounds=Bounds(WIDE, WIDE, 2))
    added(store, token="a")
    added(store, token="a", model="another", queue="another")
    claim = claimed(claims)
    with pytest.raises(OverQuota):
        added(store, token="a")
    added(store, token="b")
    assert claims.finish(claim, blob=new_uid(), size_bytes=1, report={}, device_s=1.0)
    assert added(store, token="a").status is Status.QUEUED


def test_trying_again_is_bounded_like_submitting(database: Database, claims: Claims) -> None:
    store = Store(database, bounds=Bounds(1, WIDE, WIDE))
    ended = store.cancel(added(store).uid)
    added(store)
    with pytest.raises(QueueFull):
        store.retry(ended.uid)
    assert store.get(ended.uid).status is Status.CANCELLED


def _finish_in(store: Store, claims: Claims, clock: Clock, duration_s: float) -> None:
    added(store, token="early")
    claim = claimed(claims)
    clock.now += duration_s
    assert claims.finish(claim, blob=new_uid(), size_bytes=1, report={}, device_s=duration_s)


@pytest.mark.parametrize(("running", "expected_s"), [(0, 40.0), (1, 40.0), (2, 20.0)])
def test_who_is_refused_is_told_when_the_next_place_is_free(
    running: int, expected_s: float, database: Database, claims: Claims, clock: Clock
) -> None:
    open_store = Store(database, clock=clock)
    for duration_s in (4.0, 40.0, 100.0):
        _finish_in(open_store, claims, clock, duration_s)
    for _ in range(running + 1):
        added(open_store)
    for _ in range(running):
        claimed(claims)
    with pytest.raises(QueueFull) as refusal:
        added(Store(database, bounds=Bounds(1, WIDE, WIDE), clock=clock))
    assert refusal.value.retry_after_s == pytest.approx(expected_s)


def test_of_a_model_that_never_finished_nothing_is_known(database: Database) -> None:
    with pytest.raises(QueueFull) as refusal:
        added(Store(database, bounds=Bounds(0, WIDE, WIDE)))
    assert refusal.value.retry_after_s is None


COUNTED = "SELECT token, queue, priority, sum(waiting), sum(running) FROM loads GROUP BY token, queue, priority"
TRUTH = """
    SELECT token, queue, priority, sum(CASE status WHEN 'queued' THEN 1 ELSE 0 END),
        sum(CASE status WHEN 'running' THEN 1 ELSE 0 END)
    FROM tasks WHERE status IN ('queued', 'running') GROUP BY token, queue, priority
"""


def _same(database: Database) -> bool:
    with database.reading() as connection:
        counted = {tuple(row) for row in connection.execute(text(COUNTED)) if row[3] or row[4]}
        return counted == {tuple(row) for row in connection.execute(text(TRUTH))}


class _Life:
    """Everything that can happen to tasks, by name."""

    def __init__(self, database: Database) -> None:
        self.clock = Clock()
        self.store = Store(database, clock=self.clock)
        self.claims = Claims(database, max_attempts=2, clock=self.clock)
        self.uids: list[str] = []
        self.held: list[Claim] = []

    def add(self, number: int) -> None:
        priority, model = Priority(number % 3), f"m{number % 2}"
        self.uids.append(added(self.store, token=f"t{number % 4}", priority=priority, model=model).uid)

    def claim(self, number: int) -> None:
        claim = self.claims.claim(["default"], HOLDER, LEASE_S)
        self.held += [claim] if claim else []

    def finish(self, number: int) -> None:
        if self.held:
            self.claims.finish(self.held.pop(), blob=new_uid(), size_bytes=1, report={}, device_s=1.0)

    def fail(self, number: int) -> None:
        if self.held:
            self.claims.fail(self.held.pop(), PROBLEM, {}, 1.0)

    def cancel(self, number: int) -> None:
        with suppress(Conflict):
            self.store.cancel(self.uids[number % len(self.uids)])

    def retry(self, number: int) -> None:
        with suppress(Conflict):
            self.store.retry(self.uids[number % len(self.uids)])

    def delete(self, number: int) -> None:
        self.store.delete(self.uids.pop(number % len(self.uids)))

    def lose(self, number: int) -> None:
        self.claims.lose(HOLDER.worker)

    def hand_back(self, number: int) -> None:
        self.claims.hand_back(HOLDER.worker)

    def lapse(self, number: int) -> None:
        self.claims.expire_leases(self.clock.now + LEASE_S)

    def time_out(self, number: int) -> None:
        self.claims.queue_timed_out(5.0)

    def withdraw(self, number: int) -> None:
        self.claims.withdraw("m1", PROBLEM)

    def expire(self, number: int) -> None:
        self.claims.expire(10.0)


STEPS = tuple(name for name in vars(_Life) if not name.startswith("_"))
OF_TASKS = ("cancel", "retry", "delete")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5)), max_size=40))
def test_the_counts_are_right_whatever_happens(database: Database, steps: list[tuple[str, int]]) -> None:
    life = _Life(emptied(database))
    for name, number in steps:
        life.clock.now += 1
        if life.uids or name not in OF_TASKS:
            getattr(life, name)(number)
        assert _same(database)


def test_a_refused_task_leaves_no_trace(database: Database) -> None:
    store = Store(database, bounds=Bounds(1, WIDE, WIDE))
    added(store)
    with pytest.raises(QueueFull):
        store.add(new_task())
    with database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM tasks")).scalar() == 1


BEFORE = """
    INSERT INTO tasks (uid, model, version, digest, queue, dialect, token, priority, status, revision, attempts,
        created_at, queued_at, case_size_bytes, progress, parameters, outputs, report, fingerprint)
    VALUES (:uid, 'm', '1', 'd', 'default', 'native', :token, 1, :status, 1, 0, 0, 0, 1, 0, '{}', '[]', '{}', '')
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'records.sqlite'}"
    else:
        with fresh_database(request.getfixturevalue("postgres_server")) as url:
            yield url


def test_records_of_an_earlier_release_are_counted_when_they_are_opened(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "HEAD", "0002")
    earlier = open_database(empty_url)
    with earlier.writing() as connection:
        connection.execute(text("INSERT INTO usage (token, score) VALUES ('a', 5), ('b', 0)"))
        for number, (token, status) in enumerate([("a", "queued"), ("a", "running"), ("b", "queued"), ("b", "failed")]):
            connection.execute(text(BEFORE), {"uid": str(number), "token": token, "status": status})
    earlier.close()
    monkeypatch.undo()
    database = open_database(empty_url)
    assert _same(database)
    assert claimed(Claims(database)).task.uid == "2"
    assert claimed(Claims(database)).task.uid == "0"
    assert _same(database)
    database.close()
