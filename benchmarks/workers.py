"""What eight workers do of what one does, on a model that holds its device for a second without computing.

The device is simulated: the model sleeps, so that eight of them fit on one processor.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.measure import Figure, at_least, write_image
from inference_server.clients import Client
from inference_server.settings import Settings
from inference_server.stack.redis import prepare_redis

WORKERS = 8
CASES = 10
"""For each worker."""
SHAPE = (36, 50, 36)
MANIFEST = """
id: second
runtime: python-app
app: app.py:app
labels:
  1: {name: none}
"""
APP = """
import time

import numpy as np

def app(case, context):
    time.sleep(1)
    return np.zeros(case.reference.array.shape, np.uint8)
"""


def measure() -> list[Figure]:
    """Return cases a second with one worker and with eight, each on a host of its own as far as it can tell."""
    one, eight = (_cases_per_s(workers) for workers in (1, WORKERS))
    return [
        Figure("load average of the machine meanwhile", os.getloadavg()[0], ""),
        Figure("one worker, a second of simulated device time a case", one, "cases/s"),
        Figure(f"{WORKERS} workers", eight, "cases/s"),
        at_least(f"{WORKERS} workers / one", eight / one, 7.2, "×"),
    ]


def _cases_per_s(workers: int) -> float:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        for file, text in {"model.yaml": MANIFEST, "app.py": APP}.items():
            (folder / "models" / "second").mkdir(parents=True, exist_ok=True)
            (folder / "models" / "second" / file).write_text(text)
        image = write_image(folder / "tiny.nii.gz", SHAPE)
        environment = _shared(folder, stack)
        url = stack.enter_context(_part(environment, folder / "api", "api", "--port", "0")).split()[1]
        for number in range(workers):
            stack.enter_context(_part(environment, folder / f"host-{number}", "worker"))
        client = stack.enter_context(Client(url))
        begin = time.perf_counter()
        uids = [client.submit("second", [image]).uid for _ in range(CASES * workers)]
        assert {client.wait(uid).status for uid in uids} == {"finished"}
        return CASES * workers / (time.perf_counter() - begin)


def _shared(folder: Path, stack: ExitStack) -> Mapping[str, str]:
    """Start a broker and return the settings that all parts have in common."""
    redis = prepare_redis(folder / "redis")
    broker = subprocess.Popen(redis.command, stdout=subprocess.DEVNULL)
    stack.callback(broker.wait)
    stack.callback(broker.terminate)
    settings = Settings(
        broker_url=redis.url,
        database_url=f"sqlite:///{folder / 'records.sqlite'}",
        blobs_url=f"file://{folder / 'blobs'}",
        models_dirs=str(folder / "models"),
        zoo=False,
    )
    return settings.environment()


@contextmanager
def _part(environment: Mapping[str, str], data: Path, *words: str) -> Iterator[str]:
    """Run a part with a data folder of its own; give the line that it prints when it is ready."""
    command = [sys.executable, "-m", "inference_server", *words, "--data", str(data)]
    data.mkdir(mode=0o700)
    with (data / "log").open("w") as log:
        part = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=log, text=True
        )
    with part:
        try:
            assert part.stdout
            yield part.stdout.readline()
        finally:
            part.terminate()
