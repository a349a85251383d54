from __future__ import annotations

from dataclasses import replace

import pytest
from records import Clock, added, claimed, new_task, task_in

from inference_server.tasks.claims import Claims
from inference_server.tasks.record import Problem, Status, new_uid
from inference_server.tasks.store import Store


def test_waiting_tasks_are_counted_per_queue_once_they_are_old_enough(
    store: Store, claims: Claims, clock: Clock
) -> None:
    for queue in ("default", "default", "default", "gpu"):
        added(store, queue=queue)
    claimed(claims)
    clock.now += 6
    added(store, queue="gpu")
    assert claims.waiting(5) == {"default": 2, "gpu": 1}
    assert claims.waiting(0) == {"default": 2, "gpu": 1}
    clock.now += 1
    assert claims.waiting(0) == {"default": 2, "gpu": 2}


def test_a_task_that_came_back_waits_from_then_on(store: Store, claims: Claims, clock: Clock) -> None:
    added(store)
    claimed(claims)
    clock.now += 100
    claims.hand_back("worker-1")
    clock.now += 3
    assert claims.waiting(5) == {}
    assert claims.queue_timed_out(50) == []


def test_a_task_that_waited_too_long_fails(store: Store, claims: Claims, clock: Clock) -> None:
    old = added(store)
    clock.now += 60
    fresh = added(store)
    clock.now += 41
    assert claims.queue_timed_out(100) == [old.uid]
    failed = store.get(old.uid)
    assert failed.problem == Problem("queue_timed_out", "The task waited longer than the server lets a task wait.")
    assert failed.ended_at == clock.now
    assert store.get(fresh.uid).status is Status.QUEUED


@pytest.mark.parametrize("status", [Status.FINISHED, Status.FAILED, Status.CANCELLED])
def test_an_expired_record_keeps_only_what_ran_and_how_it_ended(
    status: Status, store: Store, claims: Claims, clock: Clock
) -> None:
    task, _ = task_in(status, store, claims)
    store.add_event(task.uid, "info", "a text of the model")
    clock.now += 101
    keys = claims.expire(100)
    assert keys == [key for key in (task.case_blob, task.result_blob) if key]
    assert store.get(task.uid) == replace(
        task,
        status=Status.EXPIRED,
        revision=task.revision + 1,
        case_blob=None,
        result_blob=None,
        parameters={},
        outputs=(),
        report={},
    )
    assert [event.text for event in store.events(task.uid)] == ["Case and result were removed."]


def test_what_ended_lately_or_has_not_ended_does_not_expire(store: Store, claims: Claims, clock: Clock) -> None:
    running, _ = task_in(Status.RUNNING, store, claims)
    queued = added(store)
    clock.now += 1000
    cancelled = store.cancel(added(store).uid)
    clock.now += 99
    assert claims.expire(100) == []
    assert [store.get(task.uid).status.value for task in (running, queued, cancelled)] == [
        "running",
        "queued",
        "cancelled",
    ]


def test_an_idempotency_key_is_free_again_after_expiry(store: Store, claims: Claims) -> None:
    first = added(store, idempotency_key="k", fingerprint="f")
    store.cancel(first.uid)
    claims.expire(-1.0)
    second, created = store.add(new_task(idempotency_key="k", fingerprint="g"))
    assert created
    assert second.uid != first.uid


def test_blobs_are_known_as_long_as_a_record_names_them(store: Store, claims: Claims) -> None:
    task, _ = task_in(Status.FINISHED, store, claims)
    assert task.case_blob
    assert task.result_blob
    strangers = [new_uid() for _ in range(1200)]
    assert claims.known_blobs([*strangers, task.case_blob, task.result_blob]) == {task.case_blob, task.result_blob}
    claims.expire(-1.0)
    assert claims.known_blobs([task.case_blob, task.result_blob]) == set()
    assert claims.known_blobs([]) == set()
