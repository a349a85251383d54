from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from inference_server.errors import StoreUnavailable
from inference_server.tasks import figures
from inference_server.tasks import tally as module
from inference_server.tasks.database import Database
from inference_server.tasks.figures import Figure
from inference_server.tasks.tally import Tally


def told(database: Database) -> list[Figure]:
    with database.reading() as connection:
        return figures.read(connection)


@pytest.fixture
def _later(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is written but by `flush`."""
    monkeypatch.setattr(module, "PAUSE_S", 3600.0)
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        assert isinstance(thread, threading.Timer)
        thread.cancel()


@pytest.mark.usefixtures("_later")
def test_what_was_counted_is_written_once(database: Database) -> None:
    tally = Tally(database)
    for _ in range(3):
        tally.refused("mim", "too_large")
    tally.sign_in_refused()
    assert told(database) == []
    for _ in range(2):
        tally.flush()
    assert told(database) == [Figure("refused", "", "mim/too_large", counted=3), Figure("sign-in")]


@pytest.mark.usefixtures("_later")
def test_while_the_records_are_away_counts_are_kept(database: Database) -> None:
    tally = Tally(database)
    tally.sign_in_refused()
    _rename(database, "figures", "elsewhere")
    with pytest.raises(StoreUnavailable):
        tally.flush()
    tally.sign_in_refused()
    _rename(database, "elsewhere", "figures")
    tally.flush()
    assert told(database) == [Figure("sign-in", counted=2)]


def test_it_writes_by_itself_and_again_what_comes_later(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    tally, deadline = Tally(database), time.monotonic() + 20
    for number in (1, 2):
        tally.sign_in_refused()
        while told(database) != [Figure("sign-in", counted=number)]:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.usefixtures("_later")
def test_many_counts_wait_for_one_write(database: Database) -> None:
    tally, before = Tally(database), threading.active_count()
    for _ in range(100):
        tally.refused("native", "bad_request")
    assert threading.active_count() == before + 1


def _rename(database: Database, name: str, other: str) -> None:
    with database.writing() as connection:
        connection.execute(text(f"ALTER TABLE {name} RENAME TO {other}"))
