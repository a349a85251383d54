"""What the server is built upon: behaviours of libraries that were measured, and would go unnoticed if they changed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from broker import Redis
from servers import Server, Worker, settings_for

from inference_server.tasks.claims import Claims
from inference_server.tasks.database import open_database
from inference_server.tasks.record import NewTask, Phase, Status, new_uid
from inference_server.tasks.store import Store

LONG_S = 60.0
MARKER = "Zzyzxowski"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "t.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (x)")
    return path


def _connected(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(file, timeout=LONG_S, isolation_level=None, check_same_thread=False)


def test_sqlite_refuses_at_once_to_write_after_a_read_that_another_commit_has_overtaken(file: Path) -> None:
    with closing(_connected(file)) as one, closing(_connected(file)) as other:
        one.execute("BEGIN")
        one.execute("SELECT count(*) FROM t").fetchone()
        other.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(sqlite3.OperationalError) as refusal:  # at once: a wait would outlast the test
            one.execute("INSERT INTO t VALUES (2)")
        assert refusal.value.sqlite_errorname == "SQLITE_BUSY_SNAPSHOT"


def test_sqlite_lets_a_transaction_that_begins_as_a_writing_one_wait_for_its_turn(file: Path) -> None:
    with closing(_connected(file)) as one, closing(_connected(file)) as other:
        one.execute("BEGIN IMMEDIATE")
        done = threading.Event()

        def write() -> None:
            other.execute("BEGIN IMMEDIATE")
            other.execute("INSERT INTO t SELECT count(*) FROM t")
            other.execute("COMMIT")
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        one.execute("INSERT INTO t VALUES ('first')")
        assert not done.is_set()
        one.execute("COMMIT")
        assert done.wait(LONG_S)
        writer.join()
        assert one.execute("SELECT x FROM t ORDER BY rowid").fetchall() == [("first",), (1,)]


def test_what_sqlite_has_removed_stands_in_its_log_until_that_is_emptied(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    store = Store(database)
    new = NewTask(
        uid=new_uid(), model="m", version="1", digest="d", queue="q", dialect="native", case_blob=new_uid(),
        case_size_bytes=1, parameters={"remark": MARKER},
    )  # fmt: skip

    def holding() -> set[str]:
        return {path.name for path in tmp_path.iterdir() if MARKER.encode() in path.read_bytes()}

    store.add(new)
    store.delete(new.uid)
    assert holding() == {"records.sqlite-wal"}
    Claims(database).tidy()
    assert holding() == set()
    database.close()


HANG = """
import ctypes, faulthandler, sys
faulthandler.dump_traceback_later(0.2, exit=True, file=sys.__stderr__)
ctypes.PyDLL(None).sleep(600)  # with the global lock held
"""


def test_faulthandler_ends_a_process_that_hangs_in_c_with_the_global_lock_held() -> None:
    done = subprocess.run([sys.executable, "-c", HANG], capture_output=True, text=True, timeout=LONG_S, check=False)
    assert done.returncode == 1
    assert "Timeout" in done.stderr


@pytest.fixture
def server(tmp_path: Path, redis: Redis) -> Server:
    return Server(settings_for(tmp_path, redis.url))


@pytest.fixture
def workers(server: Server, tmp_path: Path) -> Iterator[list[Worker]]:
    started: list[Worker] = []
    yield started
    for worker in started:
        worker.close()


def test_a_busy_worker_keeps_no_turn_from_an_idle_one(server: Server, workers: list[Worker], tmp_path: Path) -> None:
    workers.append(Worker(server, tmp_path / "busy.log"))
    busy = [server.submit("wait"), server.submit("wait")]
    server.running(busy[0], Phase.PREDICTING)
    server.running(busy[1])
    later = [server.submit(model="gone") for _ in range(4)]  # fails before it needs the device, which is held
    workers.append(Worker(server, tmp_path / "idle.log"))
    assert {server.ended(uid).status for uid in later} == {Status.FAILED}
    assert {server.task(uid).status for uid in busy} == {Status.RUNNING}
    server.go.touch()
    assert {server.ended(uid).status for uid in busy} == {Status.FINISHED}
