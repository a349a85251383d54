"""Random changes of a training case: one resampling for all of the geometry, then the intensities."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import avg_pool3d, grid_sample, interpolate, one_hot

Shape = tuple[int, int, int]

# The window of inference: it holds four cases in five whole, and its sides are multiples of 8.
WINDOW: Shape = (40, 56, 40)
ROTATION_RAD = math.radians(15)
SCALE = 0.17
SHEAR = 0.08
SHIFT_VOXELS = 3.0
ELASTIC_VOXELS = 1.6
CONTROL_POINTS = (5, 6, 5)


def augment(
    image: torch.Tensor, label: torch.Tensor, *, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make a random variant of a case in `WINDOW`, near its centre.

    Outside the image the variant is 0, as with the padding of the sliding window. Nothing is mirrored: all
    cases show the hippocampus in one orientation (the head lies forward, below and at greater x of the tail),
    and a mirrored one would be unlike any of them.

    Args:
        image: ``(1, X, Y, Z)`` float32, zero mean and unit variance. Not modified.
        label: ``(1, X, Y, Z)`` uint8, values 0, 1, 2. Not modified.
        generator: source of all randomness.

    Returns:
        Image ``(1, *WINDOW)`` float32 and label ``(1, *WINDOW)`` int64.
    """
    grid = random_grid((image.shape[1], image.shape[2], image.shape[3]), generator)
    classes = one_hot(label[0].long(), 3)[..., 1:].movedim(-1, 0)
    moved = grid_sample(torch.cat([image, classes])[None], grid, align_corners=True)[0]
    foreground = moved[1:]
    background = 1 - foreground.sum(0, keepdim=True)
    changed = change_intensity(moved[:1], generator)
    return changed, torch.cat([background, foreground]).argmax(0, keepdim=True)


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """Draw a number between two bounds."""
    return low + (high - low) * float(torch.rand(1, generator=generator))


def random_grid(shape: Shape, generator: torch.Generator) -> torch.Tensor:
    """Return sampling positions ``(1, *WINDOW, 3)``, in the order and scale of ``grid_sample``."""
    axes = [torch.arange(size) - (size - 1) / 2 for size in WINDOW]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    shift = (torch.rand(3, generator=generator) * 2 - 1) * SHIFT_VOXELS
    source = positions @ random_matrix(generator).T + shift
    if uniform(0, 1, generator) < 0.6:
        source = source + elastic_field(generator)
    return (source * 2 / (torch.tensor(shape) - 1)).flip(-1)[None]


def random_matrix(generator: torch.Generator) -> torch.Tensor:
    """Return a random rotation, scaling and shear, as ``(3, 3)``."""
    angles = (torch.rand(3, generator=generator) * 2 - 1) * ROTATION_RAD
    skew = torch.zeros(3, 3)
    skew[[0, 0, 1], [1, 2, 2]] = angles
    shear = torch.triu((torch.rand(3, 3, generator=generator) * 2 - 1) * SHEAR, 1)
    common, single = uniform(-SCALE, SCALE, generator), (torch.rand(3, generator=generator) * 2 - 1) * SCALE
    scales = torch.diag(torch.exp((common + single) / 2))
    rotation: torch.Tensor = torch.linalg.matrix_exp(skew - skew.T)
    return rotation @ (torch.eye(3) + shear) @ scales


def elastic_field(generator: torch.Generator) -> torch.Tensor:
    """Return a smooth displacement ``(*WINDOW, 3)`` in voxels."""
    coarse = torch.randn(1, 3, *CONTROL_POINTS, generator=generator)
    coarse = coarse * uniform(0.3, 1, generator) * ELASTIC_VOXELS
    fine = interpolate(coarse, size=WINDOW, mode="trilinear", align_corners=True)
    return fine[0].movedim(0, -1)


def change_intensity(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Change contrast, gamma, slow shading, sharpness and noise, each in some of the variants."""

    def sometimes(probability: float) -> bool:
        return uniform(0, 1, generator) < probability

    if sometimes(0.25):
        image = blur(image, uniform(0.2, 1, generator))
    if sometimes(0.3):
        image = bend(image, math.exp(uniform(-0.4, 0.4, generator)))
    if sometimes(0.3):
        image = image * shading(generator)
    if sometimes(0.4):
        image = image * uniform(0.75, 1.3, generator) + uniform(-0.25, 0.25, generator)
    if sometimes(0.3):
        image = image + torch.randn(image.shape, generator=generator) * uniform(0, 0.25, generator)
    return image


def blur(image: torch.Tensor, weight: float) -> torch.Tensor:
    """Mix an image with its mean over 3 x 3 x 3 voxels."""
    return torch.lerp(image, avg_pool3d(image, 3, stride=1, padding=1), weight)


def bend(image: torch.Tensor, gamma: float) -> torch.Tensor:
    """Apply a gamma curve between the extremes of an image."""
    low, high = image.amin(), image.amax()
    return ((image - low) / (high - low + 1e-6)) ** gamma * (high - low) + low


def shading(generator: torch.Generator) -> torch.Tensor:
    """Return a smooth factor about 1, ``(1, *WINDOW)``, as a receive coil leaves it."""
    coarse = torch.exp(torch.randn(1, 1, 3, 3, 3, generator=generator) * 0.15)
    return interpolate(coarse, size=WINDOW, mode="trilinear", align_corners=True)[0]
