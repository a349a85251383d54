"""Every verb on every status, against a table written here by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from records import HOLDER, LEASE_S, PROBLEM, Clock, task_in

from inference_server.errors import Conflict, UnknownTask
from inference_server.tasks.claims import Claims
from inference_server.tasks.database import Database
from inference_server.tasks.record import Claim, Status, Task
from inference_server.tasks.store import Store

Q, R, F, X, C, E = Status
GONE = None

EXPECTED: dict[str, dict[Status, Status | None]] = {
    # verb           queued   running  finished failed   cancelled expired
    "claim": {Q: R, R: R, F: F, X: X, C: C, E: E},
    "renew": {Q: Q, R: R, F: F, X: X, C: C, E: E},
    "finish": {Q: Q, R: F, F: F, X: X, C: C, E: E},
    "fail": {Q: Q, R: X, F: F, X: X, C: C, E: E},
    "hand back": {Q: Q, R: Q, F: F, X: X, C: C, E: E},
    "hand back claim": {Q: Q, R: Q, F: F, X: X, C: C, E: E},
    "lose": {Q: Q, R: Q, F: F, X: X, C: C, E: E},
    "give up": {Q: Q, R: X, F: F, X: X, C: C, E: E},
    "lapse": {Q: Q, R: Q, F: F, X: X, C: C, E: E},
    "time out": {Q: X, R: R, F: F, X: X, C: C, E: E},
    "cancel": {Q: C, R: C, F: F, X: X, C: C, E: E},
    "retry": {Q: Q, R: R, F: F, X: Q, C: Q, E: E},
    "expire": {Q: Q, R: R, F: E, X: E, C: E, E: E},
    "delete": {Q: GONE, R: GONE, F: GONE, X: GONE, C: GONE, E: GONE},
}
REFUSED = {("cancel", F), ("cancel", X), ("cancel", C), ("cancel", E)} | {("retry", s) for s in (Q, R, F, E)}


def _verbs(store: Store, claims: Claims, task: Task, claim: Claim | None) -> dict[str, Callable[[], object]]:
    held = claim or Claim("a token that nobody holds", task, HOLDER)
    last = Claims(store.database, max_attempts=1, clock=lambda: 1_700_000_000.0)
    return {
        "claim": lambda: claims.claim(["default"], HOLDER, LEASE_S),
        "renew": lambda: claims.renew(held, LEASE_S, progress=0.5),
        "finish": lambda: claims.finish(held, blob="b", size_bytes=1, report={}, device_s=0.0),
        "fail": lambda: claims.fail(held, PROBLEM, {}, 0.0),
        "hand back": lambda: claims.hand_back(HOLDER.worker),
        "hand back claim": lambda: claims.hand_back_claim(held),
        "lose": lambda: claims.lose(HOLDER.worker, []),
        "give up": lambda: last.lose(HOLDER.worker, []),
        "lapse": lambda: claims.expire_leases(1_700_000_000.0 + 100),
        "time out": lambda: claims.queue_timed_out(-1.0),
        "cancel": lambda: store.cancel(task.uid),
        "retry": lambda: store.retry(task.uid),
        "expire": lambda: claims.expire(-1.0),
        "delete": lambda: store.delete(task.uid),
    }


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("verb", list(EXPECTED))
def test_each_verb_leads_where_the_table_says(verb: str, status: Status, store: Store, claims: Claims) -> None:
    task, claim = task_in(status, store, claims)
    act = _verbs(store, claims, task, claim)[verb]
    if (verb, status) in REFUSED:
        with pytest.raises(Conflict):
            act()
    else:
        act()
    expected = EXPECTED[verb][status]
    if expected is GONE:
        with pytest.raises(UnknownTask):
            store.get(task.uid)
        return
    after = store.get(task.uid)
    assert after.status is expected
    changed = after.status is not status or (verb == "renew" and status is R)
    assert after.revision == task.revision + (1 if changed else 0)
    if not changed:
        assert after == task


@pytest.mark.parametrize("verb", ["renew", "finish", "fail", "hand back claim"])
def test_without_the_token_of_the_claim_nothing_is_written(verb: str, store: Store, claims: Claims) -> None:
    task, claim = task_in(Status.RUNNING, store, claims)
    assert claim is not None
    stale = Claim("another token", task, HOLDER)
    events = store.events(task.uid)
    assert _verbs(store, claims, task, stale)[verb]() is False
    assert store.get(task.uid) == task
    assert store.events(task.uid) == events


@pytest.mark.parametrize("verb", ["renew", "finish", "fail", "hand back claim"])
def test_a_claim_ends_with_a_cancel_although_the_task_is_claimed_again(verb: str, store: Store, claims: Claims) -> None:
    task, first = task_in(Status.RUNNING, store, claims)
    store.cancel(task.uid)
    store.retry(task.uid)
    again = claims.claim(["default"], HOLDER, LEASE_S)
    assert again is not None
    assert again.task.uid == task.uid
    before = store.get(task.uid)
    assert _verbs(store, claims, task, first)[verb]() is False
    assert store.get(task.uid) == before


def test_a_deleted_task_is_gone_for_its_worker(store: Store, claims: Claims, database: Database) -> None:
    task, claim = task_in(Status.RUNNING, store, claims)
    assert claim is not None
    assert store.delete(task.uid) == (task.case_blob,)
    assert claims.renew(claim, LEASE_S) is False
    assert claims.finish(claim, blob="b", size_bytes=1, report={}, device_s=1.0) is False


def test_every_status_has_its_beginning_and_end_times(store: Store, claims: Claims, clock: Clock) -> None:
    start = clock.now
    task, _ = task_in(Status.QUEUED, store, claims)
    assert (task.created_at, task.started_at, task.ended_at) == (start, None, None)
    clock.now = start + 10
    claim = claims.claim(["default"], HOLDER, LEASE_S)
    assert claim is not None
    assert (claim.task.started_at, claim.task.ended_at) == (start + 10, None)
    clock.now = start + 30
    claims.finish(claim, blob="b", size_bytes=1, report={}, device_s=1.0)
    ended = store.get(task.uid)
    assert (ended.created_at, ended.started_at, ended.ended_at) == (start, start + 10, start + 30)
