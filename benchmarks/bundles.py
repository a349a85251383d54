"""Model folders made for measuring: a network that costs nothing, and one of a usual size."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

INTENSITY_THRESHOLD = 100.0
WINDOW = (112, 112, 64)
"""Window (x, y, z) that covers a 96 x 256 x 256 (z, y, x) case in 2 x 3 x 3 = 18 steps at an overlap of 0.25."""
OVERLAP = 0.25


def write_threshold_bundle(folder: Path) -> None:
    """Write a model `threshold` whose label 1 is every voxel above `INTENSITY_THRESHOLD`."""
    network = torch.nn.Conv3d(1, 2, 1)
    with torch.no_grad():
        network.weight[:, 0, 0, 0, 0] = torch.tensor([0.0, 1.0])
        network.bias[:] = torch.tensor([INTENSITY_THRESHOLD, 0.0])
    config = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
    inferer = {"_target_": "monai.inferers.SimpleInferer"}
    _write(folder / "threshold", network, config, inferer, {"precision": "float32"})


def segresnet(seed: int = 0) -> torch.nn.Module:
    """Return the network of the model `segresnet`, with random weights."""
    from monai.networks.nets import SegResNet

    torch.manual_seed(seed)
    return SegResNet(**SEGRESNET).eval()


def write_segresnet_bundle(
    folder: Path, *, precision: str, spacing_mm: tuple[float, float, float] | None = None
) -> None:
    """Write a model `segresnet` with random weights that runs in windows of `WINDOW`, on voxels of a size."""
    config = {"_target_": "monai.networks.nets.SegResNet", **SEGRESNET}
    inferer = {
        "_target_": "monai.inferers.SlidingWindowInferer",
        "roi_size": list(WINDOW),
        "overlap": OVERLAP,
        "mode": "gaussian",
    }
    steps = [{"_target_": "Spacingd", "keys": "image", "pixdim": list(spacing_mm)}] if spacing_mm else []
    _write(folder / "segresnet", segresnet(), config, inferer, {"precision": precision}, steps)


SEGRESNET = {
    "init_filters": 16,
    "in_channels": 1,
    "out_channels": 2,
    "blocks_down": [1, 2, 2],
    "blocks_up": [1, 1],
}


def _write(
    folder: Path,
    network: torch.nn.Module,
    network_def: Mapping[str, Any],
    inferer: Mapping[str, Any],
    manifest: Mapping[str, Any],
    more_steps: Sequence[Mapping[str, Any]] = (),
) -> None:
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    save_file(network.state_dict(), folder / "models" / "model.safetensors")
    image = {
        "type": "image",
        "format": "hounsfield",
        "modality": "CT",
        "num_channels": 1,
        "channel_def": {"0": "image"},
    }
    labels = {"type": "image", "format": "segmentation", "channel_def": {"0": "background", "1": "MARKED"}}
    metadata = {"version": "1.0.0", "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": labels}}}
    steps = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        *more_steps,
    ]
    config = {
        "network_def": network_def,
        "preprocessing": {"_target_": "Compose", "transforms": steps},
        "inferer": inferer,
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            ],
        },
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata, indent=2))
    (folder / "configs" / "inference.json").write_text(json.dumps(config, indent=2))
    (folder / "model.yaml").write_text(yaml.safe_dump({"id": folder.name, **manifest}))
