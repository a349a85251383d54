"""How quickly the API answers while models compute and uploads run."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.bundles import write_segresnet_bundle
from benchmarks.measure import Figure, at_most, bench_server, median_ms, timed, write_image

ASKED = 200
COMPUTE_SHAPE = (64, 160, 160)
UPLOAD_SHAPE = (300, 512, 512)


def measure() -> list[Figure]:
    """Return the median times of `/healthz/live` and of a status, idle and under load, in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        write_segresnet_bundle(models, precision="float32")
        small = write_image(Path(folder) / "small.nii.gz", COMPUTE_SHAPE)
        large = write_image(Path(folder) / "large.nii.gz", UPLOAD_SHAPE)
        with bench_server(models) as server, httpx.Client(base_url=server.url, timeout=300) as http:
            idle = median_ms([timed(lambda: http.get("/healthz/live").raise_for_status()) for _ in range(ASKED)])
            uids = [_submit(http, small) for _ in range(6)]
            with _uploading(server.url, large) as uploads:
                figures = _under_load(http, uids[0])
            figures.append(Figure("uploads that ran meanwhile", len(uploads), "uploads"))
            for uid in uids:
                http.delete(f"/api/v1/tasks/{uid}")
    return [Figure("/healthz/live on an idle server (median)", idle, "ms"), *figures]


def _under_load(http: httpx.Client, uid: str) -> list[Figure]:
    paths = {"/healthz/live": "/healthz/live", "status of a task": f"/api/v1/tasks/{uid}"}
    figures = []
    for name, path in paths.items():
        times = [timed(lambda path=path: http.get(path).raise_for_status()) for _ in range(ASKED)]
        figures.append(at_most(f"{name} while models compute and uploads run (median)", median_ms(times), 20, "ms"))
        figures.append(Figure(f"{name}, the slowest of {ASKED}", max(times) * 1000, "ms"))
    return figures


def _submit(http: httpx.Client, image: Path) -> str:
    with image.open("rb") as stream:
        answer = http.post("/api/v1/tasks", data={"model": "segresnet"}, files={"image": stream}).raise_for_status()
    return str(answer.json()["uid"])


@contextmanager
def _uploading(url: str, image: Path) -> Iterator[list[str]]:
    """Upload and delete one case after the other until the end of the block."""
    done: list[str] = []
    stop = threading.Event()

    def go_on() -> None:
        with httpx.Client(base_url=url, timeout=300) as http:
            while not stop.is_set():
                uid = _submit(http, image)
                done.append(uid)
                http.delete(f"/api/v1/tasks/{uid}")

    uploader = threading.Thread(target=go_on)
    uploader.start()
    try:
        yield done
    finally:
        stop.set()
        uploader.join()
