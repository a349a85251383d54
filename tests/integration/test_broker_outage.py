"""The broker goes away, forgets everything and comes back: no task is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import Redis
from servers import Server, Worker, settings_for, until
from stand_in import MODEL

from inference_server.models.registry import Model
from inference_server.tasks import housekeeping
from inference_server.tasks.housekeeping import Housekeeper
from inference_server.tasks.queue import CeleryTurns
from inference_server.tasks.record import Phase, Status


class Served:
    """The model repository of the stand-in."""

    def models(self) -> tuple[Model, ...]:
        return (MODEL,)

    def prune(self, digests: set[str]) -> None:
        """Keep no copies."""


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    broker = Redis(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def server(tmp_path: Path, broker: Redis) -> Server:
    return Server(settings_for(tmp_path, broker.url))


@pytest.fixture
def worker(server: Server, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(server, tmp_path / "worker.log")
    yield worker
    worker.close()


def test_tasks_live_through_a_broker_that_forgets_everything(
    server: Server, worker: Worker, broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "PATIENCE_S", 0.0)
    running = server.submit("wait")
    server.running(running, Phase.PREDICTING)
    children = worker.children()
    broker.kill()
    waiting = [server.submit() for _ in range(3)]
    server.go.touch()
    assert server.ended(running).status is Status.FINISHED
    assert {server.task(uid).status for uid in waiting} == {Status.QUEUED}
    broker.start()
    housekeeper = Housekeeper(server.settings, server.claims, server.blobs, server.turns, Served())
    until(lambda: housekeeper.sweep() or all(server.task(uid).status.ended for uid in waiting))
    assert {server.task(uid).status for uid in waiting} == {Status.FINISHED}
    assert worker.children() == children


def test_a_worker_whose_children_all_finish_while_the_broker_is_away_listens_again(
    server: Server, worker: Worker, broker: Redis
) -> None:
    running = [server.submit("wait"), server.submit("wait")]
    for uid in running:
        server.running(uid)
    broker.kill()
    server.go.touch()
    assert {server.ended(uid).status for uid in running} == {Status.FINISHED}
    until(lambda: "Cannot connect to redis" in worker.log)
    broker.start()
    assert server.ended(server.submit()).status is Status.FINISHED


def test_sending_a_turn_while_the_broker_is_away_takes_a_second_at_most(broker: Redis, server: Server) -> None:
    turns = CeleryTurns(server.settings)
    assert turns.send(server.queue)
    assert turns.ready(server.queue) == 1
    assert turns.ready("another") == 0
    broker.pause()
    began = time.monotonic()
    assert not turns.send(server.queue)
    assert turns.ready(server.queue) is None
    assert time.monotonic() - began < 3.0
    broker.resume()
    assert turns.send(server.queue)
    broker.kill()
    began = time.monotonic()
    assert not turns.send(server.queue)
    assert time.monotonic() - began < 1.5
    broker.start()
    assert turns.send(server.queue)
    assert turns.ready(server.queue) == 1
