"""Classifications of pictures that tell how bright they are, one by one and as an ensemble."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

EDGE = 100.0
GAINS = {"soft": 0.01, "sharp": 0.04}
LEVEL = """
import torch

class Level(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):  # (B, 1, rows, columns)
        score = (x.mean((1, 2, 3)) - EDGE) * self.gain
        return torch.stack([-score, score], 1) / 2
""".replace("EDGE", str(EDGE))
"""A network whose probability of pneumonia rises with the mean of a picture."""
CODES = {"MYCN": "soft", "DENS": "sharp", "ENSE": "both"}
SETTING = ",".join(f"{code}={model}" for code, model in CODES.items())


def write_levels(folder: Path) -> Path:
    """Write `soft` and `sharp`, which are unlike in how sure they are, and `both`, their ensemble."""
    common = {"runtime": "network", "network": {"class": "level.py:Level"}, "kind": "classification", "dimensions": 2}
    for name, gain in GAINS.items():
        (folder / name).mkdir(parents=True)
        declared = {**common, "classes": ["normal", "pneumonia"]}
        (folder / name / "model.yaml").write_text(yaml.safe_dump(declared))
        (folder / name / "level.py").write_text(LEVEL)
        save_file({"gain": torch.tensor([gain])}, folder / name / "model.safetensors")
    (folder / "both").mkdir()
    (folder / "both" / "model.yaml").write_text(yaml.safe_dump({"runtime": "ensemble", "members": list(GAINS)}))
    return folder


def expected_chance(level: float, model: str = "both") -> float:
    """Return the probability of pneumonia of a picture that is of one level all over."""
    gains = GAINS.values() if model == "both" else [GAINS[model]]
    chances = [1 / (1 + math.exp(-(level - EDGE) * gain)) for gain in gains]
    return sum(chances) / len(chances)
