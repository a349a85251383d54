"""A synthetic CT of a thorax with known truth: body, lungs and bone.

Anatomy is drawn in millimetres around the middle of the volume (x to the patient's left, y to the back,
z to the head), so a finer grid shows the same patient more finely and a smaller one shows a part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from inference_server.imaging._anatomy import Grid, Scene, Thorax
from inference_server.imaging._thorax import paint_thorax

__all__ = ["Phantom", "PhantomOptions", "ct_phantom"]


@dataclass(frozen=True)
class Phantom:
    """A synthetic CT and what is truly in it.

    Args:
        image: ``(Z, Y, X)`` int16, HU.
        truth: ``"BODY"``, ``"LUNGS"`` and ``"BONE"``, each ``(Z, Y, X)`` bool. BODY contains the other two.
        spacing_mm: voxel size along x, y, z.
        origin_mm: world position (LPS) of the first voxel's centre along x, y, z.
        direction: row-major 3x3 direction cosines, always the identity.
    """

    image: np.ndarray
    truth: dict[str, np.ndarray]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class PhantomOptions:
    """What of the scan, other than the patient's build, may be chosen; the build follows from the seed.

    Args:
        centre_mm: the anatomical point (x, y, z) shown in the middle of the volume; z = 0 is at mid-heart.
        noise_hu: standard deviation of the noise.
        blur_mm: standard deviation of the scanner's point spread.
        streaks_hu: strength of the streaks at shoulder height.
        contrast_hu: what a contrast agent adds to heart and vessels.
        table: whether the couch is in the picture.
        arms: where the arms lie.
    """

    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    noise_hu: float = 15.0
    blur_mm: float = 0.8
    streaks_hu: float = 0.0
    contrast_hu: float = 0.0
    table: bool = True
    arms: Literal["none", "down", "up"] = "none"


def ct_phantom(
    shape: tuple[int, int, int],
    *,
    spacing_mm: tuple[float, float, float],
    seed: int,
    options: PhantomOptions | None = None,
) -> Phantom:
    """Draw a thorax CT whose body, lungs and bone are known exactly.

    The same arguments give the same phantom. LUNGS holds the vessels within the lungs but not trachea and
    main bronchi; BONE holds the marrow but not the spinal canal. Truth is decided at voxel centres, before
    blur and noise.

    Args:
        shape: voxels along z, y, x, each > 0.
        spacing_mm: voxel size along x, y, z, each > 0.
        seed: picks the patient's build and the noise.
        options: the scan; by default a supine patient on a table, arms out of the picture, no contrast agent.

    Returns:
        Phantom with arrays of ``shape``, HU within -1024..3071.

    Raises:
        ValueError: a size or a spacing is not positive.
    """
    if min(shape) <= 0 or min(spacing_mm) <= 0:
        raise ValueError(f"Shape and spacing must be positive, got shape {shape} and spacing {spacing_mm} mm.")
    options = options or PhantomOptions()
    rng = np.random.default_rng(seed)
    grid = Grid.around(options.centre_mm, shape, spacing_mm)
    thorax = Thorax.drawn_by(rng, contrast_hu=options.contrast_hu, arms=options.arms)
    scene = paint_thorax(grid, thorax, rng, table=options.table)
    image = _scan(scene, grid, options, rng)
    origin = tuple(-(n - 1) / 2 * step for n, step in zip(reversed(shape), spacing_mm, strict=True))
    truth = {"BODY": scene.body, "LUNGS": scene.lungs, "BONE": scene.bone}
    return Phantom(image=image, truth=truth, spacing_mm=spacing_mm, origin_mm=(origin[0], origin[1], origin[2]))


def _scan(scene: Scene, grid: Grid, options: PhantomOptions, rng: np.random.Generator) -> np.ndarray:
    spacing_zyx = np.array(grid.spacing_mm[::-1])
    # A slice averages over its thickness, which is about the distance between slices.
    blur = np.hypot(options.blur_mm, [0.3 * spacing_zyx[0], 0.0, 0.0]) / spacing_zyx
    image = ndimage.gaussian_filter(scene.hu, blur)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    if options.streaks_hu:
        image += options.streaks_hu * _streaks(noise, grid)
    image += options.noise_hu * _correlated(noise)
    hu: np.ndarray = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
    return hu


def _correlated(noise: np.ndarray) -> np.ndarray:
    smooth: np.ndarray = ndimage.gaussian_filter(noise, (0, 0.7, 0.7), truncate=3)
    smooth /= 0.405
    return smooth


def _streaks(noise: np.ndarray, grid: Grid) -> np.ndarray:
    along_x: np.ndarray = ndimage.uniform_filter1d(noise, max(3, noise.shape[2] // 4), axis=2)
    along_x /= along_x.std() + 1e-6
    along_x *= np.exp(-(((grid.z - 135) / 30) ** 2))
    return along_x
