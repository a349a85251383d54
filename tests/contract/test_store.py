from __future__ import annotations

from dataclasses import replace

import pytest
from records import LEASE_S, Clock, added, claimed, new_task, task_in

from inference_server.errors import BadRequest, Conflict, StoreUnavailable, UnknownTask
from inference_server.tasks.claims import Claims
from inference_server.tasks.record import Holder, Priority, Status, Task
from inference_server.tasks.store import Store, TaskFilter


def test_what_is_added_comes_back_whole(store: Store, clock: Clock) -> None:
    new = new_task(parameters={"threshold": 0.5}, outputs=("mesh",), priority=Priority.URGENT, time_limit_s=60.0)
    task, created = store.add(new)
    assert created
    assert store.get(new.uid) == task
    assert task == Task(
        uid=new.uid,
        model="ct-body",
        version="1.0.0",
        digest="d1",
        queue="default",
        dialect="native",
        token="anonymous",
        priority=Priority.URGENT,
        status=Status.QUEUED,
        revision=1,
        attempts=0,
        created_at=clock.now,
        queued_at=clock.now,
        case_blob=new.case_blob,
        case_size_bytes=1000,
        parameters={"threshold": 0.5},
        outputs=("mesh",),
        time_limit_s=60.0,
    )


@pytest.mark.parametrize("uid", ["", "nothing", "' OR 1=1 --", "0" * 100_000])
def test_a_task_that_is_not_there_is_unknown_to_every_method(uid: str, store: Store) -> None:
    for method in (store.get, store.cancel, store.retry, store.delete, store.events):
        with pytest.raises(UnknownTask):
            method(uid)
    with pytest.raises(UnknownTask):
        store.add_event(uid, "info", "text")
    assert store.states([uid]) == {}


def test_the_same_idempotency_key_and_content_give_the_same_task(store: Store) -> None:
    first, created = store.add(new_task(idempotency_key="k", fingerprint="f"))
    second, created_again = store.add(new_task(idempotency_key="k", fingerprint="f"))
    assert (created, created_again) == (True, False)
    assert second == first
    assert len(store.page(TaskFilter()).tasks) == 1


def test_a_used_idempotency_key_with_another_content_is_refused(store: Store) -> None:
    store.add(new_task(idempotency_key="k", fingerprint="f"))
    with pytest.raises(Conflict) as refusal:
        store.add(new_task(idempotency_key="k", fingerprint="g"))
    assert refusal.value.field == "Idempotency-Key"


def test_idempotency_keys_of_different_tokens_are_different(store: Store) -> None:
    first = added(store, idempotency_key="k", fingerprint="f", token="a")
    second = added(store, idempotency_key="k", fingerprint="f", token="b")
    assert first.uid != second.uid


def test_pages_go_from_the_latest_to_the_first_without_gap_or_overlap(store: Store) -> None:
    uids = [added(store).uid for _ in range(5)]
    seen: list[str] = []
    cursor = None
    sizes = []
    while True:
        page = store.page(TaskFilter(), cursor, limit=2)
        seen += [task.uid for task in page.tasks]
        sizes.append(len(page.tasks))
        cursor = page.next_cursor
        if cursor is None:
            break
        added(store)
    assert seen == uids[::-1]
    assert sizes == [2, 2, 1]


def test_a_page_that_holds_the_rest_exactly_has_no_cursor(store: Store) -> None:
    added(store)
    added(store)
    assert store.page(TaskFilter(), limit=2).next_cursor is None


def test_filters_are_combined(store: Store, claims: Claims) -> None:
    wanted = added(store, model="a", dialect="mim", token="t")
    for changes in ({"model": "b"}, {"dialect": "native"}, {"token": "u"}):
        added(store, **{"model": "a", "dialect": "mim", "token": "t", **changes})
    only = TaskFilter(status=Status.QUEUED, model="a", dialect="mim", token="t")
    assert store.page(only).tasks == (wanted,)
    assert store.page(replace(only, status=Status.RUNNING)).tasks == ()


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1; DROP TABLE tasks", "9" * 30])
def test_an_invented_cursor_is_a_bad_request(cursor: str, store: Store) -> None:
    with pytest.raises(BadRequest) as refusal:
        store.page(TaskFilter(), cursor)
    assert refusal.value.field == "cursor"


@pytest.mark.parametrize("limit", [0, -1, 201])
def test_a_page_is_of_1_to_200_tasks(limit: int, store: Store) -> None:
    with pytest.raises(BadRequest) as refusal:
        store.page(TaskFilter(), limit=limit)
    assert refusal.value.field == "limit"


def test_the_position_counts_what_goes_before_by_priority_and_age(store: Store) -> None:
    batch = added(store, priority=Priority.BATCH)
    normal = added(store)
    second = added(store)
    urgent = added(store, priority=Priority.URGENT)
    other = added(store, queue="other", priority=Priority.BATCH)
    assert [store.position(task) for task in (urgent, normal, second, batch, other)] == [0, 1, 2, 3, 0]


def test_only_waiting_tasks_have_a_position(store: Store, claims: Claims) -> None:
    added(store)
    running = claimed(claims).task
    waiting = added(store)
    assert (store.position(running), store.position(waiting)) == (0, 0)


def _finish_one(store: Store, claims: Claims, clock: Clock, duration_s: float) -> None:
    added(store)
    claim = claimed(claims)
    clock.now += duration_s
    claims.finish(claim, blob="b", size_bytes=1, report={}, device_s=duration_s)


def test_the_expected_wait_is_the_median_duration_per_task_before_divided_among_the_busy(
    store: Store, claims: Claims, clock: Clock
) -> None:
    first = added(store)
    assert store.expected_wait_s(first) is None
    store.delete(first.uid)
    for duration_s in (4.0, 10.0, 100.0):
        _finish_one(store, claims, clock, duration_s)
    tasks = [added(store) for _ in range(5)]
    assert [store.expected_wait_s(task) for task in tasks[:3]] == [0.0, 10.0, 20.0]
    claimed(claims)
    claimed(claims, Holder("worker-1", 4712))
    assert [store.expected_wait_s(task) for task in tasks[2:]] == [5.0, 10.0, 15.0]
    assert store.expected_wait_s(store.get(tasks[0].uid)) is None


def test_a_log_rises_over_all_tasks_and_can_be_read_from_any_line_on(store: Store, clock: Clock) -> None:
    one, two = added(store), added(store)
    store.add_event(one.uid, "warning", "first")
    clock.now += 1
    store.add_event(two.uid, "info", "other")
    store.add_event(one.uid, "info", "second")
    lines = store.events(one.uid)
    assert [(line.level, line.text) for line in lines] == [
        ("info", "Accepted."),
        ("warning", "first"),
        ("info", "second"),
    ]
    assert lines[2].time == lines[1].time + 1
    assert lines[0].seq < lines[1].seq < lines[2].seq
    assert store.events(one.uid, since=lines[1].seq) == [lines[2]]


def test_numbers_of_log_lines_are_never_used_twice(store: Store) -> None:
    first = added(store)
    last = store.events(first.uid)[-1].seq
    store.delete(first.uid)
    assert store.events(added(store).uid)[0].seq > last


def test_revisions_and_statuses_are_given_for_the_known_ones(store: Store) -> None:
    one, two = added(store), added(store)
    store.cancel(two.uid)
    assert store.states([one.uid, two.uid, "unknown"]) == {one.uid: (1, Status.QUEUED), two.uid: (2, Status.CANCELLED)}
    assert store.states([]) == {}


def test_deleting_gives_the_keys_of_all_bytes_and_takes_the_log_along(store: Store, claims: Claims) -> None:
    task, _ = task_in(Status.FINISHED, store, claims)
    assert store.delete(task.uid) == (task.case_blob, task.result_blob)
    with store.database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM events").scalar() == 0


def test_a_retried_task_starts_afresh_at_its_old_place(store: Store, claims: Claims, clock: Clock) -> None:
    task, _ = task_in(Status.FAILED, store, claims)
    later = added(store)
    clock.now += 5
    again = store.retry(task.uid)
    fresh = {
        "queued_at": clock.now,
        "started_at": None,
        "ended_at": None,
        "problem": None,
        "report": {},
        "progress": 0.0,
        "digest": "",
    }
    assert again == replace(task, status=Status.QUEUED, revision=4, **fresh)
    assert (store.position(again), store.position(later)) == (0, 1)


def test_a_task_whose_case_is_gone_cannot_be_retried(store: Store, claims: Claims) -> None:
    task, _ = task_in(Status.CANCELLED, store, claims)
    with store.database.writing() as connection:
        connection.exec_driver_sql("UPDATE tasks SET case_blob = NULL")
    with pytest.raises(Conflict, match="images have been removed"):
        store.retry(task.uid)


def test_a_refusal_says_what_state_the_task_is_in(store: Store, claims: Claims) -> None:
    task, _ = task_in(Status.FINISHED, store, claims)
    with pytest.raises(Conflict, match="The task is finished; only a queued or running one can be cancelled"):
        store.cancel(task.uid)
    with pytest.raises(Conflict, match="The task is finished; only a failed or cancelled one can be tried again"):
        store.retry(task.uid)


def test_a_running_task_that_is_cancelled_is_free_of_its_holder(store: Store, claims: Claims) -> None:
    task, claim = task_in(Status.CANCELLED, store, claims)
    assert claim is not None
    assert task.phase is None
    assert claims.renew(claim, LEASE_S) is False
    assert claims.lose(claim.holder.worker, []) == []


def test_what_a_database_refuses_is_logged_without_its_values(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    new = new_task(uid="DOE^JANE")
    store.add(new)
    with pytest.raises(StoreUnavailable):
        store.add(new)
    assert [record.getMessage() for record in caplog.records] == ["database error"]
    assert "DOE" not in str(vars(caplog.records[0]))
    assert caplog.records[0].reason
