"""What a worker lets others watch: Celery's events, by which Flower sees it, and its log."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from broker import Redis
from servers import LIMIT_S, Server, Worker, settings_for

from inference_server.tasks.queue import make_celery


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis: Redis) -> Server:
    folder = tmp_path_factory.mktemp("server")
    return Server(settings_for(folder, redis.url, worker_children=1, celery_events=True, log_json=True))


@pytest.fixture(scope="module")
def worker(server: Server) -> Iterator[Worker]:
    worker = Worker(server, server.settings.data_dir / "worker.log")
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


def test_every_line_of_its_log_is_json_also_when_a_child_dies(server: Server, worker: Worker) -> None:
    uids = [server.submit(do) for do in ("threshold", "fail", "die")]
    for uid in uids:
        server.ended(uid)
    lines = [json.loads(line) for line in worker.log.splitlines()]
    assert set(uids) <= {line.get("task") for line in lines}
    assert {"event", "level", "logger", "timestamp"} <= set.intersection(*(set(line) for line in lines))
