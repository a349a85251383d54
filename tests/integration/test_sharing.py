"""Real workers on a long queue: who goes first, and after whom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import Redis
from servers import Server, Worker, settings_for, until

from inference_server.tasks.record import Phase, Priority, Status

FLOOD = 200
LIMIT_S = 120.0


@pytest.fixture
def server(tmp_path: Path, redis: Redis) -> Server:
    return Server(settings_for(tmp_path, redis.url))


@pytest.fixture
def worker(server: Server, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(server, tmp_path / "worker.log")
    yield worker
    worker.close()


def test_no_flood_delays_an_urgent_task_or_another_users(server: Server, worker: Worker) -> None:
    claimed = [server.submit("wait", token="a", priority=Priority.BATCH) for _ in range(2)]
    server.running(claimed[0], Phase.PREDICTING)
    server.running(claimed[1])
    flood = [server.submit(token="a", priority=Priority.BATCH) for _ in range(FLOOD)]
    other = server.submit(token="b", priority=Priority.BATCH)
    urgent = server.submit(token="a", priority=Priority.URGENT)
    assert server.task(urgent).status is Status.QUEUED
    server.go.touch()
    until(lambda: all(server.task(uid).status.ended for uid in (urgent, other, *flood[:10])), LIMIT_S)
    started = {uid: server.task(uid).started_at for uid in (*claimed, *flood, urgent, other)}
    order = sorted((uid for uid, at in started.items() if at), key=lambda uid: started[uid] or 0.0)
    assert set(order[:2]) == set(claimed)
    assert order[2] == urgent
    assert order.index(other) <= 3 + 2
