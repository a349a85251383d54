"""The table of workers, in every database that it may be in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from records import Clock, added, claimed
from worker_rows import worker_row

from inference_server.tasks.claims import Claims
from inference_server.tasks.database import Database
from inference_server.tasks.record import Holder
from inference_server.tasks.store import Store
from inference_server.tasks.workers import FORGOTTEN_S, SILENT_S, Workers, WorkerState


@pytest.fixture
def workers(database: Database, clock: Clock) -> Workers:
    return Workers(database, clock=clock)


def test_a_worker_is_listed_as_it_last_said(workers: Workers, clock: Clock) -> None:
    workers.beat(worker_row(state=WorkerState.STARTING, models=(), memory_used_bytes=None, utilisation=None))
    clock.now += 3
    said = worker_row(beat_at=clock.now)
    workers.beat(said)
    assert workers.all() == [said]


def test_it_is_listed_with_the_tasks_that_it_runs_the_oldest_first(
    workers: Workers, store: Store, claims: Claims
) -> None:
    first, second, _third = (added(store).uid for _ in range(3))
    for pid in (1, 2):
        claimed(claims, Holder("worker-1", pid))
    claimed(claims, Holder("worker-2", 1))
    workers.beat(worker_row())
    assert [worker.tasks for worker in workers.all()] == [(first, second)]


def test_one_that_was_not_heard_of_is_silent_and_then_forgotten(workers: Workers, clock: Clock) -> None:
    workers.beat(worker_row())
    clock.now += SILENT_S
    assert [worker.state for worker in workers.all()] == [WorkerState.READY]
    clock.now += 0.5
    assert [worker.state for worker in workers.all()] == [WorkerState.SILENT]
    assert workers.forget() == 0
    clock.now += FORGOTTEN_S - SILENT_S
    assert workers.forget() == 1
    assert workers.all() == []


def test_one_that_ended_in_order_is_listed_no_longer(workers: Workers) -> None:
    workers.beat(worker_row())
    workers.beat(worker_row(name="worker-2"))
    workers.leave("worker-1")
    assert workers.all() == [replace(worker_row(), name="worker-2")]


def test_they_are_in_the_order_of_their_devices(workers: Workers) -> None:
    places = [("b", "GPU-1"), ("a", "GPU-2"), ("a", "GPU-1")]
    for number, (host, device) in enumerate(places):
        workers.beat(worker_row(name=f"worker-{number}", host=host, device_id=device))
    assert [(worker.host, worker.device_id) for worker in workers.all()] == sorted(places)
