"""How much longer a large case takes where bytes live in an object store and records in PostgreSQL, on one machine."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import obstore
from obstore.store import S3Store

from benchmarks.measure import Figure, at_most, bench_server, timed, write_zip
from benchmarks.upload import MIB, memory_of_api
from inference_server.imaging.nifti import write_labels
from inference_server.imaging.volume import Geometry, Volume
from inference_server.settings import PREFIX, Settings
from inference_server.tasks.blobs.s3_store import open_store

SHAPE = (96, 512, 512)
"""50 MB as 16-bit noise, which does not compress."""
ROUNDS = 15
WARM_UP = 2
BUCKET = "benchmark"
ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "examples" / "models" / "threshold_app"
"""It computes next to nothing, so that what is measured is the way of the bytes."""
NAMED = {"model": "threshold-app"}


@dataclass(frozen=True)
class Round:
    """One case each way, and its bytes to the object store and from it, in seconds."""

    files_s: float
    shared_s: float
    copies_s: float


def measure() -> list[Figure]:
    """Return the times of a case with files and SQLite, with S3 and PostgreSQL, and of plain copies of its bytes."""
    with tempfile.TemporaryDirectory() as folder, _servers(Path(folder)) as (files, shared, bucket, pid):
        case = _case(Path(folder))
        with memory_of_api(pid) as growth_mib:
            rounds = [_round(files, shared, bucket, case) for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
        size_mb = case.stat().st_size / 1e6
    files_s, shared_s, copies_s = (
        statistics.median(getattr(one, name) for one in rounds) for name in ("files_s", "shared_s", "copies_s")
    )
    what = f"a case of {size_mb:.0f} MB (median of {ROUNDS})"
    return [
        Figure("load average of the machine meanwhile", os.getloadavg()[0], ""),
        Figure(f"{what}: files and SQLite", files_s, "s"),
        Figure(f"{what}: S3 and PostgreSQL", shared_s, "s"),
        Figure("plain copies of its bytes to the object store and from it (median)", copies_s, "s"),
        at_most("what S3 and PostgreSQL add, in plain copies", (shared_s - files_s) / copies_s, 1.5, "×"),
        Figure("growth of an API process's memory meanwhile", max(growth_mib), "MiB"),
    ]


@contextmanager
def _servers(folder: Path) -> Iterator[tuple[httpx.Client, httpx.Client, S3Store, int]]:
    """Give a server on files, one on an object store and PostgreSQL, the bucket, and the second's supervisor."""
    sys.path.append(str(ROOT / "tests"))  # which know how to start the others
    from object_store import object_store
    from postgres import fresh_database, postgres

    with ExitStack() as stack:
        store = stack.enter_context(object_store(folder))
        store.make_bucket(BUCKET)
        url = stack.enter_context(fresh_database(stack.enter_context(postgres())))
        given = Settings(database_url=url, **store.settings(BUCKET))
        shared = {name.removeprefix(PREFIX): value for name, value in given.environment().items()}
        servers = [stack.enter_context(bench_server(MODEL.parent, ZOO="false", **more)) for more in ({}, shared)]
        clients = [stack.enter_context(httpx.Client(base_url=server.url, timeout=120)) for server in servers]
        yield clients[0], clients[1], open_store(given), servers[1].pid


def _round(files: httpx.Client, shared: httpx.Client, bucket: S3Store, case: Path) -> Round:
    return Round(
        timed(lambda: _one_case(files, case)),
        timed(lambda: _one_case(shared, case)),
        timed(lambda: _copies(bucket, case)),
    )


def _one_case(http: httpx.Client, case: Path) -> None:
    with case.open("rb") as stream:
        task = http.post("/api/v1/tasks", data=NAMED, files={"case": stream}).raise_for_status().json()
    while task["status"] in ("queued", "running"):
        query = {"wait": 30, "revision": task["revision"]}
        task = http.get(f"/api/v1/tasks/{task['uid']}", params=query).raise_for_status().json()
    http.get(task["links"]["result"]).raise_for_status()


def _copies(bucket: S3Store, case: Path) -> None:
    obstore.put(bucket, "copy", case)
    with case.with_suffix(".copy").open("wb") as target:
        for piece in obstore.get(bucket, "copy").stream(min_chunk_size=4 * MIB):
            target.write(piece)


def _case(folder: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 1 << 16, SHAPE, dtype=np.uint16)
    image = folder / "noise.nii.gz"
    write_labels(image, Volume(noise, Geometry(SHAPE)))
    return write_zip(folder / "case.zip", image)
