"""What clients wait for at the API, and what it needs of memory, with an empty queue and with 100,000 waiting tasks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import psutil

from benchmarks.measure import Figure, Side, at_most, in_turns, write_image
from benchmarks.queue import MANY, fill
from inference_server.settings import PREFIX, Settings
from inference_server.stack.redis import prepare_redis
from inference_server.tasks.database import open_database

TIMES, WARM = 100, 10
TOLERATED = 1.3
TINY = (36, 50, 36)
MODEL = "hippocampus"
LIMITS = ("QUEUE_LIMIT", "MODEL_QUEUE_LIMIT", "TOKEN_TASK_LIMIT", "ANONYMOUS_TASK_LIMIT")


def measure() -> list[Figure]:
    """Return median times of requests to two APIs without workers, asked in turns, their ratios, and their memory."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        image = write_image(Path(folder) / "tiny.nii.gz", TINY)
        empty, full = (stack.enter_context(_api(Path(folder) / str(count), count)) for count in (0, MANY))
        few, many = (
            Side("empty queue", _requests(empty[0], image)),
            Side(f"{MANY:,} waiting", _requests(full[0], image)),
        )
        figures = list(in_turns(few, many, times=TIMES, warm=WARM, tolerated=TOLERATED))
        few_mib, many_mib = (_memory_mib(pid) for _, pid in (empty, full))
    return [
        *figures,
        Figure("memory of the largest API process, empty queue", few_mib, "MiB"),
        at_most(
            f"memory of the largest API process, {MANY:,} waiting / empty queue", many_mib / few_mib, TOLERATED, "×"
        ),
    ]


def _requests(http: httpx.Client, image: Path) -> dict[str, Callable[[], object]]:
    content = image.read_bytes()

    def submit() -> str:
        answer = http.post("/api/v1/tasks", data={"model": MODEL}, files={"image": (image.name, content)})
        return str(answer.raise_for_status().json()["uid"])

    last = submit()
    return {
        "submit": submit,
        "status of a task that came last": lambda: http.get(f"/api/v1/tasks/{last}").raise_for_status(),
        "list of 100 tasks": lambda: http.get("/api/v1/tasks", params={"limit": 100}).raise_for_status(),
    }


@contextmanager
def _api(folder: Path, waiting: int) -> Iterator[tuple[httpx.Client, int]]:
    """Run the API alone, with a Redis, on records of so many waiting tasks; give a client and the process id."""
    redis = prepare_redis(folder / "redis")
    settings = Settings(data_dir=folder, broker_url=redis.url)
    with closing(open_database(settings.database)) as database, database.writing() as connection:
        fill(connection, waiting)
    limits = {f"{PREFIX}{name}": str(10 * MANY) for name in LIMITS}
    environment = {**os.environ, **settings.environment(), **limits}
    broker = subprocess.Popen(redis.command, stdout=subprocess.DEVNULL)
    command = [sys.executable, "-m", "inference_server", "api", "--port", "0"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as api,
    ):
        try:
            url = api.stdout.readline().split()[1] if api.stdout else ""
            with httpx.Client(base_url=url, timeout=60) as http:
                yield http, api.pid
        finally:
            api.terminate()
            broker.terminate()
            broker.wait()


def _memory_mib(pid: int) -> float:
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return max(float(process.memory_info().rss) for process in processes) / 2**20
