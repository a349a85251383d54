from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from door_support import queued_task

from inference_server.api.waiting import Waits
from inference_server.tasks.record import Status, Task


class Script:
    """A watcher that answers with one task after the other."""

    def __init__(self, *tasks: Task) -> None:
        self._tasks = list(tasks)
        self.asked: list[tuple[int, float]] = []

    def wait(self, uid: str, revision: int, timeout_s: float) -> Task:
        self.asked.append((revision, timeout_s))
        return self._tasks.pop(0) if len(self._tasks) > 1 else self._tasks[0]


class Never:
    """A watcher whose tasks do not change; it takes its time."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.waiting = threading.Semaphore(0)

    def wait(self, uid: str, revision: int, timeout_s: float) -> Task:
        self.waiting.release()
        time.sleep(min(timeout_s, 0.02))
        return self._task


@pytest.fixture
def task() -> Task:
    return queued_task()


def test_nobody_waits_who_does_not_ask_to(task: Task) -> None:
    watcher = Script(task)
    assert Waits(watcher, slots=1, limit_s=60).changed(task, revision=None, wait_s=0) is task
    assert watcher.asked == []


def test_a_revision_that_is_not_the_clients_is_news_at_once(task: Task) -> None:
    watcher = Script(task)
    assert Waits(watcher, slots=1, limit_s=60).changed(task, revision=task.revision - 1, wait_s=30) is task
    assert watcher.asked == []


def test_the_first_other_revision_is_returned(task: Task) -> None:
    newer = replace(task, revision=task.revision + 1, progress=0.5)
    watcher = Script(task, newer)
    assert Waits(watcher, slots=1, limit_s=60).changed(task, revision=task.revision, wait_s=30) is newer
    assert [revision for revision, _ in watcher.asked] == [1, 1]


def test_without_a_revision_only_another_status_is_news(task: Task) -> None:
    running = replace(task, status=Status.RUNNING, revision=2)
    further = replace(running, revision=3, progress=0.5)
    finished = replace(further, revision=4, status=Status.FINISHED)
    watcher = Script(further, finished)
    assert Waits(watcher, slots=1, limit_s=60).changed(running, revision=None, wait_s=30) is finished
    assert [revision for revision, _ in watcher.asked] == [2, 3]


@pytest.mark.parametrize("status", [status for status in Status if status.ended])
def test_a_task_that_has_ended_is_not_waited_for(task: Task, status: Status) -> None:
    ended, watcher = replace(task, status=status), Script(task)
    assert Waits(watcher, slots=1, limit_s=60).changed(ended, revision=ended.revision, wait_s=30) is ended
    assert watcher.asked == []


def test_the_servers_limit_holds(task: Task) -> None:
    started = time.monotonic()
    assert Waits(Never(task), slots=1, limit_s=0.05).changed(task, revision=1, wait_s=1000) is task
    assert 0.05 <= time.monotonic() - started < 1


def test_whoever_finds_no_free_slot_is_answered_at_once(task: Task) -> None:
    watcher = Never(task)
    waits = Waits(watcher, slots=1, limit_s=60)
    first = threading.Thread(target=waits.changed, args=(task,), kwargs={"revision": 1, "wait_s": 30})
    first.start()
    assert watcher.waiting.acquire(timeout=5)
    started = time.monotonic()
    assert waits.changed(task, revision=1, wait_s=30) is task
    assert time.monotonic() - started < 0.02
    waits.release()
    first.join(timeout=5)
    assert not first.is_alive()


def test_a_slot_is_free_again_after_a_wait(task: Task) -> None:
    waits = Waits(Script(replace(task, revision=2)), slots=1, limit_s=60)
    for _ in range(3):
        assert waits.changed(task, revision=1, wait_s=30).revision == 2


def test_a_stopping_server_lets_nobody_wait(task: Task) -> None:
    watcher = Script(task)
    waits = Waits(watcher, slots=1, limit_s=60)
    waits.release()
    assert waits.changed(task, revision=1, wait_s=30) is task
    assert watcher.asked == []


def test_the_end_is_waited_for_through_every_change_and_beyond_the_limit_of_one_request(task: Task) -> None:
    running = replace(task, status=Status.RUNNING, revision=2)
    finished = replace(running, revision=3, status=Status.FINISHED)
    watcher = Script(running, running, finished)
    assert Waits(watcher, slots=1, limit_s=0.0).ended(task, wait_s=30) is finished
    assert [revision for revision, _ in watcher.asked] == [1, 2, 2]


def test_who_waits_for_the_end_is_answered_in_time_without_it(task: Task) -> None:
    started = time.monotonic()
    waits = Waits(Never(task), slots=1, limit_s=60)
    assert waits.ended(task, wait_s=0.05) is task
    assert waits.ended(task, wait_s=0) is task
    assert 0.05 <= time.monotonic() - started < 1


def test_who_waits_for_the_end_takes_a_slot_and_gives_it_back(task: Task) -> None:
    watcher = Never(task)
    waits = Waits(watcher, slots=1, limit_s=60)
    first = threading.Thread(target=waits.ended, args=(task,), kwargs={"wait_s": 30})
    first.start()
    assert watcher.waiting.acquire(timeout=5)
    assert waits.ended(task, wait_s=30) is task
    waits.release()
    first.join(timeout=5)
    assert not first.is_alive()
    finished = replace(task, revision=2, status=Status.FINISHED)
    assert Waits(Script(finished), slots=1, limit_s=60).ended(task, wait_s=30) is finished
