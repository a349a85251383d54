"""Make `example.png` of each chest X-ray model, rays through a drawn thorax: ``python example.py``. It is nobody's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from inference_server.imaging.phantom import PhantomOptions, ct_phantom

SIDE_MM, WATER_PER_MM = 340.0, 0.02


def draw(side: int = 256) -> NDArray[np.uint8]:
    """Return a picture ``(side, side)`` of what reaches a detector behind the patient; bones are bright."""
    options = PhantomOptions(noise_hu=0, table=False, arms="up")
    spacing_mm = SIDE_MM / 128
    phantom = ct_phantom((128, 96, 128), spacing_mm=(spacing_mm,) * 3, seed=2026, options=options)
    thickness = (phantom.image.clip(-1000) / 1000.0 + 1).sum(1)[::-1] * spacing_mm * WATER_PER_MM
    shown = SimpleITK.GetArrayFromImage(
        SimpleITK.Expand(SimpleITK.GetImageFromArray(thickness), [side // 128] * 2, SimpleITK.sitkLinear)
    )
    return np.round(255 * (shown - shown.min()) / np.ptp(shown)).astype(np.uint8)


def main() -> None:
    """Write the picture into the folder of each model."""
    picture = SimpleITK.GetImageFromArray(draw())
    for folder in Path(__file__).resolve().parent.parent.glob("chest-xray-*"):
        SimpleITK.WriteImage(picture, folder / "example.png", useCompression=True)


if __name__ == "__main__":
    main()
