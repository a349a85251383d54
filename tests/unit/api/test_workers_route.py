from __future__ import annotations

import time
from datetime import datetime

from door_support import Doors
from worker_rows import worker_row

from inference_server.tasks.workers import Workers


def test_workers_are_listed_with_what_they_run(doors: Doors) -> None:
    uid, now = doors.running(), time.time()
    Workers(doors.database).beat(worker_row(name="worker", beat_at=now, started_at=now - 60))
    (worker,) = doors.client.get("/api/v1/workers").json["workers"]
    moments = {name: datetime.fromisoformat(worker.pop(name)).timestamp() for name in ("beat_at", "started_at")}
    assert {name: round(moment - now) for name, moment in moments.items()} == {"beat_at": 0, "started_at": -60}
    assert worker == {
        "name": "worker",
        "host": "box",
        "version": "0.1.0",
        "state": "ready",
        "queues": ["default", "big-gpu"],
        "children": 2,
        "device": "cuda:0 (GPU)",
        "device_kind": "cuda",
        "device_id": "GPU-1",
        "memory_bytes": 24 * 2**30,
        "memory_used_bytes": 6 * 2**30,
        "utilisation": 0.5,
        "models": ["ct-body:1.0.0"],
        "tasks": [uid],
    }


def test_without_workers_the_list_is_empty(doors: Doors) -> None:
    assert doors.client.get("/api/v1/workers").json == {"workers": []}
