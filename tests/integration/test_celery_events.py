"""Celery's events, by which Flower sees a worker: sent only where that is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import Redis
from servers import LIMIT_S, Server, Worker, settings_for

from inference_server.tasks.queue import make_celery


@pytest.fixture
def server(tmp_path: Path, redis: Redis) -> Server:
    return Server(settings_for(tmp_path, redis.url, worker_children=1, celery_events=True))


@pytest.fixture
def worker(server: Server, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(server, tmp_path / "worker.log")
    yield worker
    worker.close()


def test_a_worker_that_was_asked_to_tells_of_itself_and_its_turns(server: Server, worker: Worker) -> None:
    app = make_celery(server.settings)
    heard: set[str] = set()

    def hear(event: dict[str, str]) -> None:
        heard.add(event["type"])
        if {"worker-heartbeat", "task-succeeded"} <= heard:
            receiver.should_stop = True

    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": hear})
        with receiver.consumer_context():
            server.submit()
            for _ in receiver.consume(limit=None, timeout=LIMIT_S, wakeup=False):
                if receiver.should_stop:
                    break
    app.close()
    assert {"worker-heartbeat", "task-succeeded"} <= heard
