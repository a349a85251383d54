from __future__ import annotations

from collections.abc import Sequence

from records import HOLDER, LEASE_S, PROBLEM, Clock, added, claimed, task_in

from inference_server.tasks.claims import Claims, Wish
from inference_server.tasks.record import Holder, Phase, Priority, Problem, Status, new_uid
from inference_server.tasks.store import Store


def _claim_all(claims: Claims, queues: Sequence[str] = ("default",)) -> list[str]:
    found = []
    while (claim := claims.claim(queues, HOLDER, LEASE_S)) is not None:
        found.append(claim.task.uid)
    return found


def test_where_nothing_waits_nothing_is_claimed(claims: Claims, store: Store) -> None:
    assert claims.claim(["default"], HOLDER, LEASE_S) is None
    added(store, queue="other")
    assert claims.claim(["default"], HOLDER, LEASE_S) is None


def test_a_claim_holds_the_task_as_it_is_from_then_on(claims: Claims, store: Store) -> None:
    task = added(store)
    claim = claimed(claims)
    assert claim.holder == HOLDER
    assert claim.task == store.get(task.uid)
    assert (claim.task.status, claim.task.revision, claim.task.attempts) == (Status.RUNNING, 2, 0)


def test_older_tasks_go_first(claims: Claims, store: Store) -> None:
    uids = [added(store).uid for _ in range(4)]
    assert _claim_all(claims) == uids


def test_priority_goes_before_age_and_use(claims: Claims, store: Store, clock: Clock) -> None:
    _use(store, claims, "greedy", 100.0)
    batch = added(store, priority=Priority.BATCH, token="modest")
    normal = added(store, token="modest")
    urgent = added(store, priority=Priority.URGENT, token="greedy")
    assert _claim_all(claims) == [urgent.uid, normal.uid, batch.uid]


def _use(store: Store, claims: Claims, token: str, device_s: float) -> None:
    task = added(store, token=token, priority=Priority.URGENT)
    claim = claimed(claims)
    assert claim.task.uid == task.uid
    assert claims.finish(claim, blob=new_uid(), size_bytes=1, report={}, device_s=device_s)


def test_the_token_with_the_least_recent_use_goes_first(claims: Claims, store: Store, clock: Clock) -> None:
    _use(store, claims, "a", 30.0)
    clock.now += 600
    _use(store, claims, "b", 20.0)
    tasks = {token: added(store, token=token).uid for token in ("b", "a", "c")}
    assert _claim_all(claims) == [tasks["c"], tasks["a"], tasks["b"]]


def test_two_tokens_take_turns_however_many_tasks_one_of_them_has(claims: Claims, store: Store, clock: Clock) -> None:
    many = {added(store, token="many").uid for _ in range(6)}
    few = {added(store, token="few").uid for _ in range(2)}
    order = []
    while (claim := claims.claim(["default"], HOLDER, LEASE_S)) is not None:
        order.append("many" if claim.task.uid in many else "few")
        assert claim.task.uid in many | few
        clock.now += 10
        claims.finish(claim, blob=new_uid(), size_bytes=1, report={}, device_s=10.0)
    assert order == ["many", "few", "many", "few", "many", "many", "many", "many"]


def test_a_failure_is_charged_like_a_result(claims: Claims, store: Store) -> None:
    first = added(store, token="a")
    assert claims.fail(claimed(claims), PROBLEM, {"device": "cpu"}, 5.0)
    failed = store.get(first.uid)
    assert (failed.status, failed.problem, failed.report) == (Status.FAILED, PROBLEM, {"device": "cpu"})
    second, third = added(store, token="a"), added(store, token="b")
    assert _claim_all(claims) == [third.uid, second.uid]


def test_a_worker_takes_from_all_its_queues_in_one_order(claims: Claims, store: Store) -> None:
    one = added(store, queue="one")
    two = added(store, queue="two")
    urgent = added(store, queue="two", priority=Priority.URGENT)
    added(store, queue="three")
    assert _claim_all(claims, ["one", "two"]) == [urgent.uid, one.uid, two.uid]


def test_a_result_is_all_there_at_once(claims: Claims, store: Store, clock: Clock) -> None:
    task = added(store)
    claim = claimed(claims)
    claims.renew(claim, LEASE_S, phase=Phase.WRITING, progress=0.9)
    clock.now += 3
    assert claims.finish(claim, blob="key", size_bytes=77, report={"device": "cpu"}, device_s=2.0)
    done = store.get(task.uid)
    assert (done.status, done.result_blob, done.result_size_bytes) == (Status.FINISHED, "key", 77)
    assert (done.report, done.phase, done.progress, done.ended_at) == ({"device": "cpu"}, None, 1.0, clock.now)


def test_only_news_of_phase_or_progress_raise_the_revision(claims: Claims, store: Store) -> None:
    task = added(store)
    claim = claimed(claims)

    def revision_after(**news: object) -> int:
        assert claims.renew(claim, LEASE_S, **news)  # type: ignore[arg-type]
        return store.get(task.uid).revision

    assert revision_after() == 2
    assert revision_after(phase=Phase.READING) == 3
    assert revision_after(phase=Phase.READING) == 3
    assert revision_after(progress=0.25) == 4
    assert revision_after(phase=Phase.READING, progress=0.25) == 4
    assert revision_after(phase=Phase.PREDICTING, progress=0.25) == 5
    assert revision_after(events=[("info", "half way")]) == 5
    assert store.events(task.uid)[-1].text == "half way"
    assert (store.get(task.uid).phase, store.get(task.uid).progress) == (Phase.PREDICTING, 0.25)


def test_a_renewed_claim_outlives_its_first_lease(claims: Claims, store: Store, clock: Clock) -> None:
    task = added(store)
    claim = claimed(claims)
    clock.now += 10
    assert claims.renew(claim, LEASE_S)
    clock.now += 14
    assert claims.expire_leases(clock.now) == []
    clock.now += 2
    assert claims.expire_leases(clock.now) == [task.uid]
    assert claims.renew(claim, LEASE_S) is False


def test_losing_a_worker_counts_attempts_until_none_is_left(claims: Claims, store: Store) -> None:
    task = added(store)
    for attempt in (1, 2):
        claimed(claims)
        assert claims.lose(HOLDER.worker) == [task.uid]
        assert (store.get(task.uid).status, store.get(task.uid).attempts) == (Status.QUEUED, attempt)
    claimed(claims)
    assert claims.lose(HOLDER.worker) == [task.uid]
    failed = store.get(task.uid)
    assert failed.status is Status.FAILED
    assert failed.problem == Problem(
        "worker_lost", "The worker that computed the task ended unexpectedly, as often as the server retries."
    )
    assert store.retry(task.uid).attempts == 0


def test_only_what_dead_children_held_is_lost(claims: Claims, store: Store) -> None:
    dead, alive, other = added(store), added(store), added(store)
    for holder in (Holder("w1", 1), Holder("w1", 2), Holder("w2", 1)):
        claimed(claims, holder)
    assert claims.lose("w1", [2, 3]) == [dead.uid]
    assert [store.get(task.uid).status.value for task in (dead, alive, other)] == ["queued", "running", "running"]


def test_handing_back_counts_no_attempt(claims: Claims, store: Store) -> None:
    mine, others = added(store), added(store)
    for _ in range(5):
        claimed(claims)
        assert claims.hand_back(HOLDER.worker) == 1
    claimed(claims)
    claimed(claims, Holder("worker-2", 1))
    assert claims.hand_back("worker-1") == 1
    assert (store.get(mine.uid).status, store.get(mine.uid).attempts) == (Status.QUEUED, 0)
    assert store.get(others.uid).status is Status.RUNNING


def test_a_task_that_came_back_has_no_progress_of_its_last_try(claims: Claims, store: Store) -> None:
    task = added(store)
    claims.renew(claimed(claims), LEASE_S, phase=Phase.PREDICTING, progress=0.75)
    claims.hand_back(HOLDER.worker)
    back = store.get(task.uid)
    assert (back.phase, back.progress, back.started_at) == (None, 0.0, None)


def test_a_log_tells_the_life_of_a_task(claims: Claims, store: Store) -> None:
    task, _ = task_in(Status.RUNNING, store, claims)
    claims.hand_back(HOLDER.worker)
    claimed(claims)
    claims.lose(HOLDER.worker)
    store.cancel(task.uid)
    store.retry(task.uid)
    claims.finish(claimed(claims), blob="b", size_bytes=1, report={}, device_s=1.0)
    assert [(event.level, event.text) for event in store.events(task.uid)] == [
        ("info", "Accepted."),
        ("info", "A worker started."),
        ("info", "The worker stopped; back in the queue."),
        ("info", "A worker started."),
        ("warning", "The worker ended unexpectedly; back in the queue."),
        ("info", "Cancelled."),
        ("info", "Tried again on request."),
        ("info", "A worker started."),
        ("info", "Finished."),
    ]


WISH = Wish(("default",), HOLDER, LEASE_S)
RESULT = {"blob": "0" * 32, "size_bytes": 1, "report": {}, "device_s": 1.0}


def test_with_a_result_the_task_that_is_next_by_then_is_claimed(claims: Claims, store: Store) -> None:
    first, second = added(store), added(store)
    claim = claimed(claims)
    ended, following = claims.finish_and_claim(claim, WISH, **RESULT)
    assert ended
    assert following is not None
    assert store.get(first.uid).status is Status.FINISHED
    assert following.task == store.get(second.uid)
    assert (following.holder, following.task.status) == (HOLDER, Status.RUNNING)
    assert claims.renew(following, LEASE_S)
    assert claims.finish_and_claim(following, WISH, **RESULT) == (True, None)  # nothing waits any more


def test_a_result_whose_use_was_charged_decides_who_is_next(claims: Claims, store: Store) -> None:
    added(store, token="a")
    claim = claimed(claims)
    added(store, token="a")
    modest = added(store, token="b")
    following = claims.finish_and_claim(claim, WISH, **{**RESULT, "device_s": 100.0})[1]
    assert following is not None
    assert following.task.uid == modest.uid


def test_where_a_result_is_not_wanted_any_more_the_next_task_is_claimed_all_the_same(
    claims: Claims, store: Store
) -> None:
    cancelled, other = added(store), added(store)
    claim = claimed(claims)
    store.cancel(cancelled.uid)
    ended, following = claims.finish_and_claim(claim, WISH, **RESULT)
    assert not ended
    assert following is not None
    assert following.task.uid == other.uid
    assert store.get(cancelled.uid).status is Status.CANCELLED
