"""A worker listens only to queues whose models its device can run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from broker import Redis
from bundles import Bundle
from servers import Server, Worker, settings_for

from inference_server.tasks.record import Status

COMMAND = ("-m", "inference_server", "worker")
REASON = "big:2.1.0 cannot run here, it computes on cuda and this worker on cpu"


def write_models(folder: Path) -> Path:
    Bundle(manifest={"queue": "small"}).write(folder / "small")
    Bundle(manifest={"resources": {"device": "cuda", "queue": "large"}}).write(folder / "big")
    return folder


def server_of(tmp_path: Path, redis: Redis, queues: str) -> Server:
    models = str(write_models(tmp_path / "models"))
    given = settings_for(tmp_path / "data", redis.url, worker_children=1, device="cpu", zoo=False, models_dirs=models)
    return Server(given.model_copy(update={"queues": queues}))


def test_a_queue_with_a_model_that_cannot_run_is_left_alone(tmp_path: Path, redis: Redis) -> None:
    server = server_of(tmp_path, redis, "small,large")
    worker = Worker(server, tmp_path / "worker.log", command=COMMAND)
    try:
        assert "queue not listened to" in worker.log
        assert REASON in worker.log
        unfit = server.submit(model="big", version="2.1.0", parameters={}, queue="large")
        fit = server.submit(model="small", version="2.1.0", parameters={}, queue="small")
        assert server.ended(fit).status is Status.FINISHED
        assert server.task(unfit).status is Status.QUEUED
        assert server.turns.ready("large") == 1
    finally:
        worker.close()


def test_a_worker_that_can_serve_no_queue_says_so_and_ends(tmp_path: Path, redis: Redis) -> None:
    server = server_of(tmp_path, redis, "large")
    environment = {**os.environ, **server.settings.environment()}
    ended = subprocess.run([sys.executable, *COMMAND], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert f"This worker can serve none of its queues. Queue 'large': {REASON}" in ended.stderr
