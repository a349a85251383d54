"""A worker as operators start it, with a real network."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import Redis
from bundles import Bundle, expected_levels
from servers import ARRAY, Server, Worker, settings_for, until

from inference_server.tasks.record import Status, Task
from inference_server.tasks.result_zip import read_result


@pytest.fixture
def server(tmp_path: Path, redis: Redis) -> Server:
    models = tmp_path / "models"
    server = Server(settings_for(tmp_path, redis.url, models_dirs=str(models), zoo=False, lease_s=15.0, device="cpu"))
    Bundle(manifest={"queue": server.queue}).write(models / "levels")
    return server


@pytest.fixture
def worker(server: Server, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(server, tmp_path / "worker.log", command=("-m", "inference_server", "worker"))
    yield worker
    worker.close()


def is_right(server: Server, task: Task) -> bool:
    with server.blobs.as_file(task.result_blob or "") as path:
        (segmentation,) = read_result(path)
    return bool((segmentation.labels.array == expected_levels(ARRAY)).all())


def test_warm_children_compute_and_their_successors_too(server: Server, worker: Worker) -> None:
    uids = [server.submit(model="levels", version="2.1.0", parameters={}) for _ in range(4)]
    tasks = [server.ended(uid) for uid in uids]
    assert {task.status for task in tasks} == {Status.FINISHED}, worker.log
    assert all(is_right(server, task) for task in tasks)
    assert not any("loading" in task.report["timings_s"] for task in tasks)  # both children were warm
    children = worker.children()
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    uid = server.submit(model="levels", version="2.1.0", parameters={})
    assert is_right(server, server.ended(uid, 60.0))
    until(lambda: len(worker.children() - children) == 2)
