from __future__ import annotations

import pytest
from door_support import Doors

from inference_server.errors import StoreUnavailable


def test_it_is_alive(doors: Doors) -> None:
    answer = doors.client.get("/healthz/live")
    assert (answer.status_code, answer.json) == (200, {"live": True})


def test_it_is_ready_when_all_is_well(doors: Doors) -> None:
    answer = doors.client.get("/healthz/ready")
    well = {"ok": True, "detail": ""}
    assert answer.status_code == 200
    assert answer.json == {"ready": True, "checks": {"records": well, "disk": well, "broker": well}}


def test_without_the_broker_it_is_ready_and_says_what_is_missing(doors: Doors) -> None:
    doors.turns.up = False
    answer = doors.client.get("/healthz/ready")
    assert (answer.status_code, answer.json["ready"]) == (200, True)
    assert answer.json["checks"]["broker"] == {
        "ok": False,
        "detail": "The broker does not answer. Tasks are accepted, and computed once it does.",
    }


def test_the_broker_is_not_asked_by_every_request(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(doors.turns, "ready", lambda queue: asked.append(queue) or 0)
    for _ in range(3):
        doors.client.get("/healthz/ready")
    assert asked == ["default"]


def test_without_records_it_is_not_ready(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(doors.store, "states", fail)
    answer = doors.client.get("/healthz/ready")
    assert (answer.status_code, answer.json["ready"]) == (503, False)
    assert answer.json["checks"]["records"] == {"ok": False, "detail": StoreUnavailable().message}


def test_with_a_full_disk_it_is_not_ready(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors.blobs, "free_bytes", lambda: -1)
    answer = doors.client.get("/healthz/ready")
    assert (answer.status_code, answer.json["checks"]["disk"]["ok"]) == (503, False)
