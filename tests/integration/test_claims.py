"""Several processes on one real file of records."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
from sqlalchemy import text

from inference_server.tasks.claims import Claims
from inference_server.tasks.database import Database, open_database
from inference_server.tasks.record import Holder, NewTask, Phase, Status, new_uid
from inference_server.tasks.store import Store, TaskFilter
from inference_server.tasks.watch import Watcher

LONG_S = 60.0
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'records.sqlite'}"


def _new_task() -> NewTask:
    return NewTask(
        uid=new_uid(),
        model="m",
        version="1",
        digest="d",
        queue="default",
        dialect="native",
        case_blob=new_uid(),
        case_size_bytes=1,
    )


def _work(database: Database, name: str, done: Queue[tuple[str, str]]) -> None:
    claims = Claims(database)
    while (claim := claims.claim(["default"], Holder(name, os.getpid()), 15.0)) is not None:
        assert claims.renew(claim, 15.0, phase=Phase.PREDICTING, progress=0.5)
        assert claims.finish(claim, blob=new_uid(), size_bytes=1, report={}, device_s=0.1)
        done.put((claim.task.uid, name))


def test_workers_that_claim_at_once_get_every_task_exactly_once(url: str) -> None:
    database = open_database(url)
    store = Store(database)
    uids = {store.add(_new_task())[0].uid for _ in range(120)}
    done: Queue[tuple[str, str]] = FORK.Queue()
    workers = [FORK.Process(target=_work, args=(database, f"worker-{i}", done)) for i in range(4)]
    for worker in workers:
        worker.start()
    finished = [done.get(timeout=LONG_S) for _ in uids]
    for worker in workers:
        worker.join(LONG_S)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert Counter(uid for uid, _ in finished) == dict.fromkeys(uids, 1)
    assert {task.status for task in store.page(TaskFilter(), limit=200).tasks} == {Status.FINISHED}
    database.close()


def test_processes_that_start_together_make_the_tables_once(url: str) -> None:
    code = f"from inference_server.tasks.database import open_database; open_database({url!r})"
    starts = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(5)]
    errors = [process.communicate(timeout=LONG_S)[1] for process in starts]
    assert [process.returncode for process in starts] == [0] * 5, errors
    database = open_database(url)
    with database.reading() as connection:
        assert connection.scalar(text("SELECT count(*) FROM alembic_version")) == 1
    database.close()


SUBMITTER = """
import sys
from inference_server.tasks.database import open_database
from inference_server.tasks.record import NewTask, new_uid
from inference_server.tasks.store import Store
store = Store(open_database(sys.argv[1]))
while True:
    task, _ = store.add(NewTask(uid=new_uid(), model="m", version="1", digest="d", queue="default", dialect="native",
                                case_blob=new_uid(), case_size_bytes=1))
    print(task.uid, flush=True)
"""


def test_what_was_accepted_is_there_after_kill_9(url: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", SUBMITTER, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    accepted = [process.stdout.readline().strip() for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    accepted += [line.strip() for line in process.stdout if line.endswith("\n")]
    process.stdout.close()
    assert process.wait(LONG_S) == -signal.SIGKILL
    database = open_database(url)
    store = Store(database)
    assert set(store.states(accepted)) == set(accepted)
    with database.reading() as connection:
        assert connection.scalar(text("PRAGMA integrity_check")) == "ok"
    database.close()


def _claim_and_hang(database: Database, name: str, claimed: Queue[str]) -> None:
    claim = Claims(database).claim(["default"], Holder(name, os.getpid()), 0.3)
    assert claim is not None
    claimed.put(claim.task.uid)
    time.sleep(LONG_S)


@pytest.mark.parametrize("way", ["lose", "expire_leases"])
def test_the_task_of_a_killed_worker_goes_to_the_next_one(way: str, url: str) -> None:
    database = open_database(url)
    store, claims = Store(database), Claims(database)
    task, _ = store.add(_new_task())
    claimed: Queue[str] = FORK.Queue()
    worker = FORK.Process(target=_claim_and_hang, args=(database, "doomed", claimed))
    worker.start()
    assert claimed.get(timeout=LONG_S) == task.uid
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(LONG_S)
    if way == "expire_leases":
        time.sleep(0.4)
    assert (claims.lose("doomed", []) if way == "lose" else claims.expire_leases()) == [task.uid]
    again = claims.claim(["default"], Holder("next", 1), 15.0)
    assert again is not None
    assert (again.task.uid, again.task.attempts) == (task.uid, 1)
    database.close()


def _finish_slowly(database: Database, finished: Queue[float]) -> None:
    claims = Claims(database)
    claim = claims.claim(["default"], Holder("w", os.getpid()), 15.0)
    assert claim is not None
    time.sleep(0.3)
    claims.finish(claim, blob=new_uid(), size_bytes=1, report={}, device_s=0.1)
    finished.put(time.monotonic())


def test_whoever_waits_sees_what_another_process_commits(url: str) -> None:
    database = open_database(url)
    store = Store(database)
    task, _ = store.add(_new_task())
    finished: Queue[float] = FORK.Queue()
    worker = FORK.Process(target=_finish_slowly, args=(database, finished))
    worker.start()
    watcher = Watcher(store)
    running = watcher.wait(task.uid, 1, LONG_S)
    assert running.status is Status.RUNNING
    done = watcher.wait(task.uid, running.revision, LONG_S)
    seen_at = time.monotonic()
    assert done.status is Status.FINISHED
    assert seen_at - finished.get(timeout=LONG_S) < 1.0
    worker.join(LONG_S)
    database.close()
