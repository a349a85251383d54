"""Upgrading while it runs: parts of an older release and of this one work side by side on the same records."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest

from inference_server.clients import Client
from inference_server.imaging.nifti import read_volume
from inference_server.stack.redis import prepare_redis

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).resolve().parents[2]
OLD = "3183a8b1b57982d56b9c0389b90bc18fa0ddbbea"
"""The commit that stands for the release before: the last one without figures, workers' rows and backups."""


class Release:
    """The code of one release, as a folder on the path of Python; what its parts say goes into a folder of logs."""

    def __init__(self, code: Path, logs: Path, environment: dict[str, str], stack: ExitStack) -> None:
        self._environment = {**os.environ, **environment, "PYTHONPATH": str(code)}
        self._logs = logs
        self._stack = stack
        logs.mkdir()

    def start(self, *words: str) -> tuple[psutil.Popen, str]:
        """Start a part and return it with the line that it prints when it is ready."""
        command = [sys.executable, "-m", "inference_server", *words]
        with self.log(words[0]).open("w") as log:
            process = psutil.Popen(command, env=self._environment, stdout=subprocess.PIPE, stderr=log, text=True)
        self._stack.callback(_end, process)
        return process, process.stdout.readline()

    def log(self, part: str) -> Path:
        return self._logs / part

    def api(self) -> Client:
        _, line = self.start("api", "--port", "0")
        return self._stack.enter_context(Client(line.split()[1]))


def _end(process: psutil.Popen) -> None:
    if process.is_running():
        process.send_signal(signal.SIGTERM)
    process.wait(20)
    process.stdout.close()


@pytest.fixture
def old_code(tmp_path: Path) -> Path:
    done = subprocess.run(["git", "-C", ROOT, "archive", OLD, "inference_server"], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("the history of this repository, which holds the older release, is not here")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    return tmp_path / "old"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_old_and_new_parts_work_side_by_side(
    old_code: Path, models: Path, box: Path, tmp_path: Path, stack: ExitStack
) -> None:
    redis = prepare_redis(tmp_path / "redis")
    process = subprocess.Popen(redis.command, stdout=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    settings = {"DATA_DIR": tmp_path / "data", "BROKER_URL": redis.url, "MODELS_DIRS": models, "ZOO": False}
    settings |= {"WORKER_CHILDREN": 1, "LEASE_S": 4, "BEAT_S": 1, "HOUSEKEEPING_S": 0.5}
    environment = {f"INFERENCE_SERVER_{name}": str(value) for name, value in settings.items()}
    old = Release(old_code, tmp_path / "logs of old", environment, stack)
    new = Release(ROOT, tmp_path / "logs of new", environment, stack)

    old_client = old.api()
    old_worker, _ = old.start("worker")
    old.start("housekeeping")
    uids = [old_client.submit("slow", [box]).uid for _ in range(2)]
    new_client = new.api()  # brings the records up to date, under the parts of the older release
    new.start("worker")
    new.start("housekeeping")
    uids += [client.submit("slow", [box]).uid for _ in range(3) for client in (old_client, new_client)]

    for uid in uids:
        assert [client.wait(uid, timeout_s=60).status for client in (old_client, new_client)] == ["finished"] * 2
    logs = [release.log("worker").read_text() for release in (old, new)]
    assert all(any(uid in log for uid in uids) for log in logs)
    fetched = [*old_client.fetch(uids[0], tmp_path / "of old"), *new_client.fetch(uids[0], tmp_path / "of new")]
    first, second = (read_volume(path, max_bytes=2**20).array for path in fetched if path.suffix == ".gz")
    np.testing.assert_array_equal(first, second)

    last = [old_client.submit("slow", [box]).uid for _ in range(3)]
    old_worker.send_signal(signal.SIGTERM)  # the last of the older release goes, and what it holds is done all the same
    assert old_worker.wait(30) == 0
    assert {new_client.wait(uid, timeout_s=60).status for uid in last} == {"finished"}
