from __future__ import annotations

from dataclasses import replace

import pytest
from worker_rows import worker_row

from inference_server.errors import StoreUnavailable
from inference_server.models.device_use import DeviceUse
from inference_server.models.warmth import Warmth
from inference_server.tasks.database import Database
from inference_server.tasks.figures import Figure, read
from inference_server.tasks.presence import Presence, WarmNews
from inference_server.tasks.workers import Worker, Workers, WorkerState

START = worker_row(models=(), memory_used_bytes=None, utilisation=None, state=WorkerState.STARTING)


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A worker's presence, with a clock that a test moves."""

    def __init__(self, database: Database) -> None:
        self.time = Time()
        self.use: DeviceUse | None = None
        self.workers = Workers(database, clock=lambda: START.beat_at)
        self.presence = Presence(self.workers, START, every_s=3.0, look=lambda: self.use, clock=self.time)

    def listed(self) -> list[Worker]:
        return self.workers.all()

    def figures(self) -> list[Figure]:
        with self.workers.database.reading() as connection:
            return read(connection)


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def test_the_first_beat_comes_at_once_and_the_next_ones_when_they_are_due(world: World) -> None:
    world.presence.beat()
    assert world.listed() == [START]
    world.presence.heard(7, ("has", "ct:1", 1))
    world.time.now += 2.9
    world.presence.beat()
    assert world.listed() == [START]
    world.time.now += 0.1
    world.presence.beat()
    assert world.listed() == [replace(START, models=("ct:1",))]


def test_another_state_is_said_at_once(world: World) -> None:
    world.presence.beat()
    world.presence.enter(WorkerState.READY)
    world.presence.beat()
    assert [worker.state for worker in world.listed()] == [WorkerState.READY]


def test_models_are_those_of_all_living_children(world: World) -> None:
    for pid, model in ((7, "ct:1"), (8, "ct:1"), (8, "mr:2")):
        world.presence.heard(pid, ("has", model, 1))
    world.presence.heard(7, ("dropped", "ct:1", 1))
    world.presence.heard(7, ("has", "us:1", 1))
    world.presence.beat()
    assert world.listed()[0].models == ("ct:1", "mr:2", "us:1")
    world.presence.lost({8})
    world.time.now += 3
    world.presence.beat()
    assert world.listed()[0].models == ("us:1",)


def test_the_device_is_looked_at_with_each_beat(world: World) -> None:
    world.use = DeviceUse(5, 0.25)
    world.presence.beat()
    assert (world.listed()[0].memory_used_bytes, world.listed()[0].utilisation) == (5, 0.25)


def test_what_was_counted_is_added_once_also_after_a_beat_that_failed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.presence.heard(7, ("load", "ct", 1))
    world.presence.heard(8, ("hit", "ct", 2))

    def refuse(*_: object) -> None:
        raise StoreUnavailable

    with monkeypatch.context() as away:
        away.setattr(world.workers, "beat", refuse)
        with pytest.raises(StoreUnavailable):
            world.presence.beat()
    world.presence.heard(7, ("hit", "ct", 1))
    for _ in range(2):
        world.time.now += 3
        world.presence.beat()
    assert world.figures() == [Figure("warm", "ct", "hit", 0, 3, 0.0), Figure("warm", "ct", "load", 0, 1, 0.0)]


def test_who_leaves_is_listed_no_longer(world: World) -> None:
    world.presence.beat()
    world.presence.leave()
    assert world.listed() == []


def test_a_child_tells_what_changed_since_it_last_told() -> None:
    news = WarmNews()
    first = Warmth(("a:1",), {}, {"a": 1})
    assert list(news.since_last(first)) == [("has", "a:1", 1), ("load", "a", 1)]
    assert list(news.since_last(first)) == []
    second = Warmth(("b:1",), {"a": 3}, {"a": 1, "b": 1})
    assert list(news.since_last(second)) == [
        ("has", "b:1", 1), ("dropped", "a:1", 1), ("hit", "a", 3), ("load", "b", 1),
    ]  # fmt: skip
