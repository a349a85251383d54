"""What is sent: small images of noise, each of its own, and how long its computation takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nifti_files import nifti, packed

from chaos.repository import STEADY

SHAPE = (24, 20, 12)
LEVELS = (-500, 500)


@dataclass(frozen=True)
class Sent:
    """One input: what is sent to which model."""

    number: int
    model: str
    image: Path
    parameters: Mapping[str, float]


def make_cases(folder: Path, count: int, seed: int, *, seconds: tuple[float, float]) -> list[Sent]:
    """Write `count` images and return what to send with each; the same seed gives the same.

    Args:
        folder: made.
        count: how many.
        seed: of all of them.
        seconds: the shortest and the longest computation.
    """
    folder.mkdir(parents=True)
    return [_case(folder, number, np.random.default_rng((seed, number)), seconds) for number in range(count)]


def _case(folder: Path, number: int, random: np.random.Generator, seconds: tuple[float, float]) -> Sent:
    image = folder / f"{number}.nii.gz"
    image.write_bytes(packed(nifti(random.integers(-1000, 1000, SHAPE).astype(np.int16), np.eye(4))))
    parameters = {"seconds": round(random.uniform(*seconds), 3), "level": int(random.integers(*LEVELS))}
    return Sent(number, STEADY[number % len(STEADY)], image, parameters)
