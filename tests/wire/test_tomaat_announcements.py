"""The announcement service: what services send, and what both generations of clients read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from door_support import Doors
from records import Clock, emptied

from inference_server.api.announcements import EXTENSION
from inference_server.tasks.announcements import LIFETIME_S, Announcements

NAMES = ("api_key", "prediction_url", "interface_url", "name", "modality", "anatomy", "task", "description")


class World:
    """An announcement service with a clock that a test moves."""

    def __init__(self, doors: Doors) -> None:
        self.clock = Clock()
        self.doors = doors
        emptied(doors.database)
        self.announcements = Announcements(self.doors.database, clock=self.clock)
        self.doors.app.extensions[EXTENSION] = self.announcements
        self.key, self.secret = self.announcements.create_key("lab")

    def announce(self, **changes: Any) -> Any:
        said = {name: f"https://lab.example/{name}" for name in NAMES}
        said = {**said, "prediction_url": "https://lab.example/tomaat/liver/predict", "api_key": self.secret}
        message = {name: value for name, value in {**said, **changes}.items() if value is not None}
        return self.post(json.dumps(message).encode())

    def post(self, body: bytes) -> Any:
        answer = self.doors.client.post("/announce", data=body)
        assert (answer.status_code, answer.content_type) == (200, "application/json")
        return answer

    def get(self, path: str) -> Any:
        answer = self.doors.client.get(path)
        assert (answer.status_code, answer.content_type) == (200, "application/json")
        return answer


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    doors = Doors(tmp_path_factory.mktemp("doors"))
    yield doors
    doors.close()


@pytest.fixture
def world(shared: Doors) -> World:
    return World(shared)


def test_an_announced_service_is_discovered_by_both_generations(world: World) -> None:
    assert world.get("/discover").data == b"[]"
    assert world.announce(SID="theirs", more=1).data == b'{"status": 0, "error": ""}'
    [found] = world.get("/discover").json
    assert found == {
        "prediction_url": "https://lab.example/tomaat/liver/predict",
        "interface_url": "https://lab.example/interface_url",
        "name": "https://lab.example/name",
        "modality": "https://lab.example/modality",
        "anatomy": "https://lab.example/anatomy",
        "task": "https://lab.example/task",
        "description": "https://lab.example/description",
        "SID": world.key.sid,
        "creation_time": world.clock.now,
        "api_key": "",
    }
    assert world.get("/discovery").json == {
        "hosts": ["https://lab.example/tomaat/liver"],
        "modalities": ["https://lab.example/modality"],
        "anatomies": ["https://lab.example/anatomy"],
        "descriptions": ["https://lab.example/description"],
    }


def test_the_lists_tell_nothing_of_a_key(world: World) -> None:
    world.announce()
    for path in ("/discover", "/discovery"):
        assert not any(world.secret[at : at + 5] in world.get(path).text for at in range(len(world.secret) - 4))


def test_an_entry_is_gone_after_an_hour_unless_it_is_announced_again(world: World) -> None:
    world.announce()
    world.clock.now += LIFETIME_S - 1
    assert len(world.get("/discover").json) == 1
    world.announce(name="again")
    world.clock.now += LIFETIME_S - 1
    assert [found["name"] for found in world.get("/discover").json] == ["again"]
    world.clock.now += 1
    assert world.get("/discover").json == []
    assert world.get("/discovery").json["hosts"] == []


def refused(answer: Any) -> str:
    assert list(answer.json) == ["status", "error"]
    assert answer.json["status"] > 0
    return str(answer.json["error"])


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_field_is_named(world: World, name: str) -> None:
    assert refused(world.announce(**{name: None})) == f"The field {name} is missing."
    assert world.get("/discover").json == []


def test_all_missing_fields_are_named(world: World) -> None:
    assert refused(world.post(b"{}")) == " ".join(f"The field {name} is missing." for name in NAMES)


@pytest.mark.parametrize("key", ["", "isk_unknown", "ß" * 40])
def test_an_unknown_key_is_refused(world: World, key: str) -> None:
    assert "api_key is not known" in refused(world.announce(api_key=key))


def test_a_revoked_key_is_refused(world: World) -> None:
    world.announcements.revoke_key("lab")
    assert "api_key" in refused(world.announce())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prediction_url": "javascript:alert(1)"}, "prediction_url must be a URL"),
        ({"interface_url": "https://"}, "interface_url must be a URL"),
        ({"interface_url": "http://[x"}, "interface_url must be a URL"),
        ({"name": 3}, "name must be a text"),
        ({"description": "x" * 5001}, "description must be a text of 5000"),
        ({"modality": ["CT"], "task": {}}, "modality must be a text of 5000 characters at most. The field task must"),
    ],
)
def test_a_field_that_is_not_what_it_should_be_is_named(world: World, changes: dict[str, Any], said: str) -> None:
    assert said in refused(world.announce(**changes))


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'"x"', b"[" * 60_000, b"{" + b" " * 70_000 + b"}"])
def test_what_is_no_announcement_is_refused(world: World, body: bytes) -> None:
    assert refused(world.post(body))


def test_the_lists_take_nothing_else(world: World) -> None:
    assert world.doors.client.get("/announce").status_code == 405
    assert world.doors.client.post("/discover").json["status"] > 0
