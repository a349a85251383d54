"""The records, in every database that they may be in."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from postgres import fresh_database, postgres
from records import Clock, emptied

from inference_server.tasks.claims import Claims
from inference_server.tasks.database import Database, open_database
from inference_server.tasks.store import Store


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_url(postgres_server: str) -> Iterator[str]:
    with fresh_database(postgres_server) as url:
        yield url


@contextmanager
def _opened(url: str) -> Iterator[Database]:
    database = open_database(url)
    yield database
    database.close()


@pytest.fixture(scope="session")
def postgres_database(postgres_url: str) -> Iterator[Database]:
    with _opened(postgres_url) as database:
        yield database


@pytest.fixture(scope="session")
def sqlite_database() -> Iterator[Database]:
    """In memory where the machine has such a folder: thousands of commits need not reach a disk here."""
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        _opened(f"sqlite:///{folder}/records.sqlite") as database,
    ):
        yield database


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    """Empty records."""
    kinds: dict[str, Callable[[], Database]] = {
        "sqlite": lambda: request.getfixturevalue("sqlite_database"),
        "postgresql": lambda: request.getfixturevalue("postgres_database"),
    }
    return emptied(kinds[request.param]())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database, clock: Clock) -> Store:
    return Store(database, clock=clock)


@pytest.fixture
def claims(database: Database, clock: Clock) -> Claims:
    return Claims(database, max_attempts=3, clock=clock)
