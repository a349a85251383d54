"""120 classes on a whole body of 512 x 512 x 600 voxels: seconds and memory from the image's array to its labels.

The image says which organ a voxel belongs to, and the network, one convolution of 1 x 1 x 1, gives each class the score
of how near its number is; it costs next to nothing and its right answer is known. Everything else is what a real model
of 120 classes would cost: windows of 96 voxels at 1.5 mm, their scores added up, decided and brought back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file

from benchmarks.measure import Figure, at_most, timed
from benchmarks.pipeline_cases import Stopwatch
from benchmarks.restore import GIB, with_peak
from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.case import Case
from inference_server.models.engine import Engine
from inference_server.models.registry import Registry
from inference_server.tasks.allocator import allocator_environment

CLASSES = 120
GRID = Geometry((600, 512, 512), (0.75, 0.75, 1.0))
THREADS = 2


def measure() -> Iterator[Figure]:
    """Yield the figures of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.whole_body"]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **allocator_environment(os.environ)}
    answer = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1], env=environment
    )
    found = json.loads(answer.stdout)
    name = f"{CLASSES} classes, 512×512×600"
    yield Figure(f"{name}: the whole case", found["whole_s"], "s")
    yield Figure(f"{name}: of which in the network", found["network_s"], "s")
    yield at_most(f"{name}: outside the network", found["whole_s"] - found["network_s"], 120, "s")
    yield at_most(f"{name}: peak memory beside the image", found["peak_bytes"] / GIB, 12, "GiB")
    yield Figure(f"{name}: voxels that got their own label", 100 * found["equal"], "%")


def body() -> NDArray[np.uint8]:
    """Return an image (z, y, x) of class numbers: ellipsoids in a larger one."""
    generator = np.random.default_rng(0)
    lines = np.ogrid[-1:1:600j, -1:1:512j, -1:1:512j]  # type: ignore[misc]
    image = np.zeros(GRID.shape, np.uint8)
    for value in range(1, CLASSES):
        centre, radii = generator.uniform(-0.6, 0.6, 3), generator.uniform(0.08, 0.2, 3)
        if value == 1:
            centre, radii = np.zeros(3), np.array([1.2, 0.7, 0.85])
        inside = sum(((line - at) / radius) ** 2 for line, at, radius in zip(lines, centre, radii, strict=True)) < 1
        image[inside] = value
    return image


def write_model(folder: Path) -> None:
    """Write the model: class c scores c x - c²/2 at an intensity x, which is highest for the c that is nearest."""
    network = torch.nn.Conv3d(1, CLASSES, 1)
    number = torch.arange(CLASSES, dtype=torch.float32)
    with torch.no_grad():
        network.weight[:, 0, 0, 0, 0], network.bias[:] = number, -number * number / 2  # type: ignore[index]
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    arguments = {"in_channels": 1, "out_channels": CLASSES, "kernel_size": 1}
    manifest = {
        "id": "whole-body",
        "runtime": "network",
        "network": {"class": "torch.nn.Conv3d", "arguments": arguments},
        "weights": "model.safetensors",
        "prepare": {"spacing_mm": [1.5, 1.5, 1.5]},
        "inferer": {"kind": "windows", "size": [96, 96, 96], "overlap": 0.25},
        "labels": {value: {"name": f"organ {value}"} for value in range(1, CLASSES)},
        "precision": "float32",
        "backend": "eager",
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest))


def main() -> None:
    """Run the case once, cold, and print what it took as JSON."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "whole-body")
        engine = Engine(Registry([Path(folder)]), threads=THREADS)
        model = engine.registry.get("whole-body")
        network = engine.load(model).network
        assert network
        watch = Stopwatch(network._compute)
        network._compute = watch  # type: ignore[assignment]
        image = body()
        found: dict[str, object] = {}

        def run() -> None:
            [segmentation] = engine.run(model, Case({"image": Volume(image, GRID)})).segmentations
            found["equal"] = float(np.mean(segmentation.labels.array == image))

        found["peak_bytes"] = with_peak(lambda: found.update(whole_s=timed(run)))
        print(json.dumps({**found, "network_s": watch.seconds}))


if __name__ == "__main__":
    main()
