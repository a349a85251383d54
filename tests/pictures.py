"""Pictures in all formats, and a model that tells by where they are bright what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
import yaml
from safetensors.torch import save_file

CLASSES = ("top left", "top right", "bottom left", "bottom right")
QUARTERS = """
import torch

class Quarters(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):  # (B, 1, rows, columns)
        rows, columns = x.shape[2] // 2, x.shape[3] // 2
        parts = [x[:, :, :rows, :columns], x[:, :, :rows, columns:], x[:, :, rows:, :columns], x[:, :, rows:, columns:]]
        return torch.cat([part.mean((2, 3)) for part in parts], 1) * self.gain
"""
"""A network that scores each quarter of a picture by its mean."""
GAIN = 0.02


def write_quarters(folder: Path, **manifest: Any) -> Path:
    """Write a classification of 2-D pictures."""
    folder.mkdir(parents=True)
    declared = {
        "runtime": "network",
        "network": {"class": "quarters.py:Quarters"},
        "dimensions": 2,
        "kind": "classification",
        "classes": list(CLASSES),
        **manifest,
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(declared))
    (folder / "quarters.py").write_text(QUARTERS)
    save_file({"gain": torch.tensor([GAIN])}, folder / "model.safetensors")
    return folder


def quarter_picture() -> np.ndarray:
    """Return a picture, bright at the bottom left, of unlike sides."""
    pixels = np.zeros((8, 16), np.uint8)
    pixels[4:, :8] = 200
    return pixels


def expected_quarters(means: tuple[float, ...] = (0, 0, 200, 0)) -> dict[str, float]:
    """Return the probabilities of a picture whose quarters have these means."""
    powers = np.exp(GAIN * np.array(means))
    return dict(zip(CLASSES, (powers / powers.sum()).tolist(), strict=True))


def save_picture(path: Path, pixels: np.ndarray, tags: dict[str, str] | None = None, *, inverse: bool = False) -> Path:
    """Write a picture in the format of its path's ending; a DICOM file with further tags, `inverse` as MONOCHROME1."""
    image = sitk.GetImageFromArray(pixels)
    for tag, value in (tags or {}).items():
        image.SetMetaData(tag, value)
    sitk.WriteImage(image, str(path))
    if inverse:  # ITK writes the other kind only
        path.write_bytes(path.read_bytes().replace(b"MONOCHROME2 ", b"MONOCHROME1 "))
    return path
