"""A worker as operators start it, with a real network."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from broker import Redis
from bundles import Bundle, expected_levels, level_state
from safetensors.torch import save_file
from servers import ARRAY, Server, Worker, settings_for, until

from inference_server.tasks.record import Status, Task
from inference_server.tasks.result_zip import read_result


@pytest.fixture
def server(tmp_path: Path, redis: Redis) -> Server:
    models = tmp_path / "models"
    server = Server(settings_for(tmp_path, redis.url, models_dirs=str(models), zoo=False, lease_s=15.0, device="cpu"))
    Bundle(manifest={"queue": server.queue}).write(models / "levels")
    write_fragile(models / "fragile", 1, server.queue)
    write_fragile(models / "broken", 99, server.queue)
    return server


FRAGILE = """
import pathlib

import torch


class Network(torch.nn.Conv3d):
    def forward(self, x):
        tries = pathlib.Path({log!r})
        with tries.open("a") as log:
            log.write("tried\\n")
        if len(tries.read_text().splitlines()) <= {failures}:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        return super().forward(x)
"""


def write_fragile(folder: Path, failures: int, queue: str) -> None:
    """Write a model whose network, as often as this, fails as a network on a GPU does that went wrong."""
    folder.mkdir(parents=True)
    (folder / "net.py").write_text(FRAGILE.format(log=str(folder.parents[1] / f"{folder.name}.log"), failures=failures))
    save_file(level_state(), folder / "model.safetensors")
    network = {"class": "net.py:Network", "arguments": {"in_channels": 1, "out_channels": 3, "kernel_size": 1}}
    (folder / "model.yaml").write_text(yaml.safe_dump({"runtime": "network", "network": network, "queue": queue}))


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


def test_after_a_failure_of_the_device_the_task_is_tried_again_in_a_fresh_process(
    server: Server, worker: Worker
) -> None:
    children = worker.children()
    task = server.ended(server.submit(model="fragile", parameters={}), 60.0)
    assert task.status is Status.FINISHED, worker.log
    assert is_right(server, task)
    assert task.attempts == 1
    texts = server.texts(task.uid)
    assert texts.count("A worker started.") == 2
    assert "The device failed. The process that used it is replaced by a fresh one." in texts
    until(lambda: len(worker.children()) == 2)
    assert len(worker.children() & children) == 1

    given_up = server.ended(server.submit(model="broken", parameters={}), 120.0)
    assert given_up.problem is not None
    assert (given_up.problem.code, given_up.attempts) == ("worker_lost", 2)
    uid = server.submit(model="levels", version="2.1.0", parameters={})
    assert is_right(server, server.ended(uid, 60.0))
    assert "AcceleratorError" in worker.log
