"""What a claim, a submission and a look at the queue cost, with few and with many waiting tasks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, text

from benchmarks.measure import Figure, Side, in_turns
from inference_server.tasks.admission import Bounds
from inference_server.tasks.claims import Claims
from inference_server.tasks.database import Database, open_database
from inference_server.tasks.record import Holder, NewTask, new_uid
from inference_server.tasks.store import Store

FEW, MANY = 100, 100_000
TIMES, WARM = 60, 10
"""So that fewer are claimed than wait at first."""
LIMIT = 10**6
TOLERATED = 1.5
"""Ratio of medians above which a cost is said to grow with the queue; single runs scatter by some tenths."""

FILL = """
    WITH RECURSIVE number(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM number WHERE i + 1 < :count)
    INSERT INTO tasks (uid, model, version, digest, dialect, fingerprint, revision, attempts, created_at, queued_at,
        case_size_bytes, progress, parameters, outputs, report, status, queue, token, priority)
    SELECT 'filled-' || i, 'm' || (i % 4), '1', 'd', 'native', '', 1, 0, :at, :at, 1, 0, '{}', '[]', '{}', 'queued',
        'default', 'token-' || (i % 10), i / 10 % 3
    FROM number
    WHERE i < :count
"""


def measure() -> list[Figure]:
    """Return the median times at 100 and at 100,000 waiting tasks of ten tokens, and their ratios."""
    with _records(FEW) as of_few, _records(MANY) as of_many:
        few, many = Side(f"{FEW} waiting", _actions(of_few)), Side(f"{MANY:,} waiting", _actions(of_many))
        return list(in_turns(few, many, times=TIMES, warm=WARM, tolerated=TOLERATED))


def _actions(database: Database) -> dict[str, Callable[[], object]]:
    store = Store(database, bounds=Bounds(LIMIT, LIMIT, LIMIT))
    claims = Claims(database)
    first = store.get("filled-0")
    return {
        "position of a task that is soon next": lambda: store.position(first),
        "expected wait": lambda: store.expected_wait_s(first),
        "submit": lambda: store.add(new_task()),
        "claim": lambda: claims.claim(["default"], Holder("w", 1), 600.0),
    }


@contextmanager
def _records(count: int) -> Iterator[Database]:
    with tempfile.TemporaryDirectory() as folder:
        database = open_database(f"sqlite:///{Path(folder) / 'records.sqlite'}")
        with database.writing() as connection:
            fill(connection, count)
        yield database
        database.close()


def fill(connection: Connection, count: int) -> None:
    """Put this many waiting tasks of ten tokens and four models into empty records."""
    connection.execute(text(FILL), {"count": count, "at": time.time()})
    connection.execute(text("INSERT INTO usage SELECT DISTINCT token, 0, 0 FROM tasks"))


def new_task(token: str = "token-0") -> NewTask:
    """Return a task to submit."""
    return NewTask(
        uid=new_uid(),
        model="m0",
        version="1",
        digest="d",
        queue="default",
        dialect="native",
        token=token,
        case_blob=new_uid(),
        case_size_bytes=1,
    )
