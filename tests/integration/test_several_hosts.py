"""Doors and a worker on hosts of their own, which share PostgreSQL, an object store and RabbitMQ alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from free_ports import free_ports
from network_hosts import Host, network_hosts
from nifti_files import nifti, packed
from object_store import ObjectStore, object_store
from postgres import USER, fresh_database, postgres
from rabbitmq import RabbitMQ
from servers import until

from inference_server.settings import Settings
from inference_server.tasks.result_zip import read_result

MODEL = Path(__file__).resolve().parents[2] / "examples" / "models" / "threshold_app"
BUCKET = "hospital"
ARRAY = np.array([[[0, 5, 0, 5]] * 3] * 2, dtype=np.int16)


@dataclass(frozen=True)
class Shared:
    """What all hosts reach."""

    database_url: str
    broker_url: str
    store: ObjectStore

    def settings(self, folder: Path, **changes: Any) -> Settings:
        """Return the settings of a host whose data and models lie in a folder of its own."""
        shutil.copytree(MODEL, folder / "models" / "threshold-app")
        given = {"database_url": self.database_url, "broker_url": self.broker_url, "zoo": False, "worker_children": 1}
        places = {"data_dir": folder / "data", "models_dirs": str(folder / "models")}
        return Settings(**given, **places, **self.store.settings(BUCKET, "cases"), **changes)


class Part:
    """A part of the server, running on a host."""

    def __init__(self, host: Host, words: str, settings: Settings, *, hidden: tuple[str, ...]) -> None:
        folder = settings.data_dir.parent
        command = host.command(sys.executable, "-m", "inference_server", *words.split(), hidden=hidden)
        environment = {**os.environ, **settings.environment(), "OMP_NUM_THREADS": "1", "NO_PROXY": "10.0.0.0/8"}
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)

    def ready(self) -> str:
        """Wait until it is up; return what it says of itself."""
        assert self.process.stdout is not None
        word, _, said = self.process.stdout.readline().strip().partition(" ")
        assert word == "ready", self.log.read_text()
        return said

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    with network_hosts(3) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def shared(hosts: list[Host], rabbit: RabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    address, (port,) = hosts[0].address, free_ports(1)
    with ExitStack() as stack:
        store = stack.enter_context(object_store(tmp_path_factory.mktemp("object-store"), host=address))
        store.make_bucket(BUCKET)
        url = stack.enter_context(fresh_database(stack.enter_context(postgres(address, port))))
        name = url.partition("@/")[2].partition("?")[0]
        yield Shared(f"postgresql+psycopg://{USER}@{address}:{port}/{name}", rabbit.url(address), store)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tmp_path_factory.mktemp("doors"), tmp_path_factory.mktemp("device")


@pytest.fixture(scope="module")
def doors(hosts: list[Host], shared: Shared, folders: tuple[Path, Path]) -> Iterator[httpx.Client]:
    """A client of doors on the second host; a worker runs on the third. Neither sees the other's folder."""
    ours, theirs = folders
    listening = {"host": hosts[1].address, "port": 8000, "no_auth": True, "api_processes": 1}
    with ExitStack() as stack:
        api = Part(hosts[1], "api", shared.settings(ours, **listening), hidden=(str(theirs),))
        stack.callback(api.end, signal.SIGTERM)
        worker = Part(hosts[2], "worker --device cpu", shared.settings(theirs), hidden=(str(ours),))
        stack.callback(worker.end, signal.SIGQUIT)
        worker.ready()
        yield stack.enter_context(httpx.Client(base_url=api.ready(), timeout=60, trust_env=False))


def _post(doors: httpx.Client) -> httpx.Response:
    image = packed(nifti(np.ascontiguousarray(ARRAY.T), np.eye(4)))
    return doors.post("/api/v1/tasks", data={"model": "threshold-app"}, files={"image": ("image.nii.gz", image)})


def _sent(doors: httpx.Client) -> dict[str, Any]:
    answer = _post(doors)
    assert answer.status_code in (201, 202), answer.text
    task = answer.json()
    while task["status"] in ("queued", "running"):
        waited = doors.get(f"/api/v1/tasks/{task['uid']}", params={"wait": 30, "revision": task["revision"]})
        assert waited.status_code == 200, waited.text
        assert waited.json()["revision"] != task["revision"], "a waiting client was not told in time"
        task = waited.json()
    return dict(task)


def _stored(store: ObjectStore) -> list[str]:
    listing = httpx.get(f"{store.endpoint}/{BUCKET}?list-type=2", trust_env=False).text
    return [part.partition("</Key>")[0] for part in listing.split("<Key>")[1:]]


def test_a_case_goes_in_at_one_host_is_computed_on_another_and_comes_back(
    doors: httpx.Client, shared: Shared, tmp_path: Path
) -> None:
    task = _sent(doors)
    assert task["status"] == "finished", json.dumps(task)
    answer = doors.get(task["links"]["result"])
    (tmp_path / "result.zip").write_bytes(answer.content)
    (segmentation,) = read_result(tmp_path / "result.zip")
    assert (segmentation.labels.array == (ARRAY > 0.5)).all()
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    piece = doors.get(task["links"]["result"], headers={"Range": "bytes=10-19"})
    assert (piece.status_code, piece.content) == (206, answer.content[10:20])
    assert len(_stored(shared.store)) == 2
    doors.delete(f"/api/v1/tasks/{task['uid']}").raise_for_status()
    until(lambda: _stored(shared.store) == [])


def test_the_hosts_keep_nothing_of_a_case_and_share_no_folder(doors: httpx.Client, folders: tuple[Path, Path]) -> None:
    assert _sent(doors)["status"] == "finished"
    for folder in folders:
        kept = {path.name for path in (folder / "data").iterdir()}
        assert "blobs" not in kept
        assert "records.sqlite" not in kept
        assert list((folder / "data" / "staging").iterdir()) == []


def test_while_the_object_store_is_away_tasks_can_be_seen_and_nothing_goes_in_or_out(
    doors: httpx.Client, shared: Shared, folders: tuple[Path, Path]
) -> None:
    task = _sent(doors)
    shared.store.process.kill()
    shared.store.process.wait()
    for refused in (_post(doors), doors.get(task["links"]["result"])):
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert "s3" not in refused.text.lower()
    assert doors.get(f"/api/v1/tasks/{task['uid']}").json()["status"] == "finished"
    assert list((folders[0] / "data" / "staging").iterdir()) == []
