"""Figures that only rise, in every database that they may be in."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from records import Clock, added, claimed, emptied, new_task
from sqlalchemy import text

from inference_server.tasks import figures
from inference_server.tasks.claims import Claims
from inference_server.tasks.database import Database
from inference_server.tasks.figures import BUCKETS_S, Figure, durations
from inference_server.tasks.record import Problem, new_uid
from inference_server.tasks.store import Store

TIMINGS = {"queued": 0.04, "predicting": 7.0, "writing": 0.1, "no phase of ours": 3.0}


def known(database: Database, *kinds: str) -> list[Figure]:
    with database.reading() as connection:
        return [figure for figure in figures.read(connection) if figure.figure in kinds]


def ends(store: Store, claims: Claims, clock: Clock) -> Iterator[str]:
    """Bring a task to every end that there is, and yield what it comes under."""
    added(store, model="a")
    claims.finish(claimed(claims), blob=new_uid(), size_bytes=1, report={"timings_s": TIMINGS}, device_s=1.0)
    yield "finished"
    added(store, model="a")
    claims.fail(claimed(claims), Problem("prediction", "It failed."), {}, 1.0)
    yield "prediction"
    store.cancel(added(store, model="a").uid)
    yield "cancelled"
    added(store, model="a")
    for _ in range(3):
        claimed(claims)
        claims.lose("worker-1")
    yield "worker_lost"
    added(store, model="a")
    clock.now += 100
    claims.queue_timed_out(50)
    yield "queue_timed_out"
    added(store, model="a")
    claims.withdraw("a", Problem("unknown_model", "It is no longer served."))
    yield "unknown_model"


def test_every_end_is_counted_once_under_its_status_and_code(
    database: Database, store: Store, claims: Claims, clock: Clock
) -> None:
    assert len(list(ends(store, claims, clock))) == 6
    assert known(database, "ended", "failed") == [
        Figure("ended", "a", "cancelled"),
        Figure("ended", "a", "failed", counted=4),
        Figure("ended", "a", "finished"),
        *(Figure("failed", "a", code) for code in ("prediction", "queue_timed_out", "unknown_model", "worker_lost")),
    ]


def test_submissions_are_counted_by_model_and_door_with_their_bytes(database: Database, store: Store) -> None:
    for dialect in ("mim", "native", "native"):
        added(store, model="a", dialect=dialect, case_size_bytes=100)
    assert known(database, "submitted") == [
        Figure("submitted", "a", "mim", counted=1, total=100.0),
        Figure("submitted", "a", "native", counted=2, total=200.0),
    ]


def test_a_request_that_comes_twice_is_one_submission(database: Database, store: Store) -> None:
    for _ in range(2):
        store.add(new_task(model="a", idempotency_key="k", fingerprint="f"))
    assert [figure.counted for figure in known(database, "submitted")] == [1]


def test_phases_are_counted_in_the_transaction_that_finishes(database: Database, store: Store, claims: Claims) -> None:
    added(store, model="a")
    claim = claimed(claims)
    store.cancel(claim.task.uid)
    assert not claims.finish(claim, blob="b", size_bytes=1, report={"timings_s": TIMINGS}, device_s=1.0)
    assert known(database, "phase") == []
    for _ in range(2):
        added(store, model="a")
        claims.finish(claimed(claims), blob=new_uid(), size_bytes=1, report={"timings_s": TIMINGS}, device_s=1.0)
    assert known(database, "phase") == [
        Figure("phase", "a", "predicting", BUCKETS_S.index(10.0), 2, 14.0),
        Figure("phase", "a", "queued", 0, 2, 0.08),
        Figure("phase", "a", "writing", 0, 2, 0.2),
    ]


def test_a_duration_lies_in_the_first_bucket_that_takes_it() -> None:
    assert [durations("a", {"queued": seconds})[0].bucket for seconds in (0.0, 0.1, 0.11, 1800.0, 1801.0)] == [
        0, 0, 1, len(BUCKETS_S) - 1, len(BUCKETS_S),
    ]  # fmt: skip


def test_nothing_is_lost_where_many_count_at_the_same_time(database: Database) -> None:
    def count() -> None:
        for _ in range(10):
            with database.writing() as connection:
                figures.add(connection, [Figure("refused", detail="b/x"), Figure("refused", detail="a/x", total=0.5)])

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert known(database, "refused") == [
        Figure("refused", "", "a/x", 0, 40, 20.0), Figure("refused", "", "b/x", 0, 40, 0.0),
    ]  # fmt: skip


def test_what_happened_stays_counted_when_its_tasks_are_gone(database: Database, store: Store) -> None:
    store.delete(added(store, model="a").uid)
    assert [figure.counted for figure in known(database, "submitted")] == [1]
    with emptied(database).reading() as connection:
        assert connection.scalar(text("SELECT count(*) FROM figures")) == 0
