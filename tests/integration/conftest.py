"""What integration tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from broker import Redis
from rabbitmq import RabbitMQ, rabbitmq

from inference_server.stack.certificates import Pair, make_pair


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    server = Redis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A certificate of `localhost`, which is its own authority."""
    folder = tmp_path_factory.mktemp("certificate")
    pair = Pair(folder / "certificate.pem", folder / "key.pem")
    make_pair(pair, ["localhost"])
    return pair


@pytest.fixture(scope="session")
def rabbit(pair: Pair) -> Iterator[RabbitMQ]:
    with rabbitmq(pair) as broker:
        yield broker
