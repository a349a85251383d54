from __future__ import annotations

import pytest
from records import Clock, added, claimed, new_task

from inference_server.errors import Conflict, UnknownTask
from inference_server.tasks import audit as audit_module
from inference_server.tasks.audit import Audit
from inference_server.tasks.caller import Caller
from inference_server.tasks.claims import Claims
from inference_server.tasks.database import Database
from inference_server.tasks.store import Store

ALICE = Caller("alice", frozenset(), "mim")


@pytest.fixture
def audit(database: Database, clock: Clock) -> Audit:
    return Audit(database, clock=clock)


def told(audit: Audit, **chosen: object) -> list[tuple[str, str, str]]:
    return [(entry.token, entry.dialect, entry.action) for entry in audit.entries(**chosen)]  # type: ignore[arg-type]


def test_each_verb_leaves_a_line_that_outlives_the_task(store: Store, claims: Claims, audit: Audit) -> None:
    uid = added(store, token="bob", dialect="native").uid
    claims.finish(claimed(claims), blob="b", size_bytes=1, report={}, device_s=1.0)
    store.note_fetch(uid, ALICE)
    store.delete(uid, ALICE)
    with pytest.raises(UnknownTask):
        store.get(uid)
    assert told(audit, uid=uid) == [
        ("bob", "native", "submitted"),
        ("alice", "mim", "fetched"),
        ("alice", "mim", "deleted"),
    ]


def test_cancelling_and_retrying_are_told_too(store: Store, audit: Audit) -> None:
    uid = added(store).uid
    store.cancel(uid, ALICE)
    store.retry(uid, ALICE)
    store.cancel(uid)
    assert told(audit, uid=uid)[1:] == [
        ("alice", "mim", "cancelled"),
        ("alice", "mim", "retried"),
        ("server", "", "cancelled"),
    ]


def test_what_did_not_happen_is_not_told(store: Store, audit: Audit) -> None:
    uid = added(store).uid
    store.cancel(uid, ALICE)
    with pytest.raises(Conflict):
        store.cancel(uid, ALICE)
    with pytest.raises(UnknownTask):
        store.delete("no-such-task", ALICE)
    assert len(told(audit)) == 2


def test_a_repeated_submission_is_told_once(store: Store, audit: Audit) -> None:
    new = new_task(idempotency_key="k", fingerprint="f")
    assert store.add(new)[1]
    assert not store.add(new)[1]
    assert len(told(audit)) == 1


def test_lines_are_found_by_task_name_and_moment(store: Store, audit: Audit, clock: Clock) -> None:
    added(store, token="bob")
    clock.now += 100
    second = added(store, token="alice").uid
    assert [entry.uid for entry in audit.entries(since=clock.now)] == [second]
    assert [entry.uid for entry in audit.entries(token="alice")] == [second]
    assert list(audit.entries(token="alice", since=clock.now + 1)) == []
    [entry] = audit.entries(uid=second)
    assert (entry.time, entry.action) == (clock.now, "submitted")


def test_many_lines_come_in_order_and_once(store: Store, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "PAGE", 3)
    uids = [added(store).uid for _ in range(7)]
    assert [entry.uid for entry in audit.entries()] == uids


def test_lines_are_forgotten_after_their_time_alone(store: Store, audit: Audit, clock: Clock) -> None:
    added(store)
    clock.now += 1000
    kept = added(store).uid
    assert audit.forget(1000) == 0
    assert audit.forget(999) == 1
    assert [entry.uid for entry in audit.entries()] == [kept]
