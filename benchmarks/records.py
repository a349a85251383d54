"""How many tasks a second PostgreSQL takes through their whole life, from several processes at once.

PostgreSQL and the processes share this machine, and it does not wait for its disk: what is measured is what a task
costs the database in processor time, not what a disk adds to each commit.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from contextlib import closing
from pathlib import Path

from benchmarks.measure import Figure
from benchmarks.queue import new_task
from inference_server.tasks.admission import Bounds
from inference_server.tasks.claims import Claims
from inference_server.tasks.database import open_database
from inference_server.tasks.record import Holder, Phase, new_uid
from inference_server.tasks.store import Store

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = 8
TASKS = 150
"""For each process."""
BEATS = 10
"""Renewals of a task: one of half a minute at the default beat."""
LIMIT = 10**6


def measure() -> list[Figure]:
    """Return whole lives and renewals a second."""
    sys.path.append(str(ROOT / "tests"))  # which know how to start a PostgreSQL
    from postgres import fresh_database, postgres

    with postgres() as server, fresh_database(server) as url:
        open_database(url).close()
        lives, beats = (_per_s(url, count) for count in (0, BEATS))
    renewals = BEATS / (1 / beats - 1 / lives)
    return [
        Figure("load average of the machine meanwhile", os.getloadavg()[0], ""),
        Figure(f"submitted, claimed and finished, {PROCESSES} processes", lives, "tasks/s"),
        Figure(f"the same with {BEATS} renewals each", beats, "tasks/s"),
        Figure("renewals, from the difference", renewals, "/s"),
    ]


def _per_s(url: str, beats: int) -> float:
    context = multiprocessing.get_context("spawn")
    begin = context.Barrier(PROCESSES + 1)
    workers = [context.Process(target=_live, args=(url, beats, begin)) for _ in range(PROCESSES)]
    for worker in workers:
        worker.start()
    begin.wait()
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    assert not any(worker.exitcode for worker in workers)
    return PROCESSES * TASKS / (time.perf_counter() - start)


def _live(url: str, beats: int, begin: object) -> None:
    with closing(open_database(url)) as database:
        store, claims = Store(database, bounds=Bounds(LIMIT, LIMIT, LIMIT)), Claims(database)
        begin.wait()  # type: ignore[attr-defined]
        for _ in range(TASKS):
            store.add(new_task(f"token-{os.getpid() % 10}"))
            claim = claims.claim(["default"], Holder("w", os.getpid()), 600.0)
            assert claim
            for _ in range(beats):
                claims.renew(claim, 600.0, phase=Phase.PREDICTING, progress=0.5)
            assert claims.finish(claim, blob=new_uid(), size_bytes=1, report={}, device_s=1.0)
