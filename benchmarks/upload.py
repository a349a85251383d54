"""How fast a large zip goes in, and how much memory the API takes for it."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil

from benchmarks.bundles import write_threshold_bundle
from benchmarks.measure import Figure, at_least, at_most, bench_server, timed, write_zip
from inference_server.imaging.nifti import write_labels
from inference_server.imaging.volume import Geometry, Volume

MIB = 1024**2
ROUNDS = 3
BLOCK_BYTES = MIB
SHAPE = (1000, 512, 512)
"""500 MiB as 16-bit noise, which does not compress."""


def measure() -> list[Figure]:
    """Return an upload's speed, also against a bare copy from a socket to a disk, and how much memory it took."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        write_threshold_bundle(models)
        case = _large_case(Path(folder))
        size_mb = case.stat().st_size / 1e6
        copy_s = min(timed(lambda: _bare_copy(case, Path(folder) / "copy")) for _ in range(ROUNDS))
        (Path(folder) / "copy").unlink()
        with bench_server(models) as server:
            upload_s, growth_mib = _uploads(server.url, server.pid, case)
    speed, bare = size_mb / upload_s, size_mb / copy_s
    return [
        Figure("bare socket-to-disk copy with fsync (best of 3)", bare, "MB/s"),
        at_least(f"upload of a {size_mb:.0f} MB zip (best of 3)", speed, min(200.0, bare / 2), "MB/s"),
        Figure("upload / bare copy", speed / bare, "×"),
        at_most("growth of an API process's memory during it", growth_mib, 30, "MiB"),
    ]


def _uploads(url: str, supervisor: int, case: Path) -> tuple[float, float]:
    times = []
    with httpx.Client(base_url=url, timeout=300) as http, memory_of_api(supervisor) as growth_mib:
        for _ in range(ROUNDS):
            times.append(timed(lambda: _submit(http, case)))
    return min(times), max(growth_mib)


def _submit(http: httpx.Client, case: Path) -> None:
    with case.open("rb") as stream:
        answer = http.post("/api/v1/tasks", data={"model": "threshold"}, files={"case": stream}).raise_for_status()
    http.delete(f"/api/v1/tasks/{answer.json()['uid']}").raise_for_status()


@contextmanager
def memory_of_api(supervisor: int) -> Iterator[list[float]]:
    """Yield a list that afterwards holds the growth of each API process in MiB, at its highest."""
    processes = [p for p in psutil.Process(supervisor).children(recursive=True) if "api" in p.cmdline()]
    before = [p.memory_info().rss for p in processes]
    highest, stop = list(before), threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            for index, process in enumerate(processes):
                highest[index] = max(highest[index], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    growth: list[float] = []
    try:
        yield growth
    finally:
        stop.set()
        watcher.join()
        growth += [(after - start) / MIB for after, start in zip(highest, before, strict=True)]


def _large_case(folder: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 1 << 16, SHAPE, dtype=np.uint16)
    image = folder / "large.nii.gz"
    write_labels(image, Volume(noise, Geometry(SHAPE)))
    case = write_zip(folder / "large.zip", image)
    image.unlink()
    return case


def _bare_copy(source: Path, target: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        receiver = threading.Thread(target=_receive, args=(listener, target))
        receiver.start()
        with socket.create_connection(listener.getsockname()) as sender, source.open("rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                sender.sendall(block)
        receiver.join()


def _receive(listener: socket.socket, target: Path) -> None:
    connection, _ = listener.accept()
    with connection, target.open("wb") as out:
        while block := connection.recv(BLOCK_BYTES):
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
