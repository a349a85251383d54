"""The two cases of `benchmarks.pipeline`, and the process that runs one of them from file to file, again and again.

    python -m benchmarks.pipeline_cases CASE WAY FOLDER THREADS

A line on standard input has it run the case once and print the seconds that took and those in the network, by the clock
and of the processor in all threads. WAY is `plain`, MONAI's transforms one after the other in float32, or the engine's
precision and backend: `bfloat16/openvino`.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from inference_server.imaging.nifti import read_volume, write_labels
from inference_server.imaging.volume import Geometry, Shape, Volume
from inference_server.models.case import Case
from inference_server.models.engine import Engine
from inference_server.models.registry import Registry

READ = {"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": "image"}
ORIENT = {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None}
POST = (
    {"_target_": "Activationsd", "keys": "pred", "softmax": True},
    {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
    {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
)


@dataclass(frozen=True)
class Setup:
    """An image and what a model does with it."""

    shape: Shape
    spacing_mm: tuple[float, float, float]
    network: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]
    inferer: Mapping[str, Any] = field(default_factory=lambda: {"_target_": "SimpleInferer"})

    def config(self) -> dict[str, Any]:
        """Return it as a bundle's configuration."""
        steps = [*READ, ORIENT, *self.steps]
        return {
            "network_def": self.network,
            "preprocessing": {"_target_": "Compose", "transforms": steps},
            "inferer": self.inferer,
            "postprocessing": {"_target_": "Compose", "transforms": list(POST)},
        }


def _scale(low: float, high: float) -> dict[str, Any]:
    target = {"_target_": "ScaleIntensityRanged", "keys": "image", "b_min": 0, "b_max": 1, "clip": True}
    return {**target, "a_min": low, "a_max": high}


SETUPS = {
    "large": Setup(
        (96, 256, 256),
        (1.2, 1.2, 2.0),
        {"_target_": "SegResNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "init_filters": 16},
        (
            {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
            _scale(-1000, 1000),
        ),
        {"_target_": "SlidingWindowInferer", "roi_size": [96, 96, 64], "overlap": 0.25, "mode": "gaussian"},
    ),
    "small": Setup(
        (36, 50, 36),
        (1.0, 1.0, 1.0),
        {
            "_target_": "UNet",
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": 3,
            "channels": [8, 16, 32],
            "strides": [2, 2],
        },
        (_scale(0, 255), {"_target_": "DivisiblePadd", "keys": "image", "k": 4}),
    ),
}


def write_case(setup: Setup, path: Path) -> None:
    """Write an image of smooth noise, as 16-bit integers."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(0).normal(size=setup.shape), 2.0)
    array = (noise / noise.std() * 300 + 1000).clip(0, 4000).astype(np.uint16)
    write_labels(path, Volume(array, Geometry(setup.shape, setup.spacing_mm)))


def write_model(setup: Setup, folder: Path) -> None:
    """Write the bundle, with random weights."""
    from monai.networks import nets

    torch.manual_seed(0)
    arguments = {key: value for key, value in setup.network.items() if key != "_target_"}
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    save_file(getattr(nets, setup.network["_target_"])(**arguments).state_dict(), folder / "models/model.safetensors")
    (folder / "configs" / "inference.json").write_text(json.dumps(setup.config()))


class Stopwatch:
    """Sums up the seconds in a network, by the clock and of the processor."""

    def __init__(self, network: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._network = network
        self.start()

    def start(self) -> None:
        """Begin again at zero."""
        self.seconds = self.processor_s = 0.0

    def __call__(self, window: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        began, processor = time.perf_counter(), time.process_time()
        try:
            return self._network(window)
        finally:
            self.seconds += time.perf_counter() - began
            self.processor_s += time.process_time() - processor


def plain(folder: Path, image: Path, target: Path) -> tuple[Callable[[], None], Stopwatch]:
    """Return the case as MONAI's transforms run it."""
    from monai.bundle import ConfigParser
    from monai.transforms import Compose, SaveImaged
    from safetensors.torch import load_file

    parser = ConfigParser(json.loads((folder / "configs" / "inference.json").read_text()))
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(load_file(folder / "models" / "model.safetensors"))
    save = SaveImaged(
        keys="pred", output_dir=target, output_dtype=np.uint8, separate_folder=False, resample=False, print_log=False
    )
    prepare = parser.get_parsed_content("preprocessing")
    restore = Compose([*parser.get_parsed_content("postprocessing").transforms, save])
    inferer, watch = parser.get_parsed_content("inferer"), Stopwatch(network)

    def run() -> None:
        with torch.inference_mode():
            data = prepare({"image": str(image)})
            data["pred"] = inferer(data["image"][None], watch)[0]
            restore(data)

    return run, watch


def engine(folder: Path, image: Path, target: Path, way: str, threads: int) -> tuple[Callable[[], None], Stopwatch]:
    """Return the case as the engine runs it in a mode."""
    precision, _, backend = way.partition("/")
    (folder / "model.yaml").write_text(yaml.safe_dump({"id": "case", "precision": precision, "backend": backend}))
    registry = Registry([folder.parent])
    model = registry.get("case")
    ours = Engine(registry, threads=threads)
    network: Any = ours.load(model).network
    watch = Stopwatch(network._compute)
    network._compute = watch

    def run() -> None:
        case = Case({model.manifest.channels[0].name: read_volume(image, max_bytes=2**30)})
        [found] = ours.run(model, case).segmentations
        write_labels(target / "labels.nii.gz", found.labels)

    return run, watch


def main() -> None:
    """Serve one way of running one case."""
    name, way, folder, threads = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    setup, model = SETUPS[name], folder / "models" / "case"
    write_case(setup, folder / "image.nii.gz")
    write_model(setup, model)
    files = model, folder / "image.nii.gz", folder
    run, watch = plain(*files) if way == "plain" else engine(*files, way, threads)
    for _ in sys.stdin:
        watch.start()
        began, processor = time.perf_counter(), time.process_time()
        run()
        whole, processor = time.perf_counter() - began, time.process_time() - processor
        os.write(1, f"{whole} {watch.seconds} {processor} {watch.processor_s}\n".encode())


if __name__ == "__main__":
    main()
