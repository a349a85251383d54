"""Make example.nii.gz, a drawn image that resembles the surroundings of a hippocampus in T1 MR.

It is made of ellipsoids and tubes only, from nobody's data; float32 and bfloat16 are compared on it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter

Array = np.ndarray[Any, np.dtype[np.float64]]

SHAPE = (36, 50, 36)
FLUID, GREY, WHITE = 0.15, 0.55, 1.0
# Points of the centre line, from tail to head: y, then x, z and the half axes across it, all in voxels.
LINE_Y = (8.0, 13.0, 20.0, 28.0, 35.0, 42.0)
LINE_X = (13.0, 13.5, 15.0, 17.0, 17.5, 18.0)
LINE_Z = (28.0, 23.0, 19.0, 15.0, 12.0, 9.0)
HALF_X = (4.0, 6.0, 6.5, 8.4, 10.2, 7.8)
HALF_Z = (3.5, 3.2, 3.0, 4.2, 6.0, 5.4)


def draw() -> Array:
    """Return tissue intensities ``(X, Y, Z)``, from 0 fluid to 1 white matter, without noise."""
    x, y, z = np.meshgrid(*(np.arange(size, dtype=float) for size in SHAPE), indexing="ij")
    across, height, half_z = (np.interp(y, LINE_Y, line) for line in (LINE_X, LINE_Z, HALF_Z))
    half_x = np.interp(y, LINE_Y, HALF_X)
    above = z - height
    image = np.full(SHAPE, GREY)
    image[(above < -half_z) & (above > -half_z - 3.5)] = WHITE
    image[above < -half_z - 12] = WHITE
    image[above > half_z + 1.5] = 0.85 * WHITE
    image[(y < 9) & (z > 31)] = FLUID
    image[(np.abs(x - across - half_x - 3) < 1.6) & (np.abs(above) < 6)] = FLUID
    image[(x > across + half_x + 4.6) & (above > -4)] = WHITE
    image[(x < across - half_x - 1) & (np.abs(above) < 5)] = 0.8 * WHITE
    tube = ((x - across) / half_x) ** 2 + (above / half_z) ** 2 <= 1
    rim = ((x - across) / (half_x + 1.4)) ** 2 + (above / (half_z + 1.4)) ** 2 <= 1
    image[rim & (above > 0)] = FLUID * 2
    image[tube & (y >= LINE_Y[0] - 1) & (y <= LINE_Y[-1] + 1)] = GREY
    return image


def main() -> None:
    """Write the example image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("example.nii.gz"))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    noise = np.random.default_rng(arguments.seed).normal(scale=0.03, size=SHAPE)
    image = 200 * (gaussian_filter(draw(), 0.7) + noise)
    nifti = nibabel.Nifti1Image(np.clip(image, 0, 255).astype(np.uint8), np.eye(4))
    nibabel.save(nifti, arguments.out)


if __name__ == "__main__":
    main()
