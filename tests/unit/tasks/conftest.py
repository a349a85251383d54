from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from records import Clock

from inference_server.tasks.claims import Claims
from inference_server.tasks.database import Database, open_database
from inference_server.tasks.store import Store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def empty_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "records.sqlite"
    open_database(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def database(tmp_path: Path, empty_records: Path) -> Iterator[Database]:
    shutil.copy(empty_records, tmp_path)
    database = open_database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    yield database
    database.close()


@pytest.fixture
def store(database: Database, clock: Clock) -> Store:
    return Store(database, clock=clock)


@pytest.fixture
def claims(database: Database, clock: Clock) -> Claims:
    return Claims(database, max_attempts=3, clock=clock)
