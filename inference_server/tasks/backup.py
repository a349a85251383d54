"""Backups: a folder with all records in a SQLite file, the blobs that they name, and the certificate of HTTPS.

A backup holds no trace of which database and blob store it was made from, so that it is restored into any others.

Source: this project.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import Column, Connection, func, insert, literal, select

from inference_server.errors import ResultGone, SettingsError
from inference_server.settings import Settings
from inference_server.tasks.blobs import Blobs, open_blobs
from inference_server.tasks.database import Database, open_database
from inference_server.tasks.schema import HEAD, audit_forgetting, figures, loads, tasks, workers
from inference_server.tasks.tickets.tables import metadata

FORMAT = 1
ABOUT, RECORDS, FILES, TLS = "backup.json", "records.sqlite", "files", "tls"
PARTIAL = ".partial"
BATCH = 500
"""Rows that are held in memory at a time."""

_LEFT_OUT = {loads, workers, audit_forgetting}
"""What triggers make anew from the tasks, and what only says what goes on at the moment."""
_TABLES = [table for table in metadata.sorted_tables if table not in {*_LEFT_OUT, figures}] + [figures]
"""Each after those that it refers to; the figures last, since triggers count tasks that are put back as new ones."""


@dataclass(frozen=True)
class Backup:
    """What a backup holds. `taken_at` is in seconds since the epoch, `schema` the newest migration of its records."""

    taken_at: float
    tasks: int
    files: int
    size_bytes: int
    schema: str = HEAD
    format: int = FORMAT


def back_up(settings: Settings, folder: Path) -> Backup:
    """Write a backup while the server goes on; it is in its place only when it is whole.

    Args:
        settings: of the server.
        folder: made for its owner only; must not be there yet.

    Raises:
        SettingsError: the folder is there or cannot be written.
        StoreUnavailable: the records or the blobs cannot be reached.
    """
    partial = folder.with_name(folder.name + PARTIAL)
    with _folder_errors(folder):
        if folder.exists():
            raise SettingsError(f"{folder} is there already; a backup is written into a new folder.")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, mode=0o700)
        about = _save(settings, partial)
        (partial / ABOUT).write_text(json.dumps(asdict(about)))
        _copy_pair(settings.data_dir / TLS, partial / TLS)
        os.sync()
        partial.rename(folder)
    return about


def restore(settings: Settings, folder: Path) -> Backup:
    """Put a backup into the database and the blob store of the settings, which must hold no records yet.

    Raises:
        SettingsError: this is no backup, one of a newer release, or there are records already.
        StoreUnavailable: the records or the blobs cannot be reached.
    """
    about = _about(folder)
    with closing(open_database(settings.database)) as database:
        _refuse_used(database)
        blobs = open_blobs(settings)
        keys = {path.name: _put(blobs, path) for path in sorted((folder / FILES).iterdir())}
        with _records(folder) as saved, saved.snapshot() as source, database.writing() as target:
            _copy_rows(source, target, keys)
            _go_on_counting(target)
    if not (settings.data_dir / TLS).exists():
        _copy_pair(folder / TLS, settings.data_dir / TLS)
    return about


def _save(settings: Settings, folder: Path) -> Backup:
    taken_at, blobs = time.time(), open_blobs(settings)
    with closing(open_database(f"sqlite:///{folder.absolute() / RECORDS}")) as copy:
        with (
            closing(open_database(settings.database)) as database,
            database.snapshot() as source,
            copy.writing() as target,
        ):
            _copy_rows(source, target, {})
        with copy.reading() as connection:
            count = connection.scalar(select(func.count()).select_from(tasks))
            keys = {key for column in _key_columns() for key in connection.scalars(select(column)) if key}
        copy.empty_log()
    (folder / FILES).mkdir(mode=0o700)
    sizes = [size for key in sorted(keys) if (size := _fetch(blobs, key, folder / FILES / key)) is not None]
    return Backup(taken_at, int(count or 0), len(sizes), sum(sizes))


def _fetch(blobs: Blobs, key: str, path: Path) -> int | None:
    """Copy a blob and return its size; None if it was deleted since the records were read, as it then shall stay."""
    try:
        with blobs.open(key) as source, path.open("xb") as target:
            shutil.copyfileobj(source, target)
    except ResultGone:
        path.unlink(missing_ok=True)
        return None
    return path.stat().st_size


def _put(blobs: Blobs, path: Path) -> str:
    staged = blobs.stage()
    try:
        shutil.copyfile(path, staged)
        return blobs.put(staged)
    finally:
        blobs.discard(staged)


def _copy_rows(source: Connection, target: Connection, keys: Mapping[str, str]) -> None:
    """Copy all rows; blobs are named by their new keys, those that are not in the backup by the old ones."""
    for table in _TABLES:
        if table is figures:
            target.execute(figures.delete())
        renamed = [column.name for column in table.columns if _names_a_blob(column)]
        for rows in source.execute(select(table)).yield_per(BATCH).mappings().partitions():
            changed = ({name: keys.get(row[name], row[name]) for name in renamed} for row in rows)
            target.execute(insert(table), [{**row, **change} for row, change in zip(rows, changed, strict=True)])


def _go_on_counting(target: Connection) -> None:
    """Have PostgreSQL's sequences go on after the numbers that were put in; SQLite does so by itself."""
    if target.dialect.name == "sqlite":
        return
    for table in _TABLES:
        for column in table.primary_key:
            if column is table.autoincrement_column:
                sequence = func.pg_get_serial_sequence(table.name, column.name)
                highest = select(func.max(column)).scalar_subquery()
                target.execute(select(func.setval(sequence, func.coalesce(highest, 1), highest.is_not(None))))


def _key_columns() -> Iterator[Column[str]]:
    return (column for table in _TABLES for column in table.columns if _names_a_blob(column))


def _names_a_blob(column: Column[object]) -> bool:
    return column.name == "blob" or column.name.endswith("_blob")


def _refuse_used(database: Database) -> None:
    with database.reading() as connection:
        used = [table for table in _TABLES if connection.scalar(select(literal(1)).select_from(table).limit(1))]
    if used:
        raise SettingsError("There are records already; a backup is restored into an empty data folder or database.")


def _about(folder: Path) -> Backup:
    try:
        about = Backup(**json.loads((folder / ABOUT).read_text()))
    except (OSError, ValueError, TypeError) as exc:
        raise SettingsError(f"{folder} is no whole backup; the file {ABOUT} is missing there or damaged.") from exc
    if about.format > FORMAT or about.schema > HEAD:
        raise SettingsError("This backup was made by a newer release; restore it with that one.")
    return about


@contextmanager
def _records(folder: Path) -> Iterator[Database]:
    """Open the records of a backup, in a copy that an older release's are brought up to date in."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name, RECORDS)
        shutil.copyfile(folder / RECORDS, copy)
        with closing(open_database(f"sqlite:///{copy}")) as database:
            yield database


def _copy_pair(source: Path, target: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.copytree(source, target)
        target.chmod(0o700)


@contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise SettingsError(f"The backup {folder} cannot be written: {exc.strerror}.") from exc
