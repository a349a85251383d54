"""Make ``example.nii.gz``, the small phantom on which precisions are compared: ``python example.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK

from inference_server.imaging.phantom import PhantomOptions, ct_phantom


def main() -> None:
    """Write the phantom beside this script."""
    phantom = ct_phantom((40, 88, 88), spacing_mm=(4.5, 4.5, 6.0), seed=2026, options=PhantomOptions(noise_hu=8))
    image = SimpleITK.GetImageFromArray(phantom.image.astype(np.int16))
    image.SetSpacing(phantom.spacing_mm)
    image.SetOrigin(phantom.origin_mm)
    SimpleITK.WriteImage(image, Path(__file__).with_name("example.nii.gz"), useCompression=True)


if __name__ == "__main__":
    main()
