"""From a case to a network's input, as the manifest's section `prepare` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray

from inference_server.models.case import Case
from inference_server.models.preparation import AXES, Crop, Preparation
from inference_server.models.runtimes.base import Prepared
from inference_server.models.runtimes.intensity import change_intensities
from inference_server.models.sampling import Axis, Size, resample

Affine = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Image:
    """Channels on one grid.

    Attributes:
        values: ``(C, A, B, C)`` float32, in any order in memory.
        affine: 4 x 4 from an index of A, B and C to LPS millimetres.
    """

    values: torch.Tensor
    affine: Affine

    @property
    def size(self) -> Size:
        """Number of voxels along each axis."""
        return self.values.shape[1], self.values.shape[2], self.values.shape[3]


def prepare_case(case: Case, channels: Sequence[str], declared: Preparation, *, flat: bool = False) -> Prepared:
    """Turn a case into a network's input.

    Args:
        case: not modified. A channel that was not sent is zero everywhere.
        channels: the names of all channels, in the network's order.
        declared: what to do.
        flat: the last axis is not padded.
    """
    image = orient(load(case, channels), declared.orientation)
    if declared.spacing_mm:
        image = respace(image, declared.spacing_mm)
    if declared.stretch:
        image = stretch(image, declared.stretch)
    if declared.size:
        image = resize(image, declared.size)
    change_intensities(image.values, channels, declared.intensity)
    if declared.crop:
        image = crop(image, declared.crop)
    multiple = declared.multiple_of
    a, b, c = (-(-count // multiple) * multiple for count in image.size)
    image = resize(image, (a, b, image.size[2] if flat else c))
    # Networks of two dimensions take rows first, which is how pictures lie in memory.
    return Prepared(case, image.values if flat else image.values.contiguous(), image.affine)


def load(case: Case, channels: Sequence[str]) -> Image:
    """Copy a case's channels, with the axes x, y, z."""
    shape = case.reference.geometry.shape
    values = torch.zeros(len(channels), *shape)
    for channel, name in zip(values, channels, strict=True):
        if name in case.channels:
            channel.numpy()[:] = case.channels[name].array
    return Image(values.permute(0, 3, 2, 1), case.reference.geometry.affine)


def orient(image: Image, codes: str) -> Image:
    """Exchange and flip axes so that they point where three letters say, as nearly as they can."""
    worlds = [next(axis for axis, pair in enumerate(AXES) if code in pair) for code in codes]
    signs = [1.0 if code in "LPS" else -1.0 for code in codes]
    directions = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    order = max(
        permutations(range(3)),
        key=lambda axes: sum(abs(directions[world, axis]) for world, axis in zip(worlds, axes, strict=True)),
    )
    change = np.eye(4)[:, [*order, 3]]
    flipped = [axis for axis in range(3) if directions[worlds[axis], order[axis]] * signs[axis] < 0]
    values = image.values.permute(0, *(axis + 1 for axis in order))
    for axis in flipped:
        change[:3, 3] += change[:3, axis] * (values.shape[axis + 1] - 1)
        change[:3, axis] *= -1
    turned = values.flip([axis + 1 for axis in flipped]) if flipped else values
    return Image(turned, image.affine @ change)


def respace(image: Image, spacing_mm: Sequence[float]) -> Image:
    """Interpolate linearly to a voxel size; the centre of the first voxel stays, as with MONAI's `Spacing`."""
    zoom = np.asarray(spacing_mm) / np.linalg.norm(image.affine[:3, :3], axis=0)
    counts = [round((count - 1) / share) + 1 for share, count in zip(zoom, image.size, strict=True)]
    return _sampled(image, np.zeros(3), zoom, counts)


def stretch(image: Image, size: Size) -> Image:
    """Interpolate linearly to a number of voxels; the image's edges stay."""
    zoom = np.asarray(image.size) / size
    return _sampled(image, zoom / 2 - 0.5, zoom, size)


def _sampled(image: Image, start: NDArray[np.float64], zoom: NDArray[np.float64], counts: Sequence[int]) -> Image:
    """Interpolate at `counts` indices that begin at `start` and are `zoom` apart."""
    first, second, last = (
        Axis.at(begin + share * np.arange(count), old)
        for begin, share, count, old in zip(start, zoom, counts, image.size, strict=True)
    )
    change = np.diag([*zoom, 1.0])
    change[:3, 3] = start
    exact = first.exact and second.exact and last.exact
    values = image.values if exact else resample(image.values, (first, second, last))
    return Image(values, image.affine @ change)


def resize(image: Image, size: Size) -> Image:
    """Crop and pad on both sides to a number of voxels; padding has the lowest value of its channel."""
    if image.size == size:
        return image
    starts = [int((old - new) / 2) for old, new in zip(image.size, size, strict=True)]
    inner = [slice(max(0, start), start + new) for start, new in zip(starts, size, strict=True)]
    outer = [slice(max(0, -start), old - start) for start, old in zip(starts, image.size, strict=True)]
    lowest = image.values.amin((1, 2, 3), keepdim=True)
    values = lowest.expand(-1, *size).clone()
    values[:, *outer] = image.values[:, *inner]
    return Image(values, _shifted(image.affine, starts))


def crop(image: Image, declared: Crop) -> Image:
    """Keep the box of all voxels above a value, in any channel; the whole image where there are none."""
    inside = (image.values > declared.above).any(0)
    if not inside.any():
        return image
    box = []
    for axis, count in enumerate(image.size):
        others = tuple(other for other in range(3) if other != axis)
        found = inside.any(others).nonzero()
        first, last = int(found[0]) - declared.margin, int(found[-1]) + declared.margin
        box.append(slice(max(0, first), min(count, last + 1)))
    return Image(image.values[:, *box], _shifted(image.affine, [part.start for part in box]))


def _shifted(affine: Affine, start: Sequence[int]) -> Affine:
    change = np.eye(4)
    change[:3, 3] = start
    return affine @ change
