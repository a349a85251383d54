"""Several that claim at the same moment: nobody waits for another, and no task is taken twice."""

from __future__ import annotations

import multiprocessing
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing

import pytest
from records import HOLDER, LEASE_S, added, claimed, emptied
from sqlalchemy import text

from inference_server.tasks.claims import Claims, claim_statement
from inference_server.tasks.database import Database, open_database
from inference_server.tasks.record import Holder, new_uid
from inference_server.tasks.store import Store, TaskFilter

CLAIMERS = 6
TASKS = 90


def test_no_task_is_claimed_twice_and_none_is_left_over(database: Database) -> None:
    store = Store(database)
    uids = [added(store, token=f"t{number % 3}").uid for number in range(TASKS)]
    start = threading.Barrier(CLAIMERS)

    def claim_all(number: int) -> list[str]:
        claims, taken = Claims(database), []
        start.wait()
        while claim := claims.claim(["default"], Holder("worker", number), LEASE_S):
            taken.append(claim.task.uid)
            assert claims.finish(claim, blob=new_uid(), size_bytes=1, report={}, device_s=0.1)
        return taken

    with ThreadPoolExecutor(CLAIMERS) as pool:
        taken = Counter(uid for uids in pool.map(claim_all, range(CLAIMERS)) for uid in uids)
    assert taken == dict.fromkeys(uids, 1)
    with database.reading() as connection:
        counts = connection.execute(text("SELECT sum(waiting), sum(running) FROM loads")).one()
    assert [count or 0 for count in counts] == [0, 0]


def submit_and_claim(url: str, number: int) -> int:
    """Submit tasks and claim one after each; return how many claims found one. In a process of its own."""
    with closing(open_database(url)) as database:
        store, claims, count = Store(database), Claims(database), 0
        for _ in range(TASKS):
            added(store, token=f"t{number}")
            if claim := claims.claim(["default"], Holder("worker", number), LEASE_S):
                count += claims.finish(claim, blob=new_uid(), size_bytes=1, report={}, device_s=1.0)
        return count


def test_who_has_submitted_a_task_claims_one_whatever_others_take_meanwhile(
    postgres: Database, postgres_url: str
) -> None:
    with ProcessPoolExecutor(CLAIMERS, multiprocessing.get_context("spawn")) as pool:
        counts = [pool.submit(submit_and_claim, postgres_url, number) for number in range(CLAIMERS)]
        assert [count.result(timeout=100) for count in counts] == [TASKS] * CLAIMERS


@pytest.fixture
def postgres(postgres_database: Database) -> Database:
    return emptied(postgres_database)


def test_a_claim_does_not_wait_for_one_that_is_not_committed(postgres: Database) -> None:
    store, claims = Store(postgres), Claims(postgres)
    first, second = added(store).uid, added(store).uid
    values = {"at": 1.0, "lease": 2.0, "fresh": "t", "the_worker": "hangs", "the_pid": 1, "queues": ["default"]}
    with postgres.writing() as hanging:
        hanging.execute(text("SET LOCAL lock_timeout = '5s'"))
        assert hanging.execute(claim_statement("postgresql"), values).one().uid == first
        with ThreadPoolExecutor(1) as pool:
            claim = pool.submit(claims.claim, ["default"], HOLDER, LEASE_S).result(timeout=10)
        assert claim is not None
        assert claim.task.uid == second
        hanging.rollback()
    assert claimed(claims).task.uid == first


def test_counts_of_many_connections_are_put_together(postgres_url: str, postgres: Database) -> None:
    for _ in range(3):
        other = open_database(postgres_url)
        added(Store(other))
        other.close()
    claimed(Claims(postgres))
    rows = "SELECT count(*), sum(waiting), sum(running) FROM loads"
    with postgres.reading() as connection:
        assert connection.execute(text(rows)).one()[0] > 1
    Claims(postgres).tidy()
    with postgres.reading() as connection:
        assert tuple(connection.execute(text(rows)).one()) == (1, 2, 1)
    store = Store(postgres)
    for task in store.page(TaskFilter()).tasks:
        store.delete(task.uid)
    Claims(postgres).tidy()
    with postgres.reading() as connection:
        assert connection.execute(text(rows)).one()[0] == 0
