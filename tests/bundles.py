"""Small MONAI bundles whose right answer is known for every voxel, and cases for them."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from inference_server.imaging.volume import Direction, Geometry, Volume

LEVELS = (-0.5, 0.25)
"""Classes of `level_network`: below the first level 0, between them 1, above both 2."""
AXIS_CODES = tuple(
    "".join(codes)
    for order in itertools.permutations(range(3))
    for codes in itertools.product(*(("LR", "PA", "IS")[axis] for axis in order))
)
LOAD = ({"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": "image"})
ORIENT = {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None}
SOFTMAX = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
SIGMOID = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
INVERT = {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"}
ARGMAX = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
THRESHOLD = {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}
SAVE = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "$@bundle_root + '/eval'"}
WINDOWS = {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8], "overlap": 0.25, "mode": "gaussian"}
WHOLE = {"_target_": "SimpleInferer"}


def conv(channels: int, classes: int, size: int = 1) -> dict[str, Any]:
    """Return a network of one convolution."""
    return {
        "_target_": "torch.nn.Conv3d",
        "in_channels": channels,
        "out_channels": classes,
        "kernel_size": size,
        "padding": size // 2,
    }


def level_state(steepness: float = 50.0) -> dict[str, torch.Tensor]:
    """Return weights of a 1 x 1 x 1 convolution whose highest score is the class of `expected_levels`."""
    first, second = LEVELS
    slopes = torch.tensor([0.0, 1.0, 2.0]) * steepness
    offsets = torch.tensor([0.0, -first, -first - second]) * steepness
    return {"weight": slopes.view(3, 1, 1, 1, 1), "bias": offsets}


@dataclass
class Bundle:
    """What `write` puts into a folder; everything has a value that works."""

    network: dict[str, Any] = field(default_factory=lambda: conv(1, 3))
    state: dict[str, torch.Tensor] = field(default_factory=level_state)
    transforms: tuple[dict[str, Any], ...] = (*LOAD, ORIENT)
    inferer: dict[str, Any] = field(default_factory=lambda: dict(WINDOWS))
    post: tuple[dict[str, Any], ...] = (SOFTMAX, INVERT, ARGMAX, SAVE)
    channels: dict[str, str] = field(default_factory=lambda: {"0": "image"})
    classes: dict[str, str] = field(default_factory=lambda: {"0": "background", "1": "low", "2": "high"})
    manifest: dict[str, Any] = field(default_factory=dict)
    weights: str = "safetensors"
    more: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        (folder / "configs").mkdir(parents=True)
        (folder / "models").mkdir()
        (folder / "configs" / "metadata.json").write_text(json.dumps(self._metadata()))
        (folder / "configs" / "inference.json").write_text(json.dumps(self._inference()))
        if self.manifest:
            (folder / "model.yaml").write_text(yaml.safe_dump(self.manifest))
        self._write_weights(folder / "models")
        return folder

    def _metadata(self) -> dict[str, Any]:
        image = {"type": "image", "modality": "MR", "num_channels": len(self.channels), "channel_def": self.channels}
        output = {"type": "image", "num_channels": len(self.classes), "channel_def": self.classes}
        data_format = {"inputs": {"image": image}, "outputs": {"pred": output}}
        return {"version": "2.1.0", "task": "Levels", "network_data_format": data_format}

    def _inference(self) -> dict[str, Any]:
        return {
            "network_def": self.network,
            "network": "$@network_def.to(@device)",
            "preprocessing": {"_target_": "Compose", "transforms": list(self.transforms)},
            "inferer": self.inferer,
            "postprocessing": {"_target_": "Compose", "transforms": list(self.post)},
            **self.more,
        }

    def _write_weights(self, folder: Path) -> None:
        match self.weights:
            case "safetensors":
                save_file(self.state, folder / "model.safetensors")
            case "pt":
                torch.save({"model": self.state}, folder / "model.pt")
            case "ts":
                network = torch.nn.Conv3d(**{key: self.network[key] for key in self.network if key[0] != "_"})
                network.load_state_dict(self.state)
                torch.jit.script(network).save(str(folder / "model.ts"))


def expected_levels(values: np.ndarray) -> np.ndarray:
    """Return the class of each value."""
    return sum((values > level).astype(np.uint8) for level in LEVELS)


def axis_geometry(
    codes: str = "LPS", shape: tuple[int, int, int] = (9, 14, 11), spacing: tuple[float, float, float] = (1.0, 1.5, 2.5)
) -> Geometry:
    """Return a grid whose x, y, z axes point where three letters say (L, P, S positive), about the origin."""
    direction = np.zeros((3, 3))
    for axis, code in enumerate(codes):
        world = next(index for index, pair in enumerate(("LR", "PA", "SI")) if code in pair)
        direction[world, axis] = 1.0 if code in "LPS" else -1.0
    return centred(shape, spacing, direction)


def centred(shape: tuple[int, int, int], spacing: tuple[float, float, float], direction: np.ndarray) -> Geometry:
    """Return a grid whose centre is the origin."""
    middle = (np.asarray(shape[::-1]) - 1) / 2
    x, y, z = (float(value) for value in -(direction * np.asarray(spacing)) @ middle)
    row: Direction = tuple(float(value) for value in direction.ravel())  # type: ignore[assignment]
    return Geometry(shape, spacing, (x, y, z), row)


def world(geometry: Geometry) -> np.ndarray:
    """Return the LPS position of each voxel, (z, y, x, 3)."""
    z, y, x = np.meshgrid(*(np.arange(count) for count in geometry.shape), indexing="ij")
    affine = geometry.affine
    return np.stack([x, y, z], -1) @ affine[:3, :3].T + affine[:3, 3]


def slope(positions: np.ndarray) -> np.ndarray:
    """Return a function of the position that tells all orientations apart and that linear interpolation keeps."""
    return (positions @ np.array([0.031, 0.052, 0.083])).astype(np.float32)


def slope_volume(geometry: Geometry) -> Volume:
    """Return `slope` on a grid."""
    return Volume(slope(world(geometry)), geometry)
