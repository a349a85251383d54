"""Pictures changed at random as X-rays differ: position, size, exposure, noise; and parts hidden."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

TURN_DEGREES, ZOOM, SHIFT, SHEAR = 10.0, 0.12, 0.08, 0.05
GAMMA, CONTRAST, BRIGHTNESS, NOISE = 0.35, 0.2, 0.2, 0.06
HIDDEN = 0.35
"""The longest side of the rectangle that is hidden in half of the pictures, as a share of the picture's."""


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Return changed pictures.

    Args:
        pictures: ``(B, 1, Y, X)`` float32, -1 to 1. Not modified.
        generator: what chance comes from.
    """
    return hide(expose(move(pictures, generator), generator), generator)


def move(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, zoom, shear, shift and mirror pictures left to right; the outermost values continue outside."""
    count = len(pictures)
    angle, zoom_x, zoom_y, shear, shift_x, shift_y = _between(generator, 6, count)
    turn, mirror = math.radians(TURN_DEGREES) * angle, torch.rand(count, generator=generator).round() * 2 - 1
    wide, high = (1 + ZOOM * zoom_x) * mirror, 1 + ZOOM * zoom_y
    first = torch.stack([turn.cos() * wide, -turn.sin() * high + SHEAR * shear, 2 * SHIFT * shift_x], 1)
    second = torch.stack([turn.sin() * wide, turn.cos() * high, 2 * SHIFT * shift_y], 1)
    grid = functional.affine_grid(torch.stack([first, second], 1), list(pictures.shape), align_corners=False)
    return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def expose(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Change gamma, contrast and brightness of pictures, and add noise."""
    gamma, contrast, brightness, noise = _between(generator, 4, len(pictures))[..., None, None, None]
    bent = ((pictures + 1) / 2).clamp(0, 1) ** (GAMMA * gamma).exp() * 2 - 1
    grain = torch.randn(pictures.shape, generator=generator) * NOISE * noise.abs()
    return bent * (1 + CONTRAST * contrast) + BRIGHTNESS * brightness + grain


def hide(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Set a rectangle in about half of the pictures to zero."""
    *_, rows, columns = pictures.shape
    top, left, height, width = torch.rand(4, len(pictures), 1, generator=generator)
    chosen = torch.rand(len(pictures), 1, generator=generator) < 0.5
    y, x = torch.arange(rows) / rows, torch.arange(columns) / columns
    in_rows, in_columns = (
        (at >= start) & (at < start + HIDDEN * length) & chosen
        for at, start, length in ((y, top, height), (x, left, width))
    )
    return pictures.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)


def _between(generator: torch.Generator, rows: int, count: int) -> Tensor:
    """Return random numbers between -1 and 1."""
    return torch.rand(rows, count, generator=generator) * 2 - 1
