"""The audit log is kept by the database: whatever a statement says, a line stays as it was written."""

from __future__ import annotations

import pytest
from records import Clock, added
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from inference_server.tasks.append_only import REFUSAL
from inference_server.tasks.audit import Audit
from inference_server.tasks.database import Database
from inference_server.tasks.store import Store

TAMPERING = [
    "UPDATE audit SET token = 'mallory'",
    "UPDATE audit SET time = 0 WHERE action = 'submitted'",
    "DELETE FROM audit",
    "DELETE FROM audit WHERE uid <> ''",
]
OF_ONE_DATABASE = {
    "sqlite": [
        "INSERT OR REPLACE INTO audit SELECT seq, time, 'mallory', dialect, action, uid FROM audit",
        "UPDATE OR REPLACE audit SET seq = seq + 1",
    ],
    "postgresql": [
        "TRUNCATE audit",
        "INSERT INTO audit SELECT seq, time, 'mallory', dialect, action, uid FROM audit "
        "ON CONFLICT (seq) DO UPDATE SET token = excluded.token",
    ],
}


def test_a_line_is_neither_changed_nor_removed(database: Database, store: Store) -> None:
    added(store)
    added(store)
    before = list(Audit(database).entries())
    for statement in [*TAMPERING, *OF_ONE_DATABASE[database.engine.dialect.name]]:
        with pytest.raises(DBAPIError, match=REFUSAL), database.engine.begin() as connection:
            connection.execute(text(statement))
        assert list(Audit(database).entries()) == before, statement
    assert len(before) == 2


def test_lines_whose_time_is_over_go_and_the_others_stay_kept(database: Database, store: Store, clock: Clock) -> None:
    added(store)
    clock.now += 100
    kept = added(store).uid
    assert Audit(database, clock=clock).forget(50) == 1
    assert [entry.uid for entry in Audit(database).entries()] == [kept]
    with pytest.raises(DBAPIError, match=REFUSAL), database.engine.begin() as connection:
        connection.execute(text("DELETE FROM audit"))
