"""Brokers by setting alone: a group of Redis with a Sentinel, Redis behind TLS, RabbitMQ with TLS and without."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import pools
from rabbitmq import RabbitMQ
from redis_kinds import Group, sentinel_group, tls_redis
from servers import Server, Worker, settings_for, until

from inference_server.settings import Settings
from inference_server.stack.certificates import Pair, make_pair
from inference_server.tasks.queue import CeleryTurns
from inference_server.tasks.record import Status


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    with sentinel_group(tmp_path) as group:
        yield group


@pytest.fixture
def redis_url(tmp_path: Path, pair: Pair) -> Iterator[str]:
    with tls_redis(tmp_path, pair) as url:
        yield url


def _turns(settings: Settings) -> CeleryTurns:
    pools.reset()  # else a connection of another test to the same broker would be used again
    return CeleryTurns(settings)


def _computes(server: Server, worker: Worker) -> None:
    task = server.ended(server.submit())
    assert task.status is Status.FINISHED, task.problem


def test_turns_go_on_when_another_redis_of_the_group_becomes_the_master(group: Group, tmp_path: Path) -> None:
    server = Server(settings_for(tmp_path / "data", **group.settings))
    worker = Worker(server, tmp_path / "worker.log")
    try:
        _computes(server, worker)
        group.fail_over()
        until(lambda: server.turns.send(server.queue))
        _computes(server, worker)
    finally:
        worker.close()


def test_redis_behind_tls_is_asked_for_a_certificate_of_the_authority(
    redis_url: str, pair: Pair, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path / "data", redis_url, broker_ca=pair.certificate)
    _refuses_strangers(settings, tmp_path)
    _takes_turns(settings)


def test_rabbitmq_behind_tls_is_asked_for_a_certificate_of_the_authority(
    rabbit: RabbitMQ, pair: Pair, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path / "data", rabbit.tls_url("localhost"), broker_ca=pair.certificate)
    _refuses_strangers(settings, tmp_path)
    _takes_turns(settings)


def _refuses_strangers(settings: Settings, folder: Path) -> None:
    stranger = Pair(folder / "stranger.pem", folder / "stranger-key.pem")
    make_pair(stranger, ["localhost"])
    for authority in (stranger.certificate, None):
        turns = _turns(settings.model_copy(update={"broker_ca": authority}))
        assert not turns.send(settings.queue_names[0])


def _takes_turns(settings: Settings) -> None:
    turns, queue = _turns(settings), settings.queue_names[0]
    assert turns.ready(queue) == 0
    assert not turns.take([queue])  # also where there is no such queue yet
    assert turns.send(queue)
    assert turns.ready(queue) == 1
    assert turns.take(["another", queue])
    assert turns.ready(queue) == 0
    assert not turns.take([queue])
    assert turns.send(queue)  # the connection is still good


def test_a_worker_takes_its_turns_from_rabbitmq(rabbit: RabbitMQ, tmp_path: Path) -> None:
    server = Server(settings_for(tmp_path / "data", rabbit.url()))
    worker = Worker(server, tmp_path / "worker.log")
    try:
        _computes(server, worker)
        uids = [server.submit(turns=3) for _ in range(3)]
        assert [server.ended(uid).status for uid in uids] == [Status.FINISHED] * 3
        until(lambda: server.turns.ready(server.queue) == 0)
    finally:
        worker.close()


def test_turns_are_counted_before_and_after_a_worker_has_made_the_queue(rabbit: RabbitMQ, tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", rabbit.url())
    turns, queue = _turns(settings), settings.queue_names[0]
    assert turns.ready(queue) == 0
    assert [turns.send(queue), turns.send(queue)] == [True, True]
    assert turns.ready(queue) == 2


def test_a_connection_that_was_cut_costs_no_turn(rabbit: RabbitMQ, tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", rabbit.url())
    turns, queue = _turns(settings), settings.queue_names[0]
    assert turns.send(queue)
    with turns._app.pool.acquire() as connection:
        connection.connection.sock.shutdown(socket.SHUT_RDWR)
    assert turns.send(queue)
    assert turns.ready(queue) == 2


def test_a_rabbitmq_that_hangs_holds_nobody_up(rabbit: RabbitMQ, tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", rabbit.url())
    turns, queue = _turns(settings), settings.queue_names[0]
    assert turns.send(queue)
    rabbit.pause()
    try:
        began = time.monotonic()
        assert not turns.send(queue)
        assert turns.ready(queue) is None
        assert time.monotonic() - began < 10.0
    finally:
        rabbit.resume()
    until(lambda: turns.send(queue))
