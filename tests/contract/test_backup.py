"""A backup holds everything, and is restored into any database and any file storage."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres import fresh_database
from records import HOLDER, LEASE_S, claimed, new_task
from sqlalchemy import JSON, Boolean, Column, Double, Integer, String, Table, insert, select

from inference_server.errors import SettingsError
from inference_server.settings import Settings
from inference_server.tasks.backup import back_up, restore
from inference_server.tasks.blobs import open_blobs
from inference_server.tasks.claims import Claims
from inference_server.tasks.database import Database, open_database
from inference_server.tasks.schema import audit_forgetting, loads, workers
from inference_server.tasks.store import Store
from inference_server.tasks.tickets.tables import metadata

DERIVED = {loads, workers, audit_forgetting}
TABLES = [table for table in metadata.sorted_tables if table not in DERIVED]
CONTENT = b"a blob"
Rows = dict[str, list[dict[str, Any]]]
MakeSettings = Callable[[str, str], Settings]


@pytest.fixture
def make_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeSettings]:
    """Make the settings of a server of its own, with an empty database of some kind."""
    used = []

    def make(kind: str, name: str) -> Settings:
        url = None
        if kind == "postgresql":
            used.append(fresh_database(request.getfixturevalue("postgres_server")))
            url = used[-1].__enter__()
        return Settings(data_dir=tmp_path / name, database_url=url)

    yield make
    for one in used:
        one.__exit__(None, None, None)


def blob(settings: Settings, content: bytes = CONTENT) -> str:
    blobs = open_blobs(settings)
    staged = blobs.stage()
    staged.write_bytes(content)
    return blobs.put(staged)


def value(column: Column[Any], key: str) -> Any:
    """Return something to stand in a column, whatever it means; the same for a column and what it refers to."""
    if column.name.endswith("blob"):
        return key
    if column.name == "status":
        return "finished"
    kinds = {String: column.name, Double: 1.5, JSON: {"a": [1, None]}, Integer: 3, Boolean: True}
    if column.foreign_keys:
        [reference] = column.foreign_keys
        return value(reference.column, key)
    return next(given for kind, given in kinds.items() if isinstance(column.type, kind))


def filled(settings: Settings, key: str) -> Database:
    """Return records with one row in every table."""
    database = open_database(settings.database)
    with database.writing() as connection:
        for table in TABLES:
            row = {column.name: value(column, key) for column in table.columns}
            connection.execute(insert(table), row)
    return database


def rows_of(database: Database, settings: Settings) -> Rows:
    """Return all rows by table; of a blob its content, since keys may differ."""
    blobs = open_blobs(settings)

    def content(key: str) -> bytes:
        with blobs.open(key) as file:
            return file.read()

    def shown(row: dict[str, Any]) -> dict[str, Any]:
        return {name: content(one) if name.endswith("blob") else one for name, one in row.items()}

    def rows(table: Table) -> list[dict[str, Any]]:
        with database.reading() as connection:
            return sorted((shown(dict(row)) for row in connection.execute(select(table)).mappings()), key=repr)

    return {table.name: rows(table) for table in TABLES}


@pytest.mark.parametrize("into", ["sqlite", "postgresql"])
@pytest.mark.parametrize("of", ["sqlite", "postgresql"])
def test_every_table_and_blob_comes_back(of: str, into: str, make_settings: MakeSettings, tmp_path: Path) -> None:
    one, other = make_settings(of, "one"), make_settings(into, "other")
    source = filled(one, blob(one))
    before = rows_of(source, one)
    assert all(before.values())
    assert back_up(one, tmp_path / "backup").files == 1
    about = restore(other, tmp_path / "backup")
    target = open_database(other.database)
    assert rows_of(target, other) == before
    assert about.size_bytes == len(CONTENT)
    source.close()
    target.close()


@pytest.mark.parametrize("into", ["sqlite", "postgresql"])
def test_a_restored_server_goes_on(into: str, make_settings: MakeSettings, tmp_path: Path) -> None:
    one, other = make_settings("sqlite", "one"), make_settings(into, "other")
    store = Store(open_database(one.database))
    uids = [store.add(new_task(case_blob=blob(one)))[0].uid for _ in range(3)]
    running = claimed(Claims(store.database, max_attempts=3)).task.uid
    back_up(one, tmp_path / "backup")
    restore(other, tmp_path / "backup")
    restored = Store(open_database(other.database))
    claims = Claims(restored.database, max_attempts=3, clock=lambda: 1e12)
    assert restored.get(running).status == "running"
    assert claims.expire_leases() == [running]
    added = restored.add(new_task(case_blob=blob(other)))[0].uid
    assert [claimed(claims).task.uid for _ in range(4)] == [*uids, added]
    assert claims.claim(["default"], HOLDER, LEASE_S) is None
    restored.database.close()
    store.database.close()


def test_what_was_deleted_meanwhile_stays_so(make_settings: MakeSettings, tmp_path: Path) -> None:
    one, other = make_settings("sqlite", "one"), make_settings("sqlite", "other")
    store = Store(open_database(one.database))
    kept, gone = (store.add(new_task(case_blob=blob(one)))[0] for _ in range(2))
    with store.database.reading() as connection:
        tasks = metadata.tables["tasks"]
        key = connection.scalar(select(tasks.c.case_blob).where(tasks.c.uid == gone.uid))
    open_blobs(one).delete(str(key))
    about = back_up(one, tmp_path / "backup")
    assert (about.tasks, about.files) == (2, 1)
    assert restore(other, tmp_path / "backup") == about
    assert Store(open_database(other.database)).get(kept.uid).status == "queued"


def test_only_its_owner_may_read_it(make_settings: MakeSettings, tmp_path: Path) -> None:
    one = make_settings("sqlite", "one")
    filled(one, blob(one)).close()
    (one.data_dir / "tls").mkdir(mode=0o700)
    (one.data_dir / "tls" / "key.pem").write_text("secret")
    back_up(one, tmp_path / "backup")
    folders = [tmp_path / "backup", *(path for path in (tmp_path / "backup").rglob("*") if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    assert (tmp_path / "backup" / "tls" / "key.pem").read_text() == "secret"


def test_what_cannot_be_done_is_said(make_settings: MakeSettings, tmp_path: Path) -> None:
    one, other = make_settings("sqlite", "one"), make_settings("sqlite", "other")
    filled(one, blob(one)).close()
    folder = tmp_path / "backup"
    back_up(one, folder)
    with pytest.raises(SettingsError, match="is there already"):
        back_up(one, folder)
    with pytest.raises(SettingsError, match="There are records already"):
        restore(one, folder)
    about = json.loads((folder / "backup.json").read_text())
    (folder / "backup.json").write_text(json.dumps({**about, "format": about["format"] + 1}))
    with pytest.raises(SettingsError, match="newer release"):
        restore(other, folder)
    (folder / "backup.json").unlink()
    with pytest.raises(SettingsError, match="no whole backup"):
        restore(other, folder)
    with pytest.raises(SettingsError, match="cannot be written"):
        back_up(one, tmp_path / "backup" / "records.sqlite" / "below")
