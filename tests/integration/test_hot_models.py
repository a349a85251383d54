"""Models that change, break and are mended while workers compute with them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from broker import Redis
from bundles import Bundle, expected_levels, level_state
from numpy.typing import NDArray
from safetensors.torch import save_file
from servers import ARRAY, Server, Worker, settings_for, until

from inference_server.models.registry import Registry, open_registry
from inference_server.tasks.record import Status
from inference_server.tasks.result_zip import read_result

WEIGHTS = "models/model.safetensors"


@pytest.fixture
def server(tmp_path: Path, redis: Redis) -> Server:
    models = tmp_path / "models"
    given = {"models_dirs": str(models), "zoo": False, "lease_s": 15.0, "device": "cpu", "worker_children": 1}
    server = Server(settings_for(tmp_path / "data", redis.url, **given))
    Bundle(manifest={"queue": server.queue}).write(models / "levels")
    return server


@pytest.fixture
def worker(server: Server, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(server, tmp_path / "worker.log", command=("-m", "inference_server", "worker"))
    yield worker
    worker.close()


@pytest.fixture
def door(server: Server) -> Registry:
    """Return the registry as a door of the same server has it."""
    return open_registry(server.settings)


def labels(server: Server, digest: str) -> NDArray[np.integer]:
    """Submit a case for a state of the model and return what that made of it."""
    task = server.ended(server.submit(model="levels", version="2.1.0", parameters={}, digest=digest), 60.0)
    assert task.status is Status.FINISHED
    assert task.report["digest"] == digest
    with server.blobs.as_file(task.result_blob or "") as path:
        (segmentation,) = read_result(path)
    return segmentation.labels.array


def test_a_task_runs_with_what_it_was_submitted_for(
    server: Server, worker: Worker, door: Registry, tmp_path: Path
) -> None:
    folder, first = tmp_path / "models" / "levels", door.get("levels").digest
    assert (labels(server, first) == expected_levels(ARRAY)).all()
    save_file(level_state(-50.0), tmp_path / "other")  # the other way round
    (folder / WEIGHTS).write_bytes((tmp_path / "other").read_bytes())  # in place, as `cp` does it
    second = until(lambda: (found := door.get("levels").digest) != first and found)
    assert (labels(server, second) != expected_levels(ARRAY)).any()
    assert (labels(server, first) == expected_levels(ARRAY)).all()


def test_a_broken_folder_reaches_no_worker(server: Server, worker: Worker, door: Registry, tmp_path: Path) -> None:
    folder, first = tmp_path / "models" / "levels", door.get("levels").digest
    (folder / WEIGHTS).write_bytes(b"half")
    (folder / "model.yaml").write_text("title: [")
    until(lambda: "malformed" in door.problems().get(folder, ""))
    assert door.get("levels").digest == first
    children = worker.children()
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    until(lambda: worker.children() - children)
    assert (labels(server, first) == expected_levels(ARRAY)).all()
