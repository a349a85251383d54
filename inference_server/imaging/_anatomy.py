"""What `phantom` is drawn with: coordinates, one patient's build, and the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

AIR_HU = -1000.0
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Grid:
    """Open coordinate arrays in mm that broadcast to (z, y, x)."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    spacing_mm: tuple[float, float, float]

    @classmethod
    def around(cls, centre_mm: Point, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Grid:
        x, y, z = (
            (centre + (np.arange(n) - (n - 1) / 2) * step).astype(np.float32)
            for centre, n, step in zip(centre_mm, reversed(shape), spacing_mm, strict=True)
        )
        return cls(x[None, None, :], y[None, :, None], z[:, None, None], spacing_mm)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.z.size, self.y.size, self.x.size

    def ellipsoid(self, centre: Point, radii: Point) -> np.ndarray:
        """Normalised distance from the centre: 1 on the surface."""
        terms = (((axis - c) / r) ** 2 for axis, c, r in zip((self.x, self.y, self.z), centre, radii, strict=True))
        distance: np.ndarray = np.sqrt(sum(terms))
        return distance

    def segment(self, start: Point, end: Point) -> np.ndarray:
        """Distance in mm from the line segment between two points."""
        a, b = np.array(start, np.float32), np.array(end, np.float32)
        along = (b - a) / np.dot(b - a, b - a)
        t = np.clip((self.x - a[0]) * along[0] + (self.y - a[1]) * along[1] + (self.z - a[2]) * along[2], 0, 1)
        dx, dy, dz = (axis - (p + t * (q - p)) for axis, p, q in zip((self.x, self.y, self.z), a, b, strict=True))
        distance: np.ndarray = np.sqrt(dx * dx + dy * dy + dz * dz)
        return distance


@dataclass(frozen=True)
class Thorax:
    """One patient's build, in mm and HU."""

    size: float
    fat_mm: float
    depth: float
    lung_hu: float
    lung_base_mm: float
    heart_mm: float
    blood_hu: float
    cortex_hu: float
    marrow_hu: float
    rib_pitch_mm: float
    rib_radius_mm: float
    rib_phase_mm: float
    arms: str

    @classmethod
    def drawn_by(cls, rng: np.random.Generator, *, contrast_hu: float, arms: str) -> Thorax:
        return cls(
            size=rng.uniform(0.88, 1.12),
            fat_mm=rng.uniform(4, 28),
            depth=rng.uniform(0.9, 1.15),
            lung_hu=rng.uniform(-890, -740),
            lung_base_mm=rng.uniform(-85, -35),
            heart_mm=rng.uniform(42, 60),
            blood_hu=45 + contrast_hu,
            cortex_hu=rng.uniform(500, 1000),
            marrow_hu=rng.uniform(130, 300),
            rib_pitch_mm=rng.uniform(23, 28),
            rib_radius_mm=rng.uniform(4.0, 5.5),
            rib_phase_mm=rng.uniform(0, 25),
            arms=arms,
        )

    def outline(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        knots = [-150, 0, 100, 145, 180, 205, 260]
        half_width = np.interp(z / self.size, knots, [152, 160, 172, 196, 120, 60, 72])
        half_depth = np.interp(z / self.size, knots, [112, 114, 110, 98, 80, 62, 85]) * self.depth
        return half_width * self.size + self.fat_mm, half_depth * self.size + self.fat_mm

    def cage(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        knots = [-200, -100, 0, 80, 125, 150, 156]
        half_width = np.interp(z / self.size, knots, [132, 142, 140, 118, 78, 42, 8])
        half_depth = np.interp(z / self.size, knots, [90, 94, 92, 80, 62, 40, 8]) * self.depth
        return half_width * self.size, half_depth * self.size

    def spine_y(self, z: np.ndarray) -> np.ndarray:
        return (
            self.size * self.depth * np.interp(z / self.size, [-300, -150, 0, 100, 180, 260], [40, 52, 64, 54, 30, 28])
        )


@dataclass
class Scene:
    """The picture while it is painted; later strokes cover earlier ones."""

    hu: np.ndarray
    body: np.ndarray
    lungs: np.ndarray
    bone: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, int, int]) -> Scene:
        masks = (np.zeros(shape, bool) for _ in range(3))
        return cls(np.full(shape, AIR_HU, np.float32), *masks)

    def fill(self, mask: np.ndarray, hu: float) -> None:
        np.copyto(self.hu, hu, where=mask)

    def add_bone(self, distance: np.ndarray, thorax: Thorax, *, cortex: float) -> None:
        """Paint a bone from a normalised distance, 1 on its surface; the cortex is given in the same unit."""
        inside = distance < 1
        self.fill(inside, thorax.marrow_hu)
        self.fill(inside & (distance > 1 - cortex), thorax.cortex_hu)
        self.bone |= inside
        self.lungs &= ~inside
