from __future__ import annotations

import re

import pytest
from sqlalchemy import Connection, text

from inference_server.tasks.claims import claim_statement
from inference_server.tasks.database import Database

FILL = """
    WITH RECURSIVE number(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM number WHERE i + 1 < :count)
    INSERT INTO tasks (uid, model, version, digest, dialect, fingerprint, revision, attempts, created_at, queued_at,
        case_size_bytes, progress, parameters, outputs, report, status, queue, token, priority)
    SELECT i, 'm', '1', 'd', 'mim', '', 1, 0, 0, 0, 1, 0, '{}', '[]', '{}', 'queued',
        CASE i % 2 WHEN 0 THEN 'default' ELSE 'other' END, 'token-' || (i / 2 % 5), i / 10 % 3
    FROM number
"""


def _fill(connection: Connection, count: int) -> None:
    connection.exec_driver_sql("DELETE FROM tasks")
    connection.execute(text(FILL), {"count": count})
    connection.exec_driver_sql("INSERT OR IGNORE INTO usage SELECT DISTINCT token, 0, 0 FROM tasks")


VALUES = {
    "queues": ["default", "other"],
    "at": 1.0,
    "lease": 2.0,
    "fresh": "t",
    "the_worker": "w",
    "the_pid": 1,
}


def _instructions_of_a_claim(connection: Connection) -> int:
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    raw = connection.connection.driver_connection
    assert raw is not None
    raw.set_progress_handler(tick, 1)
    assert connection.execute(claim_statement("sqlite"), VALUES).one().status == "running"
    raw.set_progress_handler(None, 1)
    return count


def test_a_claim_takes_as_many_steps_among_100_000_waiting_tasks_as_among_100(database: Database) -> None:
    steps = []
    for count in (100, 99_900):
        with database.writing() as connection:
            _fill(connection, count)
            steps.append(_instructions_of_a_claim(connection))
    assert steps[1] == pytest.approx(steps[0], rel=0.05)


def test_the_plan_of_a_claim_reads_waiting_tasks_through_their_index_only(database: Database) -> None:
    seen: list[str] = []
    with database.writing() as connection:
        _fill(connection, 1000)
        connection.exec_driver_sql("ANALYZE")
        raw = connection.connection.driver_connection
        assert raw is not None
        raw.set_trace_callback(seen.append)
        connection.execute(claim_statement("sqlite"), VALUES)
        raw.set_trace_callback(None)
        plan = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {seen[0]}")]
    of_tasks = {line.replace("COVERING ", "") for line in plan if re.search(r"\b(tasks|waiting)\b", line)}
    assert of_tasks == {
        "SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH waiting USING INDEX tasks_to_claim (queue=? AND token=? AND priority=?)",
    }
