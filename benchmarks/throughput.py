"""What the whole server costs on top of a network's bare forward passes, for one warm case."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from benchmarks.bundles import write_segresnet_bundle
from benchmarks.measure import Figure, at_most, bench_server, timed, write_image
from inference_server.tasks.allocator import VARIABLE, allocator_environment

SHAPE = (96, 256, 256)
ROUNDS = 3
WINDOWS = 18
LARGE_SHAPE = (200, 512, 512)
COARSE_MM = (3.0, 3.0, 3.0)
MANY = 6
Task = dict[str, Any]


def measure() -> list[Figure]:
    """Return one warm case through the server as a multiple of its bare forward passes, and what two at once gain."""
    return [*(figure for precision in ("bfloat16", "float32") for figure in _figures(precision)), *_overlap()]


def _figures(precision: str) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        write_segresnet_bundle(models, precision=precision)
        image = write_image(Path(folder) / "ct.nii.gz", SHAPE)
        with bench_server(models) as server, httpx.Client(base_url=server.url, timeout=1200) as http:
            for _ in range(4):  # both children warm
                _case(http, image)
            # Bare passes before and after, so that a machine that changes its pace is noticed.
            before = _bare_passes_s(precision)
            plain = _bare_passes_s(precision, tuned=False)
            served = statistics.median([timed(lambda: _case(http, image)) for _ in range(ROUNDS)])
            after = _bare_passes_s(precision)
            batch = timed(lambda: _cases(http, image, 4)) / 4
    bare = (before + after) / 2
    name = f"{precision}: 96×256×256, {WINDOWS} windows"
    return [
        Figure(f"{name}, bare forward passes, torch as it comes", plain, "s"),
        Figure(f"{name}, bare forward passes, in the environment of a worker", bare, "s"),
        Figure(f"{name}, bare forward passes, after / before", after / before, "×"),
        Figure(f"{name}, through the server", served, "s"),
        Figure(f"{name}, server / bare, torch as it comes", served / plain, "×"),
        at_most(f"{name}, server / bare, in the environment of a worker", served / bare, 1.3, "×"),
        Figure(f"{name}, a case of four sent together / one alone", batch / served, "×"),
    ]


def _overlap() -> list[Figure]:
    """Return what several cases cost that are mostly read, prepared, restored and written, on one thread each."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        write_segresnet_bundle(models, precision="bfloat16", spacing_mm=COARSE_MM)
        image = write_image(Path(folder) / "ct.nii.gz", LARGE_SHAPE)
        with (
            bench_server(models, CPU_THREADS="1") as server,
            httpx.Client(base_url=server.url, timeout=1200) as http,
        ):
            _cases(http, image, 4)  # both children warm
            alone = statistics.median([timed(lambda: _case(http, image)) for _ in range(ROUNDS)])
            uid = http.get("/api/v1/tasks", params={"limit": 1}).raise_for_status().json()["tasks"][0]["uid"]
            timings = http.get(f"/api/v1/tasks/{uid}").raise_for_status().json()["timings"]
            together = timed(lambda: _cases(http, image, MANY)) / MANY
    name = "200×512×512 at 3 mm, one thread"
    return [
        Figure(f"{name}, a case alone", alone, "s"),
        Figure(f"{name}, of which in the network", timings["predicting"], "s"),
        at_most(f"{name}, a case of {MANY} sent together / one alone", together / alone, 0.8, "×"),
    ]


def _case(http: httpx.Client, image: Path) -> None:
    _cases(http, image, 1)


def _cases(http: httpx.Client, image: Path, count: int) -> None:
    for task in [_submit(http, image) for _ in range(count)]:
        _fetch(http, task)


def _fetch(http: httpx.Client, task: Task) -> None:
    while task["status"] in ("queued", "running"):
        query = {"wait": 60, "revision": task["revision"]}
        task = http.get(f"/api/v1/tasks/{task['uid']}", params=query).raise_for_status().json()
    http.get(task["links"]["result"]).raise_for_status()


def _submit(http: httpx.Client, image: Path) -> Task:
    with image.open("rb") as stream:
        answer = http.post("/api/v1/tasks", data={"model": "segresnet"}, files={"image": stream}).raise_for_status()
    return dict(answer.json())


def _bare_passes_s(precision: str, *, tuned: bool = True) -> float:
    """Run the same windows in a process of their own, which holds no other thread pool.

    A worker has the C library keep freed memory, which makes torch faster: `tuned` passes have the same.
    """
    plain = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment = {**plain, "OMP_WAIT_POLICY": "PASSIVE", **allocator_environment(plain)} if tuned else plain
    command = [sys.executable, "-m", "benchmarks.bare_passes", precision, str(WINDOWS)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
