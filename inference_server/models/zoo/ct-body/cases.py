"""The CTs that training may see, the one it may not, and phantoms."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK
from classical import BONE_HU, LABELS, Scan, segment

from inference_server.imaging.phantom import PhantomOptions, ct_phantom

HELD_OUT = "chest_4dlung_p113"
TRAINING_CTS = (
    "ct/chest_lidc0001_512x512x16.nii.gz",
    "labelled/totalseg_ct_sm/image.nii.gz",
    "labelled/totalseg_ct_512/image.nii.gz",
)
HEAD_CT = "dicom/head_ct_ge_tilted_variable_spacing.zip"
# Where the distance between the slices of the head CT changes from 4 mm to 7 mm along their normal.
HEAD_SPACING_CHANGES_AT, HEAD_LOW_MM, HEAD_HIGH_MM = 14, 4.0, 7.0


@dataclass(frozen=True)
class LabelledCt:
    """A CT in LPS order with the labels to learn.

    Args:
        hu: ``(Z, Y, X)`` float32.
        labels: ``(3, Z, Y, X)`` bool in the order of ``classical.LABELS``.
        spacing_mm: voxel size along x, y, z.
    """

    hu: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]


def read_ct(path: Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Read a CT file, its axes turned to LPS; HU ``(Z, Y, X)`` float32 and spacing (x, y, z) in mm."""
    image = SimpleITK.DICOMOrient(SimpleITK.ReadImage(path), "LPS")
    return SimpleITK.GetArrayFromImage(image).astype(np.float32), image.GetSpacing()


def training_cts(data: Path) -> list[LabelledCt]:
    """The real CTs, labelled by the classical algorithm; the head in two parts of even slice distance.

    Args:
        data: folder of the test data.

    Raises:
        ValueError: a held-out CT is among the training files.
    """
    if any(HELD_OUT in name for name in TRAINING_CTS):
        raise ValueError(f"{HELD_OUT} is held out and must not be trained on.")
    pairs = [read_ct(data / name) for name in TRAINING_CTS] + _head_parts(data / HEAD_CT)
    return [LabelledCt(hu, segment(hu, spacing), spacing) for hu, spacing in pairs]


def _head_parts(path: Path) -> list[tuple[np.ndarray, tuple[float, float, float]]]:
    # The gantry's tilt is left out: a sheared head is as good an example as a straight one.
    with zipfile.ZipFile(path) as archive:
        files = [pydicom.dcmread(io.BytesIO(archive.read(name))) for name in archive.namelist() if name[-1] != "/"]
    slices = sorted((f for f in files if "PixelData" in f), key=lambda f: float(f.ImagePositionPatient[2]))
    step = float(slices[0].PixelSpacing[0])
    hu = np.stack([f.pixel_array * float(f.RescaleSlope) + float(f.RescaleIntercept) for f in slices])
    hu, cut = hu.astype(np.float32), HEAD_SPACING_CHANGES_AT
    return [(hu[:cut], (step, step, HEAD_LOW_MM)), (hu[cut:], (step, step, HEAD_HIGH_MM))]


def random_phantom(rng: np.random.Generator) -> LabelledCt:
    """A phantom of random build, scan, field of view and spacing, with its truth as labels.

    Bone is widened to where the picture is as bright as the classical algorithm asks, so that both kinds of
    training data put the surface in the same place.
    """
    across, along = rng.uniform(1.4, 2.8), rng.uniform(1.5, 5.0)
    field_mm = rng.uniform((180, 300, 330), (380, 420, 500))
    z, y, x = (round(length / step) for length, step in zip(field_mm, (along, across, across), strict=True))
    options = PhantomOptions(
        centre_mm=(rng.uniform(-40, 40), rng.uniform(-30, 30), rng.uniform(-220, 150)),
        noise_hu=rng.uniform(3, 45),
        blur_mm=rng.uniform(0.5, 1.2),
        streaks_hu=rng.choice([0.0, 0.0, 30.0, 60.0]),
        contrast_hu=rng.choice([0.0, 0.0, 120.0, 250.0, 400.0]),
        table=bool(rng.random() < 0.7),
        arms=rng.choice(["none", "down", "up"]),
    )
    spacing = (across, across, along)
    phantom = ct_phantom((z, y, x), spacing_mm=spacing, seed=int(rng.integers(2**31)), options=options)
    labels = np.stack([phantom.truth[name] for name in LABELS])
    scan = Scan(phantom.image.astype(np.float32), spacing)
    labels[2] |= scan.dilate(labels[2], 2.0) & (scan.smooth(0.8) > BONE_HU) & ~labels[1]
    return LabelledCt(scan.hu, labels, spacing)
