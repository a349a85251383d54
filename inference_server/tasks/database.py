"""The connection to the records: SQLite in WAL mode by default, any SQLAlchemy database by URL."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, PoolProxiedConnection, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from inference_server.errors import SettingsError, StoreUnavailable
from inference_server.tasks.schema import HEAD

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 15.0
"""How long a SQLite transaction waits for the writer before it; one takes about a millisecond."""
FIRST_LOOK_S, LAST_LOOK_S, LATER_LOOKS = 0.0002, 0.01, 1.5
"""When a SQLite transaction looks again whether the one before it has ended, and by which factor later and later."""
LOG_WAIT_MS = 200
"""Emptying the log keeps writers waiting while it waits for a reader itself; there is always a next time."""
RETRY_AFTER_S = (1.0, 60.0)
"""Shortest and longest time after which to try again while the database is away."""
CONNECTIONS = 8
"""Open connections per process. Transactions are short, so more threads than this simply take turns."""
_MIGRATION_LOCK = 0x1F5E_11CE


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn every error of the database or its driver into `StoreUnavailable`."""
    try:
        yield
    except (DBAPIError, PoolTimeout) as exc:
        log.error("database error", extra={"reason": _reason(exc)})
        raise StoreUnavailable from exc


def _reason(exc: Exception) -> str:
    """Say what is wrong; PostgreSQL quotes the values of a row that it refuses, and names its errors by a code."""
    cause = exc.__cause__ or exc
    state = getattr(cause, "sqlstate", None)
    return f"{type(cause).__name__} {state}" if state else str(cause)


class Database:
    """An engine that migrates itself and is made anew after a fork.

    Args:
        url: SQLAlchemy URL. The folder of a SQLite file is made if need be, for its owner only.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            _make_private(self._file)
        self.engine = self._new_engine()
        self._away_since: float | None = None
        self._of_parents: list[Engine] = []
        _DATABASES.add(self)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection, which must not write; on SQLite it sees one state of the records throughout.

        Raises:
            StoreUnavailable: the database cannot be reached.
        """
        with self._errors(), self.engine.connect().execution_options(reading=True) as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Give a connection that sees one state of the records throughout, on any database. It must not write.

        Raises:
            StoreUnavailable: the database cannot be reached.
        """
        options = {"reading": True} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        with self._errors(), self.engine.connect().execution_options(**options) as connection:
            yield connection

    @contextmanager
    def writing(self, *, wait_s: float | None = None) -> Iterator[Connection]:
        """Give a connection inside a transaction that is committed at the end, or undone by an exception.

        Args:
            wait_s: how long to wait for the writer before it, where there can be one only (SQLite); as long as may be
                where it is not given.

        Raises:
            StoreUnavailable: the database cannot be reached, or the wait for other writers was too long.
        """
        options = {"wait_s": wait_s}
        with self._errors(), self.engine.connect() as connection, connection.execution_options(**options).begin():
            yield connection

    @contextmanager
    def commit_counter(self) -> Iterator[Callable[[], int | None]]:
        """Give a function whose answer changes when anybody commits, or is None where that cannot be told.

        It reads from a connection of its own, for use by one thread.
        """
        if not self.is_sqlite:
            yield lambda: None
            return
        with store_errors():
            connection = self.engine.raw_connection()
            connection.detach()
        try:
            yield lambda: _data_version(connection)
        finally:
            connection.close()

    def migrate(self) -> None:
        """Bring the tables to the newest version; processes that start together wait for one another.

        Tables of a newer release are left as they are, since changes are additive for one release.

        Raises:
            StoreUnavailable: the database cannot be reached.
        """
        with store_errors():
            if self._is_ready():
                return
            with self._migration_lock():
                self._upgrade()

    def empty_log(self) -> None:
        """Write SQLite's log back into its file and empty it, unless a reader or writer is busy for long.

        Raises:
            StoreUnavailable: the database cannot be reached.
        """
        with store_errors(), self.engine.connect().execution_options(reading=True, plain=True) as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {LOG_WAIT_MS}")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self.engine.dispose()

    def before_fork(self) -> None:
        """Close idle connections, since a child must neither use nor close those of its parent."""
        self.engine.dispose()

    def after_fork(self) -> None:
        """Start over with an engine of one's own; the parent's is kept, untouched, as SQLite demands."""
        self._of_parents.append(self.engine)
        self.engine = self._new_engine()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Say when to try again: after as long as the database has been away already, since nothing else is known."""
        try:
            with store_errors():
                yield
        except StoreUnavailable as error:
            self._away_since = self._away_since or time.monotonic()
            away_s = time.monotonic() - self._away_since
            error.retry_after_s = min(max(away_s, RETRY_AFTER_S[0]), RETRY_AFTER_S[1])
            raise
        self._away_since = None

    @property
    def _file(self) -> Path:
        return Path(self._url.database or "").absolute()

    def _new_engine(self) -> Engine:
        options: dict[str, Any] = {"pool_size": CONNECTIONS, "max_overflow": 0, "pool_use_lifo": True}
        options["hide_parameters"] = True  # errors are logged, and a record may hold what a patient's case says
        if not self.is_sqlite:
            return create_engine(self._url, pool_pre_ping=True, **options)
        engine = create_engine(self._url, connect_args={"timeout": BUSY_TIMEOUT_S}, **options)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _is_ready(self) -> bool:
        with self.engine.connect().execution_options(reading=True) as connection:
            if self.is_sqlite and connection.scalar(text("PRAGMA journal_mode")) != "wal":
                return False
            return _version(connection) >= HEAD

    @contextmanager
    def _migration_lock(self) -> Iterator[None]:
        with _file_lock(self._file.with_suffix(".lock")) if self.is_sqlite else nullcontext():
            yield

    def _upgrade(self) -> None:
        if self.is_sqlite:
            with self.engine.connect().execution_options(reading=True, plain=True) as connection:
                connection.execute(text("PRAGMA journal_mode = WAL"))
        with self.engine.begin() as connection:
            if not self.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            if _version(connection) < HEAD:
                _run_migrations(connection)


def open_database(url: str) -> Database:
    """Return the migrated database at a SQLAlchemy URL.

    Raises:
        SettingsError: the URL is malformed, or of a database that no driver is installed for.
        StoreUnavailable: it cannot be reached.
    """
    try:
        database = Database(url)
    except (ArgumentError, ImportError) as exc:
        raise SettingsError(
            "The setting INFERENCE_SERVER_DATABASE_URL is not the URL of a database that can be used here. "
            "Examples: sqlite:////folder/records.sqlite, postgresql+psycopg://user:secret@host/name."
        ) from exc
    database.migrate()
    return database


def _make_private(file: Path) -> None:
    """Make a SQLite file and its folder for their owner only; the files that SQLite adds take over the mode."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
    except OSError as exc:
        raise StoreUnavailable(f"The server cannot make its records in {file.parent}: {exc.strerror}.") from exc


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    connection.create_function("power", 2, pow, deterministic=True)  # not every build of SQLite has it
    for pragma in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("plain"):
        return
    if options.get("reading"):
        connection.exec_driver_sql("BEGIN")
        return
    wait_s = BUSY_TIMEOUT_S if options.get("wait_s") is None else options["wait_s"]
    raw: Any = connection.connection.dbapi_connection
    raw.execute("PRAGMA busy_timeout = 0")
    try:
        if not _has_begun(raw, wait_s):
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # fails as whoever catches errors knows it
    finally:
        raw.execute(f"PRAGMA busy_timeout = {int(1000 * BUSY_TIMEOUT_S)}")


def _has_begun(connection: Any, wait_s: float) -> bool:
    """Begin to write as soon as no other does; return False where that was not possible.

    SQLite itself would look after 1, 2, 5 and more milliseconds, of which a transaction takes one.
    """
    until, pause_s = time.monotonic() + wait_s, FIRST_LOOK_S
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                return False
        else:
            return True
        time.sleep(pause_s)
        pause_s = min(pause_s * LATER_LOOKS, LAST_LOOK_S)


def _data_version(connection: PoolProxiedConnection) -> int:
    try:
        return int(connection.cursor().execute("PRAGMA data_version").fetchone()[0])
    except sqlite3.Error as exc:
        raise StoreUnavailable from exc


def _version(connection: Connection) -> str:
    if not connection.dialect.has_table(connection, "alembic_version"):
        return ""
    return str(connection.scalar(text("SELECT version_num FROM alembic_version")) or "")


def _run_migrations(connection: Connection) -> None:
    # Alembic takes as long to import as everything else here together, and is needed once per release.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, HEAD)
    except SQLAlchemyError:
        log.error("migration failed", extra={"target": HEAD})
        raise


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


_DATABASES: weakref.WeakSet[Database] = weakref.WeakSet()


def _before_fork() -> None:
    for database in list(_DATABASES):
        database.before_fork()


def _after_fork() -> None:
    for database in list(_DATABASES):
        database.after_fork()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
