"""Body, lungs and bone from HU alone: the written rules that the network learns.

Every length is in millimetres, so the rules mean the same at any voxel size. Arrays are ``(z, y, x)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

LABELS = ("BODY", "LUNGS", "BONE")
Spacing = tuple[float, float, float]

SKIN_HU = -300.0
LUNG_HU = -400.0
GAS_HU = -945.0
BONE_HU, MARROW_HU = 160.0, 95.0


@dataclass(frozen=True)
class Scan:
    """A CT with the lengths that morphology needs."""

    hu: np.ndarray
    spacing_mm: Spacing

    @property
    def sampling(self) -> Spacing:
        return self.spacing_mm[2], self.spacing_mm[1], self.spacing_mm[0]

    @property
    def voxel_cc(self) -> float:
        return float(np.prod(self.spacing_mm)) / 1000

    @property
    def cortex_hu(self) -> float:
        """What cortical bone exceeds; the larger a voxel, the more of it is something softer."""
        size_mm = float(np.prod(self.spacing_mm)) ** (1 / 3)
        return float(np.interp(size_mm, [1.0, 3.0], [350.0, 240.0]))

    def smooth(self, sigma_mm: float) -> np.ndarray:
        """Gaussian mean; along an axis whose voxels are far larger than sigma, nothing happens."""
        smoothed: np.ndarray = ndimage.gaussian_filter(self.hu, np.divide(sigma_mm, self.sampling), truncate=3)
        return smoothed

    def dilate(self, mask: np.ndarray, radius_mm: float) -> np.ndarray:
        """Everything no farther from a mask than a radius.

        As a distance transform would tell, in a fraction of its time where the radius is a few voxels: the ball is
        taken as rods along x, those of one length at a time.
        """
        grown, rod = mask.copy(), mask.copy()
        rods = _rods(self.sampling, radius_mm)
        for length in range(max(rods) + 1):
            if 0 < length < mask.shape[2]:
                rod[..., length:] |= mask[..., :-length]
                rod[..., :-length] |= mask[..., length:]
            for dz, dy in rods.get(length, ()):
                _add_shifted(grown, rod, dz, dy)
        return grown

    def erode(self, mask: np.ndarray, radius_mm: float) -> np.ndarray:
        return ~self.dilate(~mask, radius_mm)

    def open(self, mask: np.ndarray, radius_mm: float) -> np.ndarray:
        return self.dilate(self.erode(mask, radius_mm), radius_mm)

    def close(self, mask: np.ndarray, radius_mm: float) -> np.ndarray:
        return self.erode(self.dilate(mask, radius_mm), radius_mm)


def segment(hu: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Find body, lungs and bone by thresholds and morphology.

    BODY contains LUNGS and BONE. LUNGS holds the vessels up to a few millimetres but not the airways nor gas of
    the gut; BONE holds the marrow but not the spinal canal.

    Args:
        hu: ``(Z, Y, X)``, HU, any numeric type, axial slices along z. Not modified.
        spacing_mm: voxel size along x, y, z.

    Returns:
        ``(3, Z, Y, X)`` bool in the order of ``LABELS``.
    """
    clipped = np.clip(hu, -1024, 2000).astype(np.float32)
    whole = Scan(clipped, spacing_mm)
    body = find_body(whole)
    labels = np.zeros((3, *hu.shape), bool)
    if not body.any():
        return labels
    labels[0] = body
    box = _bounding_box(body, whole.sampling)
    inner = Scan(clipped[box], spacing_mm)
    labels[1][box] = find_lungs(inner, body[box])
    labels[2][box] = find_bone(inner, body[box])
    labels[2] &= ~labels[1]
    return labels


def find_body(scan: Scan) -> np.ndarray:
    """Everything within the skin: what is thick enough not to be a couch, with its air filled slice by slice."""
    dense = scan.smooth(1.0) > SKIN_HU
    filled = _fill_slices(dense)
    thick = np.stack([_open_slice(part, scan.sampling[1:], radius_mm=7.0) for part in filled])
    keep = _components(thick & filled, scan, least_share=0.04)
    return _fill_slices(keep)


def find_lungs(scan: Scan, body: np.ndarray) -> np.ndarray:
    """Air within the body that is neither gas nor airway, with its vessels filled in."""
    smooth = scan.smooth(1.0)
    airy = (smooth < LUNG_HU) & scan.erode(body, 3.0)
    gas = scan.open((scan.smooth(2.0) < GAS_HU) & airy, 2.5)
    gas = scan.dilate(gas, 3.0) & airy
    lungs = _lung_like(scan.open(airy & ~gas, 2.0), scan, smooth)
    if not lungs.any():
        return lungs
    bullae = _enclosed_gas(gas, lungs, scan)
    closed = scan.close(lungs | bullae, 4.0) & body & ~(gas & ~bullae)
    return _fill_slices(closed, largest_cm2=2.0, spacing_yx=scan.sampling[1:]) & ~(gas & ~bullae)


def find_bone(scan: Scan, body: np.ndarray) -> np.ndarray:
    """Bright voxels joined to cortex, without contrast-filled vessels, marrow filled in."""
    smooth = scan.smooth(0.8)
    bright = (smooth > BONE_HU) & scan.erode(body, 2.0)
    blood = _contrast_filled(bright, smooth, scan)
    pieces, count = ndimage.label(bright & ~blood, np.ones((3, 3, 3)))
    cortex_cc = np.bincount(pieces[smooth > scan.cortex_hu], minlength=count + 1) * scan.voxel_cc
    cortex_cc[0] = 0
    bone = scan.close((cortex_cc > 0.05)[pieces], 2.0)
    bone |= scan.close(bone, 7.0) & (scan.smooth(2.0) > MARROW_HU) & body & ~blood
    return _fill_marrow(bone, smooth, scan.sampling[1:])


def _rods(sampling: Spacing, radius_mm: float) -> dict[int, list[tuple[int, int]]]:
    """Return where the rods along x of a ball lie (z and y, in voxels), by half their length."""
    reach = [int(radius_mm / step) + 1 for step in sampling]
    z, y, x = np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij", sparse=True)
    inside = np.sqrt((z * sampling[0]) ** 2 + (y * sampling[1]) ** 2 + (x * sampling[2]) ** 2) <= radius_mm
    found: dict[int, list[tuple[int, int]]] = {}
    for row, column in np.argwhere(inside.any(axis=2)):
        place = int(row) - reach[0], int(column) - reach[1]
        found.setdefault(int(inside[row, column].sum()) // 2, []).append(place)
    return found


def _add_shifted(grown: np.ndarray, mask: np.ndarray, dz: int, dy: int) -> None:
    """Add to a mask another one that is moved by some slices and rows."""
    if abs(dz) < mask.shape[0] and abs(dy) < mask.shape[1]:
        to = slice(max(0, dz), mask.shape[0] + min(0, dz)), slice(max(0, dy), mask.shape[1] + min(0, dy))
        of = slice(max(0, -dz), mask.shape[0] - max(0, dz)), slice(max(0, -dy), mask.shape[1] - max(0, dy))
        grown[to] |= mask[of]


def _bounding_box(mask: np.ndarray, sampling: Spacing) -> tuple[slice, ...]:
    margin = [int(np.ceil(8 / step)) for step in sampling]
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    return tuple(
        slice(max(0, part.start - m), min(n, part.stop + m))
        for part, m, n in zip(found, margin, mask.shape, strict=True)
    )


def _open_slice(mask: np.ndarray, sampling: tuple[float, float], *, radius_mm: float) -> np.ndarray:
    # The field of view's edge is not the body's: padding keeps what is cut off there.
    pad = [(int(np.ceil(radius_mm / step)) + 1,) * 2 for step in sampling]
    padded = np.pad(mask, pad, mode="edge")
    core = ndimage.distance_transform_edt(padded, sampling) > radius_mm
    if not core.any():
        return np.zeros_like(mask)
    opened = ndimage.distance_transform_edt(~core, sampling) <= radius_mm + 1.5
    inside: np.ndarray = opened[tuple(slice(p[0], -p[1]) for p in pad)]
    return inside & mask


def _fill_slices(
    mask: np.ndarray, *, largest_cm2: float = np.inf, spacing_yx: tuple[float, float] = (1.0, 1.0)
) -> np.ndarray:
    """Fill the holes of each axial slice that are no larger than given."""
    return np.stack([part | _small(_holes(part), spacing_yx, largest_cm2) for part in mask])


def _holes(part: np.ndarray) -> np.ndarray:
    holes: np.ndarray = ndimage.binary_fill_holes(part) & ~part
    return holes


def _small(mask: np.ndarray, spacing_yx: tuple[float, float], largest_cm2: float) -> np.ndarray:
    pieces, _ = ndimage.label(mask)
    area_cm2 = np.bincount(pieces.ravel()) * np.prod(spacing_yx) / 100
    area_cm2[0] = np.inf
    return np.asarray((area_cm2 <= largest_cm2) if largest_cm2 < np.inf else np.arange(area_cm2.size) > 0)[pieces]


def _components(mask: np.ndarray, scan: Scan, *, least_share: float) -> np.ndarray:
    """The largest piece, and those at least a given share of it, such as arms."""
    pieces, _ = ndimage.label(mask)
    size = np.bincount(pieces.ravel())
    size[0] = 0
    return np.asarray((size > 0) & (size >= least_share * size.max()))[pieces]


def _lung_like(mask: np.ndarray, scan: Scan, smooth: np.ndarray) -> np.ndarray:
    """Pieces that are large and whose inside is neither gas nor stool."""
    pieces, count = ndimage.label(mask)
    if not count:
        return mask
    inside = scan.erode(mask, 4.0)
    volume_cc = np.bincount(pieces.ravel(), minlength=count + 1) * scan.voxel_cc
    inside_cc = np.bincount(pieces[inside], minlength=count + 1) * scan.voxel_cc
    total = np.bincount(pieces[inside], smooth[inside], minlength=count + 1)
    mean = total / np.maximum(np.bincount(pieces[inside], minlength=count + 1), 1)
    slab_cc = 12 * min(1.0, mask.shape[0] * scan.sampling[0] / 25)
    good = (volume_cc > slab_cc) & (inside_cc > 0.25 * volume_cc) & (mean > GAS_HU) & (mean < -550)
    good[0] = False
    return np.asarray(good)[pieces]


def _enclosed_gas(gas: np.ndarray, lungs: np.ndarray, scan: Scan) -> np.ndarray:
    """Pieces of gas nearly surrounded by lung: bullae and emphysema, not airways."""
    pieces, count = ndimage.label(gas)
    rim = scan.dilate(gas, 2.5) & ~gas
    nearest = ndimage.distance_transform_edt(~gas, scan.sampling, return_distances=False, return_indices=True)
    owner = pieces[tuple(nearest)]
    total = np.bincount(owner[rim], minlength=count + 1)
    lung = np.bincount(owner[rim & lungs], minlength=count + 1)
    return np.asarray((lung > 0.75 * total) & (np.arange(count + 1) > 0))[pieces]


def _contrast_filled(bright: np.ndarray, smooth: np.ndarray, scan: Scan) -> np.ndarray:
    """Thick, evenly bright regions without a brighter rim: heart and vessels with contrast agent, kidneys."""
    even = bright & (smooth < 600)
    cores, count = ndimage.label(scan.open(scan.close(even, 1.5) & even, 5.0))
    if not count:
        return np.zeros_like(bright)
    grown = scan.dilate(cores > 0, 4.0)
    rim = scan.dilate(grown, 4.0) & ~(cores > 0)
    nearest = ndimage.distance_transform_edt(cores == 0, scan.sampling, return_distances=False, return_indices=True)
    owner = cores[tuple(nearest)]
    level = ndimage.median(smooth, cores, np.arange(count + 1))
    brighter = np.bincount(owner[rim & (smooth > level[owner] + 100)], minlength=count + 1)
    share = brighter / np.maximum(np.bincount(owner[rim], minlength=count + 1), 1)
    vessel = np.asarray((share < 0.12) & (np.arange(count + 1) > 0))[owner]
    return vessel & grown & (smooth < level[owner] + 150)


def _fill_marrow(bone: np.ndarray, smooth: np.ndarray, spacing_yx: tuple[float, float]) -> np.ndarray:
    """Fill what a ring of bone encloses in a slice, save for the spinal canal and the cranial cavity."""
    return np.stack([part | _marrow(part, level, spacing_yx) for part, level in zip(bone, smooth, strict=True)])


def _marrow(part: np.ndarray, level: np.ndarray, spacing_yx: tuple[float, float]) -> np.ndarray:
    pieces, count = ndimage.label(_holes(part))
    if not count:
        return np.zeros_like(part)
    area_cm2 = np.bincount(pieces.ravel()) * np.prod(spacing_yx) / 100
    mean = ndimage.mean(level, pieces, np.arange(1, count + 1))
    canal = (area_cm2[1:] > 0.8) & (mean > -40) & (mean < 75)
    return np.concatenate([[False], (area_cm2[1:] < 10) & ~canal])[pieces]
