"""Models whose right answer is known, for tests with a whole server, and an image for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from bundles import ARGMAX, LOAD, SOFTMAX, Bundle, conv

from inference_server.imaging.nifti import write_labels
from inference_server.imaging.volume import Geometry, Volume

EDGE = 100.0
"""The models `bright` and `slow` mark every voxel above this."""
SLOW_NETWORK = """
import time
import torch

class SlowConv(torch.nn.Conv3d):
    def forward(self, x):
        time.sleep(0.25)
        return super().forward(x)
"""


def write_models(folder: Path) -> Path:
    """Write `bright`, which marks bright voxels, and `slow`, which does so a quarter of a second a window."""
    state = {"weight": torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1), "bias": torch.tensor([EDGE, 0.0])}
    plain = {"state": state, "transforms": LOAD, "post": (SOFTMAX, ARGMAX)}
    classes = {"0": "background", "1": "BRIGHT"}
    Bundle(network=conv(1, 2), classes=classes, **plain).write(folder / "bright")  # type: ignore[arg-type]
    slow = {**conv(1, 2), "_target_": "slow_network.SlowConv"}
    Bundle(network=slow, classes=classes, **plain).write(folder / "slow")  # type: ignore[arg-type]
    (folder / "slow" / "slow_network.py").write_text(SLOW_NETWORK)
    return folder


def bright_box(shape: tuple[int, int, int] = (6, 10, 14)) -> np.ndarray:
    """Return an image of zeros with a box of 200, off the middle so that no flip goes unnoticed."""
    array = np.zeros(shape, np.uint16)
    array[1:3, 2:7, 3:5] = 200
    return array


def write_image(path: Path, array: np.ndarray, spacing_mm: tuple[float, float, float] = (1.0, 1.5, 3.0)) -> Path:
    """Write a NIfTI image."""
    z, y, x = array.shape
    write_labels(path, Volume(array, Geometry((z, y, x), spacing_mm)))
    return path
