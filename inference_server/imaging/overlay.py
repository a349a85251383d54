"""A picture of contours over an image, for people to look at. Needs Pillow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import InvalidVolume
from inference_server.imaging.volume import Geometry, Volume

Color = tuple[int, int, int]
Mask = NDArray[Any]

_CT_WINDOW_HU = (-450.0, 550.0)
_VIEW_PIXELS = 480
_MARGIN = 24
_LEGEND_LINE = 20
_LINE_WIDTH = 2
_TEXT_COLOR = (235, 235, 235)


@dataclass(frozen=True)
class _View:
    """One plane: which axes (0 z, 1 y, 2 x) go across, down and out of it, and what stands at its edges."""

    title: str
    across: int
    down: int
    through: int
    letters: tuple[str, str, str, str]
    """Left, right, top, bottom."""


_VIEWS = (
    _View("axial", across=2, down=1, through=0, letters=("R", "L", "A", "P")),
    _View("coronal", across=2, down=0, through=1, letters=("R", "L", "S", "I")),
    _View("sagittal", across=1, down=0, through=2, letters=("A", "P", "S", "I")),
)


@dataclass(frozen=True)
class _Upright:
    """Image and masks with axes along the head, back and left of the patient, as near as the grid has them."""

    image: NDArray[Any]
    masks: Mapping[str, tuple[Mask, Color]]
    spacing_mm: tuple[float, float, float]
    """Along z, y, x of the turned arrays."""


def write_overlay(path: Path, volume: Volume, masks: Mapping[str, tuple[Mask, Color]]) -> None:
    """Write a PNG of three planes through the centre of the largest mask, with outlines and a legend.

    Planes stand as radiologists look at them: the patient's right at the left edge, the head up. Distances are true
    in all directions. CT is shown from -450 to 550 HU, other images between their 0.5th and 99.5th percentile.

    Args:
        path: the PNG to write.
        volume: ``(Z, Y, X)``, any unit. Not modified.
        masks: by the name in the legend: the mask, on the volume's grid or on its contour grid, and its colour (red,
            green, blue, 0–255). Not modified.

    Raises:
        InvalidVolume: a mask's shape is not a multiple of the volume's.
    """
    from PIL import Image, ImageDraw  # an extra, and only for this

    upright = _upright(volume, masks)
    low, high = _window(volume.array)
    centre = _centre(upright)
    planes = [_plane(upright, view, centre, (low, high)) for view in _VIEWS]
    width = sum(plane.shape[1] + _MARGIN for plane in planes) + _MARGIN
    height = max(plane.shape[0] for plane in planes) + 2 * _MARGIN + _LEGEND_LINE * (len(masks) + 1)
    sheet = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(sheet)
    left = _MARGIN
    for plane, view in zip(planes, _VIEWS, strict=True):
        sheet.paste(Image.fromarray(plane), (left, _MARGIN))
        _draw_letters(draw, view, (left, _MARGIN), plane.shape[:2])
        left += plane.shape[1] + _MARGIN
    _draw_legend(draw, masks, top=height - _LEGEND_LINE * (len(masks) + 1))
    sheet.save(path, format="PNG")


def _upright(volume: Volume, masks: Mapping[str, tuple[Mask, Color]]) -> _Upright:
    for mask, _ in masks.values():
        if mask.ndim != 3 or any(n % m for n, m in zip(mask.shape, volume.array.shape, strict=True)):
            raise InvalidVolume(f"A mask has {mask.shape} voxels; a multiple of {volume.array.shape} was expected.")
    order, flips = _turn(volume.geometry)
    turned = {name: (_turned(mask, order, flips), color) for name, (mask, color) in masks.items()}
    z, y, x = (volume.geometry.spacing_mm[::-1][axis] for axis in order)
    return _Upright(_turned(volume.array, order, flips), turned, (z, y, x))


def _turn(geometry: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The array axes that run along z, y and x of the patient, and which of them run backwards."""
    direction = np.reshape(geometry.direction, (3, 3))[::-1, ::-1]  # rows and columns in (z, y, x)
    left, order, flips = direction.copy(), [0, 0, 0], [1, 1, 1]
    for _ in range(3):
        world, axis = np.unravel_index(np.argmax(np.abs(left)), (3, 3))
        order[world], flips[world] = int(axis), 1 if left[world, axis] > 0 else -1
        left[world, :], left[:, axis] = 0, 0
    return tuple(order), tuple(flips)


def _turned(array: NDArray[Any], order: tuple[int, ...], flips: tuple[int, ...]) -> NDArray[Any]:
    z, y, x = flips
    return array.transpose(order)[::z, ::y, ::x]


def _window(array: NDArray[Any]) -> tuple[float, float]:
    sample = array[:: max(1, array.shape[0] // 32), ::4, ::4] if array.size > 1e6 else array
    low, high = np.percentile(sample, [0.5, 99.5])
    is_ct = low < -500
    return _CT_WINDOW_HU if is_ct else (float(low), float(max(high, low + 1e-6)))


def _centre(upright: _Upright) -> tuple[float, float, float]:
    """Of the largest mask, as parts (z, y, x) of the volume's extent; its middle where nothing is masked."""
    largest = max((mask for mask, _ in upright.masks.values()), key=_extent, default=None)
    if largest is None or not largest.any():
        return 0.5, 0.5, 0.5
    z, y, x = (_middle(np.asarray(largest, bool).sum(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    return z, y, x


def _extent(mask: Mask) -> float:
    """The part of the grid in a mask, so that masks on grids of different fineness compare."""
    return np.count_nonzero(mask) / mask.size


def _middle(counts: NDArray[Any]) -> float:
    return float(np.average(np.arange(counts.size) + 0.5, weights=counts)) / counts.size


def _plane(
    upright: _Upright, view: _View, centre: tuple[float, float, float], window: tuple[float, float]
) -> NDArray[np.uint8]:
    size = _size(upright, view)
    low, high = window
    grey = np.clip((_cut(upright.image, view, centre, size).astype(np.float32) - low) / (high - low), 0, 1) * 255
    pixels = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    for mask, color in upright.masks.values():
        pixels[_outline(_cut(mask, view, centre, size) != 0)] = color
    return pixels


def _size(upright: _Upright, view: _View) -> tuple[int, int]:
    """Rows and columns of a plane's picture, at one scale for all planes."""
    lengths_mm = [n * step for n, step in zip(upright.image.shape, upright.spacing_mm, strict=True)]
    scale = _VIEW_PIXELS / max(lengths_mm)
    return max(1, round(lengths_mm[view.down] * scale)), max(1, round(lengths_mm[view.across] * scale))


def _cut(array: NDArray[Any], view: _View, centre: tuple[float, float, float], size: tuple[int, int]) -> NDArray[Any]:
    """The plane at the size of its picture, each pixel with the voxel that it lies in."""
    count = array.shape[view.through]
    plane = array.take(min(int(centre[view.through] * count), count - 1), axis=view.through)
    rows, columns = (
        ((np.arange(pixels) + 0.5) * length / pixels).astype(int)
        for pixels, length in zip(size, plane.shape, strict=True)
    )
    shown: NDArray[Any] = plane[np.ix_(rows, columns)]
    return shown[::-1] if view.down == 0 else shown


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inner = mask
    for _ in range(_LINE_WIDTH):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _draw_letters(draw: Any, view: _View, corner: tuple[int, int], size: tuple[int, ...]) -> None:
    left, top = corner
    rows, columns = size
    middle, centre = top + rows // 2, left + columns // 2
    places = [(left + 8, middle), (left + columns - 8, middle), (centre, top + 10), (centre, top + rows - 10)]
    for letter, place in zip(view.letters, places, strict=True):
        draw.text(place, letter, fill=_TEXT_COLOR, anchor="mm", font_size=14, stroke_width=2, stroke_fill=(0, 0, 0))
    draw.text((left, top - 6), view.title, fill=_TEXT_COLOR, anchor="ls", font_size=13)


def _draw_legend(draw: Any, masks: Mapping[str, tuple[Mask, Color]], *, top: int) -> None:
    for number, (name, (_, color)) in enumerate(masks.items()):
        line = top + number * _LEGEND_LINE
        draw.rectangle((_MARGIN, line, _MARGIN + 14, line + 12), fill=color)
        draw.text((_MARGIN + 22, line + 6), name, fill=_TEXT_COLOR, anchor="lm", font_size=13)
