"""Augmented training windows, cut from labelled CTs at the network's working spacing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from cases import LabelledCt
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

SPACING_MM = (1.5, 1.5, 2.5)
HU_MIN, HU_MAX, HU_UNIT = -1000.0, 1000.0, 500.0
"""What the network sees of HU, and how many HU are one."""
ANYWHERE = 0.15
"""Share of the windows that lie anywhere in the picture; the others lie about the body. Some show nothing but air."""
# A label is averaged over about one working voxel, so that interpolating the prediction back to a fine grid and
# cutting it at one half finds the surface again. Measured best of 0, 0.5, 0.75 and 1.0 mm.
LABEL_SIGMA_MM = 0.75


@dataclass(frozen=True)
class Source:
    """A labelled CT as torch wants it: image and labels ``(1, C, X, Y, Z)`` float32, HU and 0..1."""

    image: Tensor
    labels: Tensor
    spacing_mm: Tensor
    body_low_mm: Tensor
    body_high_mm: Tensor

    @classmethod
    def of(cls, ct: LabelledCt) -> Source:
        sigma = LABEL_SIGMA_MM / np.array(ct.spacing_mm[::-1])
        soft = [ndimage.gaussian_filter(part.astype(np.float32), sigma, truncate=3) for part in ct.labels]
        box = ndimage.find_objects(ct.labels[0].astype(np.uint8))[0][::-1]
        return cls(
            image=torch.from_numpy(np.ascontiguousarray(ct.hu.T))[None, None],
            labels=torch.from_numpy(np.ascontiguousarray(np.stack([part.T for part in soft])))[None],
            spacing_mm=torch.tensor(ct.spacing_mm),
            body_low_mm=torch.tensor([part.start * step for part, step in zip(box, ct.spacing_mm, strict=True)]),
            body_high_mm=torch.tensor([part.stop * step for part, step in zip(box, ct.spacing_mm, strict=True)]),
        )


@dataclass(frozen=True)
class Sampler:
    """Cuts random windows; the torch generator makes them reproducible."""

    random: torch.Generator

    def uniform(self, low: float, high: float, size: tuple[int, ...] = ()) -> Tensor:
        return low + (high - low) * torch.rand(size, generator=self.random)

    def chance(self, share: float) -> bool:
        return bool(torch.rand((), generator=self.random) < share)

    def window(self, source: Source, size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Cut one window.

        Args:
            source: where from. Not modified.
            size: voxels along x, y, z.

        Returns:
            Network input ``(1, 1, X, Y, Z)`` in -2..2 and soft labels ``(1, 3, X, Y, Z)`` in 0..1.
        """
        position_mm = self._centre(source, size) + self._turned(size)
        low, high = self._field_of_view(source)
        position_mm = torch.minimum(torch.maximum(position_mm, low), high)
        labels = _sample(source.labels, position_mm / source.spacing_mm)
        step = self._coarser(source)
        coarse = source.image[:, :, :: step[0], :: step[1], :: step[2]]
        image = _sample(coarse, position_mm / (source.spacing_mm * torch.tensor(step)))
        return self._scanned(image), labels

    def _centre(self, source: Source, size: tuple[int, int, int]) -> Tensor:
        extent = (torch.tensor(source.image.shape[2:]) - 1) * source.spacing_mm
        half = torch.tensor(size) * torch.tensor(SPACING_MM) / 2
        wanted = source.body_low_mm + self.uniform(0, 1, (3,)) * (source.body_high_mm - source.body_low_mm)
        # Windows lie within the picture at prediction; where it is smaller than the window it is in its middle.
        if self.chance(ANYWHERE):
            wanted = self.uniform(0, 1, (3,)) * extent
        low, high = torch.minimum(half, extent / 2) - 15, torch.maximum(extent - half, extent / 2) + 15
        return torch.minimum(torch.maximum(wanted, low), high)

    def _turned(self, size: tuple[int, int, int]) -> Tensor:
        """Offsets from the centre in mm, ``(X, Y, Z, 3)``: turned, mirrored, scaled and bent."""
        axes = [(torch.arange(n) - (n - 1) / 2) * step for n, step in zip(size, SPACING_MM, strict=True)]
        offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        scale = self.uniform(0.82, 1.2) * self.uniform(0.94, 1.06, (3,))
        mirror = torch.tensor([-1.0 if self.chance(share) else 1.0 for share in (0.5, 0.15, 0.15)])
        turned = offsets @ (self._rotation() * (scale * mirror)).T
        bend = torch.randn((1, 3, 5, 5, 5), generator=self.random) * self.uniform(0, 5)
        bend = functional.interpolate(bend, size, mode="trilinear", align_corners=True)
        return turned + bend[0].permute(1, 2, 3, 0)

    def _rotation(self) -> Tensor:
        angles = torch.randn(3, generator=self.random) * torch.tensor([0.12, 0.12, 0.18])
        if self.chance(0.05):
            angles[2] += np.pi / 2
        matrix = torch.eye(3)
        for axis, angle in enumerate(angles):
            a, b = (axis + 1) % 3, (axis + 2) % 3
            turn = torch.eye(3)
            turn[a, a] = turn[b, b] = torch.cos(angle)
            turn[a, b], turn[b, a] = -torch.sin(angle), torch.sin(angle)
            matrix = matrix @ turn
        return matrix

    def _field_of_view(self, source: Source) -> tuple[Tensor, Tensor]:
        """Ends of the picture in mm; beyond them the last voxel is repeated, as at prediction."""
        high = (torch.tensor(source.image.shape[2:]) - 1) * source.spacing_mm
        low = torch.zeros(3)
        if self.chance(0.2):
            thick = self.uniform(0, 60)
            low[2] = self.uniform(0, 1) * (high[2] - thick).clamp(min=0)
            high[2] = torch.minimum(high[2], low[2] + thick)
        if self.chance(0.15):
            low[:2] = self.uniform(0, 0.35, (2,)) * high[:2]
            high[:2] -= self.uniform(0, 0.35, (2,)) * high[:2]
        return low, high

    def _coarser(self, source: Source) -> list[int]:
        """Steps that skip voxels, as if scanned more coarsely."""
        if not self.chance(0.25):
            return [1, 1, 1]
        limits = (2.0, 2.0, 5.0)
        most = [max(1, int(limit / step)) for limit, step in zip(limits, source.spacing_mm.tolist(), strict=True)]
        across = int(torch.randint(1, most[0] + 1, (), generator=self.random))
        return [across, across, int(torch.randint(1, most[2] + 1, (), generator=self.random))]

    def _scanned(self, hu: Tensor) -> Tensor:
        if self.chance(0.15):
            hu = torch.lerp(
                hu, functional.avg_pool3d(hu, 3, 1, 1, count_include_pad=False), float(self.uniform(0, 0.8))
            )
        if self.chance(0.6):
            hu = hu + torch.randn(hu.shape, generator=self.random) * self.uniform(0, 25)
        hu = hu * self.uniform(0.985, 1.015) + self.uniform(-6, 6)
        return hu.clamp(HU_MIN, HU_MAX) / HU_UNIT


def _sample(volume: Tensor, index: Tensor) -> Tensor:
    """Trilinear samples of ``(1, C, X, Y, Z)`` at voxel coordinates ``(X', Y', Z', 3)``."""
    last = torch.tensor(volume.shape[2:]) - 1
    scaled = torch.where(last > 0, 2 * index / last.clamp(min=1) - 1, 0.0)
    return functional.grid_sample(
        volume, scaled.flip(-1)[None], mode="bilinear", padding_mode="border", align_corners=True
    )
