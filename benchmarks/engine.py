"""One warm case through the engine, against the bare forward passes of the same windows in the same precision.

    python benchmarks/engine.py [--threads 2] [--repeat 5] [--precision bfloat16]

The case is a random CT of 96 x 256 x 256 voxels, resampled to 96 x 205 x 205, in 18 windows of a SegResNet with 16
filters. Both are measured in turns. Time is the processor's (all threads), which other programs disturb less than the
wall clock; the latter is printed too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import SegResNet
from safetensors.torch import save_file

from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.case import Case
from inference_server.models.engine import Engine
from inference_server.models.manifest import Precision
from inference_server.models.network import DTYPES
from inference_server.models.registry import Registry

WINDOW = (96, 96, 64)
WINDOWS = 18
NETWORK = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "init_filters": 16}


def write_bundle(folder: Path, precision: Precision) -> None:
    """Write a bundle with random weights."""
    transforms = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
        {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
        {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": -1000,
            "a_max": 1000,
            "b_min": 0,
            "b_max": 1,
            "clip": True,
        },
    ]
    config = {
        "network_def": {"_target_": "SegResNet", **NETWORK},
        "preprocessing": {"_target_": "Compose", "transforms": transforms},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": WINDOW, "overlap": 0.25, "mode": "gaussian"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            ],
        },
    }
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "model.yaml").write_text(f"id: benchmark\nprecision: {precision.value}\n")
    save_file(SegResNet(**NETWORK).state_dict(), folder / "models" / "model.safetensors")


def make_case() -> Case:
    """Return a CT of noise."""
    array = np.random.default_rng(0).integers(-1000, 1000, (96, 256, 256)).astype(np.int16)
    return Case({"image": Volume(array, Geometry((96, 256, 256), (1.2, 1.2, 2.0)))})


def bare_forward(precision: Precision) -> Callable[[], None]:
    """Return the forward passes alone."""
    layout = torch.contiguous_format if precision is Precision.FLOAT32 else torch.channels_last_3d
    network = SegResNet(**NETWORK).eval().to(dtype=DTYPES[precision], memory_format=layout)
    window = torch.randn(1, 1, *WINDOW).to(DTYPES[precision], memory_format=layout)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(WINDOWS):
                network(window)

    return run


def measure(run: Callable[[], object]) -> tuple[float, float]:
    """Return processor and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--precision", type=Precision, default=Precision.BFLOAT16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(Path(folder) / "benchmark", options.precision)
        registry = Registry([Path(folder)])
        engine = Engine(registry, threads=options.threads)
        model, case, bare = registry.get("benchmark"), make_case(), bare_forward(options.precision)
        engine.run(model, case)
        rounds = [(measure(lambda: engine.run(model, case)), measure(bare)) for _ in range(options.repeat)]
        phases = engine.run(model, case).report.timings_s
    for index, clock in enumerate(("processor", "wall")):
        whole, alone = (min(pair[side][index] for pair in rounds) for side in (0, 1))
        print(f"{clock}: engine {whole:.3f} s, bare forward {alone:.3f} s, ratio {whole / alone:.3f}")
    print(f"phases of the last run (wall): {phases}")


if __name__ == "__main__":
    main()
