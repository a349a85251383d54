from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from inference_server.errors import SettingsError, StoreUnavailable
from inference_server.tasks import database as database_module
from inference_server.tasks.database import Database, open_database
from inference_server.tasks.schema import HEAD, usage
from inference_server.tasks.tickets.tables import metadata

MIGRATIONS = Path(database_module.__file__).with_name("migrations")


def _tables(path: Path) -> dict[str, str]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {name: re.sub(r"\s+", " ", sql) for name, sql in rows if name != "alembic_version"}


def test_the_migrations_make_exactly_the_tables_of_the_schema(database: Database, tmp_path: Path) -> None:
    declared = Database(f"sqlite:///{tmp_path / 'declared.sqlite'}")
    with declared.writing() as connection:
        metadata.create_all(connection)
    declared.close()
    assert _tables(tmp_path / "records.sqlite") == _tables(tmp_path / "declared.sqlite")


def test_the_head_of_the_schema_is_the_newest_migration() -> None:
    numbers = sorted(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    assert numbers[-1] == HEAD


def test_a_sqlite_file_is_in_wal_mode_and_commits_are_synced_in_full(database: Database) -> None:
    with database.reading() as connection:
        pragmas = {
            name: connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_database_that_is_up_to_date_is_opened_without_alembic(database: Database, tmp_path: Path) -> None:
    code = (
        "import sys; from inference_server.tasks.database import open_database;"
        f"open_database('sqlite:///{tmp_path / 'records.sqlite'}'); print('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"


def test_a_database_of_a_newer_release_is_left_as_it_is(database: Database, tmp_path: Path) -> None:
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    again = open_database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    with again.reading() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    again.close()


def test_a_file_restored_without_wal_mode_gets_it_back(database: Database, tmp_path: Path) -> None:
    database.close()
    with sqlite3.connect(tmp_path / "records.sqlite") as connection:
        assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    connection.close()
    again = open_database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    with again.reading() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
    again.close()


def test_a_failed_transaction_leaves_nothing_behind(database: Database) -> None:
    def stop_half_way() -> None:
        with database.writing() as connection:
            connection.execute(insert(usage), {"token": "a", "score": 1.0, "standing": 1.0})
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_half_way()
    with database.reading() as connection:
        assert connection.execute(select(usage)).all() == []


def test_a_writer_that_waits_too_long_for_another_one_is_told_that_the_store_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.05)
    database = open_database(f"sqlite:///{tmp_path / 'busy.sqlite'}")
    with database.writing(), pytest.raises(StoreUnavailable), database.writing():
        pass
    database.close()


def test_a_transaction_takes_the_write_lock_before_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.0)
    database = open_database(f"sqlite:///{tmp_path / 'busy.sqlite'}")
    with database.writing() as first:
        first.execute(select(usage)).all()
        with pytest.raises(StoreUnavailable), database.writing():
            pass
        with database.reading() as reader:
            assert reader.execute(select(usage)).all() == []
    database.close()


def test_a_reader_sees_one_state_throughout(database: Database) -> None:
    with database.reading() as reader:
        before = reader.execute(select(usage)).all()
        with database.writing() as writer:
            writer.execute(insert(usage), {"token": "a", "score": 1.0, "standing": 1.0})
        assert reader.execute(select(usage)).all() == before == []


def test_a_file_that_is_no_database_is_a_store_that_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "bad.sqlite").write_bytes(b"this is a text and no database at all" * 100)
    with pytest.raises(StoreUnavailable):
        open_database(f"sqlite:///{tmp_path / 'bad.sqlite'}")


def test_a_forked_child_works_on_connections_of_its_own(database: Database) -> None:
    with database.writing() as connection:
        connection.execute(insert(usage), {"token": "parent", "score": 0.0, "standing": 0.0})
    parents = database.engine
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with database.writing() as connection:
                connection.execute(insert(usage), {"token": "child", "score": 0.0, "standing": 0.0})
            status = 0 if database.engine is not parents else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with database.reading() as connection:
        assert sorted(connection.scalars(select(usage.c.token))) == ["child", "parent"]
    assert database.engine is parents


def test_the_commit_counter_changes_with_commits_of_others_and_only_then(database: Database) -> None:
    with database.commit_counter() as counter:
        first = counter()
        assert counter() == first
        with database.writing() as connection:
            connection.execute(insert(usage), {"token": "a", "score": 1.0, "standing": 1.0})
        second = counter()
        assert second != first
        with database.reading() as connection:
            connection.execute(select(usage)).all()
        assert counter() == second


def test_records_are_for_their_owner_only(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'new' / 'records.sqlite'}")
    with database.writing() as connection:
        connection.execute(insert(usage).values(token="t", score=0.0, standing=0.0))
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").glob("records.sqlite*")}
    database.close()
    assert modes == dict.fromkeys(("records.sqlite", "records.sqlite-wal", "records.sqlite-shm"), 0o600)


@pytest.mark.parametrize("url", ["garbage", "foo://host/name"])
def test_a_url_of_no_database_is_a_malformed_setting(url: str) -> None:
    with pytest.raises(SettingsError, match="INFERENCE_SERVER_DATABASE_URL"):
        open_database(url)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="file"):
        open_database(f"sqlite:///{tmp_path / 'file' / 'records.sqlite'}")


def test_while_the_records_are_away_who_asks_is_told_to_wait_as_long_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    now = [1000.0]
    monkeypatch.setattr(database_module.time, "monotonic", lambda: now[0])

    def told() -> float | None:
        with pytest.raises(StoreUnavailable) as refusal, database.reading() as connection:
            connection.execute(text("SELECT x FROM away"))
        return refusal.value.retry_after_s

    assert told() == 1.0
    now[0] += 30
    assert told() == 30.0
    now[0] += 600
    assert told() == 60.0
    with database.reading() as connection:
        connection.execute(select(usage)).all()
    assert told() == 1.0
    database.close()
