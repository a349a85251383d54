"""How long a tiny case waits at each step of an idle server, beside a bare Celery round trip of the same run."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx
from celery import Celery

from benchmarks.bundles import write_threshold_bundle
from benchmarks.measure import Figure, at_most, bench_server, median_ms, timed, write_image
from inference_server.stack.redis import prepare_redis

CASES = 60
WARM_UP = 6
TINY = (36, 50, 36)


@dataclass(frozen=True)
class Timeline:
    """One tiny case, in seconds: in the queue, from its end to the client's last byte, and in all."""

    queued_s: float
    delivered_s: float
    whole_s: float


def measure() -> list[Figure]:
    """Return the latencies of a tiny case, in milliseconds and as multiples of a bare round trip."""
    bare_ms = median_ms(_bare_round_trips())
    figures = [Figure("bare Celery round trip on Redis (median)", bare_ms, "ms")]
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        write_threshold_bundle(models)
        image = write_image(Path(folder) / "tiny.nii.gz", TINY)
        for model in ("threshold", "hippocampus"):
            figures += _model_figures(model, _timelines(model, image, models), bare_ms)
    return figures


def _model_figures(model: str, lines: list[Timeline], bare_ms: float) -> list[Figure]:
    limits = {
        "queued_s": ("accepted → a worker starts", 20),
        "delivered_s": ("finished → the waiting client has the result", 30),
    }
    limits["whole_s"] = ("first byte sent → last byte of the result", 60)
    figures = []
    for field, (name, limit) in limits.items():
        value = median_ms([getattr(line, field) for line in lines])
        figures.append(at_most(f"{model}: {name} (median)", value, limit, "ms"))
        figures.append(Figure(f"{model}: {name}, in bare round trips", value / bare_ms, "×"))
    return figures


def _timelines(model: str, image: Path, models: Path) -> list[Timeline]:
    with bench_server(models) as server, httpx.Client(base_url=server.url, timeout=120) as http:
        return [_one_case(http, model, image) for _ in range(WARM_UP + CASES)][WARM_UP:]


def _one_case(http: httpx.Client, model: str, image: Path) -> Timeline:
    start = time.time()
    with image.open("rb") as stream:
        task = http.post("/api/v1/tasks", data={"model": model}, files={"image": stream}).raise_for_status().json()
    while task["status"] in ("queued", "running"):
        query = {"wait": 30, "revision": task["revision"]}
        task = http.get(f"/api/v1/tasks/{task['uid']}", params=query).raise_for_status().json()
    http.get(task["links"]["result"]).raise_for_status()
    end = time.time()
    created, started, ended = (_seconds(task[name]) for name in ("created_at", "started_at", "ended_at"))
    return Timeline(started - created, end - ended, end - start)


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _bare_round_trips() -> list[float]:
    with _bare_worker() as app:
        ask = app.signature("bare.echo", queue="bare")
        return [timed(lambda: ask.apply_async().get(timeout=30)) for _ in range(WARM_UP + CASES)][WARM_UP:]


@contextmanager
def _bare_worker() -> Iterator[Celery]:
    with tempfile.TemporaryDirectory() as folder:
        redis = prepare_redis(Path(folder))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        server = subprocess.Popen(redis.command, **quiet)
        worker = subprocess.Popen([sys.executable, "-m", "benchmarks.bare_worker", redis.url], **quiet)
        try:
            yield Celery("bare", broker=redis.url, backend=redis.url)
        finally:
            for process in (worker, server):
                process.terminate()
                process.wait()
            redis.remove()
