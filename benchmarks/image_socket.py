"""What the image socket gives in all, for the ensemble of five networks, against their forward passes alone."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

import inference_server.models
from benchmarks.measure import Figure, at_least, bench_server, timed
from inference_server.clients.image_socket import ImageSocketClient
from inference_server.tasks.allocator import VARIABLE, allocator_environment

ENSEMBLE, CODE = "chest-xray-ensemble", "ENSE"
ZOO = Path(inference_server.models.__file__).parent / "zoo"
SIDE = 512
CONNECTIONS = 8
EACH = 50
"""Predictions of a connection in a round; in a short one its two ends, where not all are busy, would count."""
PREDICTIONS = CONNECTIONS * EACH
ROUNDS = 6
NOISE = 1.0
"""Deviation of the grey values; with it the JPEG takes 30 kB, as those of chest X-rays of this size do."""


def measure() -> list[Figure]:
    """Return predictions a second through the server, and the same forward passes one by one without it."""
    with tempfile.TemporaryDirectory() as folder:
        image = write_picture(Path(folder) / "xray.jpg")
        models = _copied_models(Path(folder) / "models")
        settings = {"ZOO": "false", "IMAGE_SOCKET_PORT": "0", "SPARE_WORKER": "false"}  # which starts after the others
        with bench_server(models, **settings) as server:
            assert server.socket_url
            port = int(server.socket_url.rpartition(":")[2])
            _predict_all(port, image)  # both children warm
            alone = statistics.median(timed(lambda: _predict_some(port, image, 1)) for _ in range(EACH))
            # Bare passes before and after each round, so that a machine that changes its pace is noticed.
            bare = [_bare_s(image)]
            plain, served = [_bare_s(image, tuned=False)], []
            for _ in range(ROUNDS):
                served.append(timed(lambda: _predict_all(port, image)) / PREDICTIONS)
                plain.append(_bare_s(image, tuned=False))
                bare.append(_bare_s(image))
    before, ours, untuned = (statistics.median(times) for times in (bare, served, plain))
    # Each round by itself, between the passes before and after it: the machine's pace changes from one to the next.
    pairs = [(plain[number] + plain[number + 1]) / 2 / time_s for number, time_s in enumerate(served)]
    name = f"{CODE}, JPEG of {SIDE}×{SIDE}"
    return [
        Figure(f"{name}: a prediction alone, with connecting and sending (median)", 1000 * alone, "ms"),
        Figure(f"{name}: bare forward passes, torch as it comes", 1 / untuned, "/s"),
        Figure(f"{name}: bare forward passes, as a worker computes them", 1 / before, "/s"),
        Figure(f"{name}: bare forward passes, slowest / fastest round", max(bare) / min(bare), "×"),
        Figure(f"{name}: through the server, {CONNECTIONS} connections", 1 / ours, "/s"),
        Figure(f"{name}: server / bare, as a worker computes them", before / ours, "×"),
        Figure(f"{name}: server / bare, torch as it comes, lowest of {ROUNDS} rounds", min(pairs), "×"),
        Figure(f"{name}: server / bare, torch as it comes, highest", max(pairs), "×"),
        at_least(f"{name}: server / bare, torch as it comes (median)", statistics.median(pairs), 0.8, "×"),
    ]


def _copied_models(folder: Path) -> Path:
    """Copy the ensemble and its members, so that workers load nothing else."""
    for model in ZOO.glob("chest-xray-*"):
        shutil.copytree(model, folder / model.name)
    return folder


def write_picture(path: Path) -> Path:
    """Write a picture of soft shapes and noise, as large as an X-ray that was made smaller for sending."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    pixels = 90 + 80 * np.cos(4 * x) * np.cos(3 * y) + rng.normal(0, NOISE, x.shape)
    sitk.WriteImage(sitk.GetImageFromArray(pixels.clip(0, 255).astype(np.uint8)), str(path))
    return path


def _predict_all(port: int, image: Path) -> None:
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        list(threads.map(lambda _: _predict_some(port, image, EACH), range(CONNECTIONS)))


def _predict_some(port: int, image: Path, count: int) -> None:
    with ImageSocketClient("127.0.0.1", port) as client:
        for _ in range(count):
            client.choose(CODE)
            client.send(image)
            client.predict()


def _bare_s(image: Path, *, tuned: bool = True) -> float:
    """Run the same networks in a process of their own; `tuned` has the settings and the backend that a worker has."""
    plain = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment = {**plain, "OMP_WAIT_POLICY": "PASSIVE", **allocator_environment(plain)} if tuned else plain
    command = [sys.executable, "-m", "benchmarks.bare_members", str(ZOO), ENSEMBLE, str(image), str(PREDICTIONS)]
    command.append("graph" if tuned else "eager")
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


if __name__ == "__main__":
    for figure in measure():
        print(figure)
