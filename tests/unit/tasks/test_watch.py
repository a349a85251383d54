from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from records import HOLDER, LEASE_S, added, claimed

from inference_server.errors import StoreUnavailable, UnknownTask
from inference_server.tasks import watch
from inference_server.tasks.claims import Claims
from inference_server.tasks.record import Phase, Status, Task
from inference_server.tasks.store import Store
from inference_server.tasks.watch import Watcher

LONG_S = 20.0
"""Far longer than any of these tests takes: whoever waits for it has failed."""


@pytest.fixture(params=["commit counter", "query"])
def watcher(request: pytest.FixtureRequest, store: Store, monkeypatch: pytest.MonkeyPatch) -> Watcher:
    if request.param == "query":
        monkeypatch.setattr(store.database, "is_sqlite", False)
    return Watcher(store)


def _watching() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "task-watcher"}


def _soon(act: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(0.1, act)
    timer.start()
    return timer


def test_an_outdated_revision_is_answered_at_once(watcher: Watcher, store: Store) -> None:
    task = added(store)
    assert watcher.wait(task.uid, 0, LONG_S) == task
    assert watcher._thread is None


def test_without_a_change_the_task_is_given_as_it_is(watcher: Watcher, store: Store) -> None:
    task = added(store)
    start = time.monotonic()
    assert watcher.wait(task.uid, 1, 0.1) == task
    assert 0.1 <= time.monotonic() - start < LONG_S / 2


def test_a_change_is_answered_within_a_moment(watcher: Watcher, store: Store, claims: Claims) -> None:
    task = added(store)
    changed_at: list[float] = []

    def change() -> None:
        claims.claim(["default"], HOLDER, LEASE_S)
        changed_at.append(time.monotonic())

    timer = _soon(change)
    seen = watcher.wait(task.uid, task.revision, LONG_S)
    delay_s = time.monotonic() - changed_at[0]
    timer.join()
    assert seen.status is Status.RUNNING
    assert delay_s < 1.0


def test_a_beat_without_news_wakes_nobody(watcher: Watcher, store: Store, claims: Claims) -> None:
    task = added(store)
    claim = claimed(claims)
    claims.renew(claim, LEASE_S, phase=Phase.PREDICTING, progress=0.5)
    revision = store.get(task.uid).revision
    timer = _soon(lambda: claims.renew(claim, LEASE_S, phase=Phase.PREDICTING, progress=0.5))
    start = time.monotonic()
    assert watcher.wait(task.uid, revision, 0.4).revision == revision
    assert time.monotonic() - start >= 0.4
    timer.join()


def test_whoever_waits_for_a_deleted_task_learns_that_it_is_unknown(watcher: Watcher, store: Store) -> None:
    task = added(store)
    timer = _soon(lambda: store.delete(task.uid))
    start = time.monotonic()
    with pytest.raises(UnknownTask):
        watcher.wait(task.uid, 1, LONG_S)
    assert time.monotonic() - start < LONG_S / 2
    timer.join()


def test_a_change_between_the_first_look_and_the_waiting_is_not_missed(
    watcher: Watcher, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, task = added(store), added(store)
    threading.Thread(target=watcher.wait, args=(other.uid, 1, 1.0)).start()
    real = store.get

    def changed_after_the_look(uid: str) -> Task:
        monkeypatch.setattr(store, "get", real)
        seen = real(uid)
        store.cancel(uid)
        time.sleep(0.2)
        return seen

    while not _watching():
        time.sleep(0.01)
    time.sleep(0.1)
    monkeypatch.setattr(store, "get", changed_after_the_look)
    start = time.monotonic()
    assert watcher.wait(task.uid, 1, LONG_S).status is Status.CANCELLED
    assert time.monotonic() - start < LONG_S / 2


def test_an_unknown_task_is_not_waited_for(watcher: Watcher) -> None:
    with pytest.raises(UnknownTask):
        watcher.wait("nothing", 1, LONG_S)


def test_each_of_many_who_wait_is_woken_by_its_own_task(watcher: Watcher, store: Store) -> None:
    before = _watching()
    tasks = [added(store) for _ in range(8)]
    seen: dict[str, Status] = {}

    def wait(uid: str) -> None:
        seen[uid] = watcher.wait(uid, 1, LONG_S).status

    threads = [threading.Thread(target=wait, args=(task.uid,)) for task in tasks]
    for thread in threads:
        thread.start()
    for task, thread in zip(tasks, threads, strict=True):
        store.cancel(task.uid)
        thread.join(LONG_S / 2)
        assert seen[task.uid] is Status.CANCELLED
    assert _watching() - before == {watcher._thread}


def test_while_nobody_waits_nothing_is_asked(watcher: Watcher, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    task = added(store)
    watcher.wait(task.uid, 1, 0.05)
    time.sleep(0.1)
    asked: list[object] = []
    monkeypatch.setattr(store, "states", lambda uids: asked.append(uids) or {})
    store.cancel(task.uid)
    time.sleep(0.2)
    assert asked == []


def test_watching_goes_on_after_an_error_of_the_database(
    watcher: Watcher, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PAUSE_S", 0.01)
    real, failures = store.states, [StoreUnavailable(), StoreUnavailable()]

    def flaky(uids: set[str]) -> dict[str, int]:
        if failures:
            raise failures.pop()
        return real(uids)

    monkeypatch.setattr(store, "states", flaky)
    task = added(store)
    timer = _soon(lambda: store.cancel(task.uid))
    assert watcher.wait(task.uid, 1, LONG_S).status is Status.CANCELLED
    timer.join()


def test_whoever_waits_for_the_end_alone_is_not_woken_before(watcher: Watcher, store: Store, claims: Claims) -> None:
    running, deleted = added(store), added(store)
    ended, gone = threading.Event(), threading.Event()
    with watcher.noticed(running.uid, ended.set), watcher.noticed(deleted.uid, gone.set):
        claim = claimed(claims)
        assert claim.task.uid == running.uid
        assert not ended.wait(0.3)
        claims.finish(claim, blob="0" * 32, size_bytes=1, report={}, device_s=0.1)
        assert ended.wait(LONG_S)
        assert not gone.is_set()
        store.delete(deleted.uid)
        assert gone.wait(LONG_S)
