"""Linear interpolation along the axes of a grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from inference_server.models.sampling import Axis, resample


def test_contour_voxels_lie_between_those_of_the_image_and_are_clamped_at_its_edges() -> None:
    axis = Axis.at((np.arange(6) + 0.5) / 3 - 0.5, 2)
    sampled = (1 - axis.weight) * axis.lower + axis.weight * axis.upper
    np.testing.assert_allclose(sampled, [0, 0, 1 / 3, 2 / 3, 1, 1], atol=1e-6)


@pytest.mark.parametrize("size", [(5, 6, 7), (9, 200, 150)], ids=["by a matrix", "by neighbours"])
def test_resampling_is_interpolation_between_neighbours(size: tuple[int, int, int]) -> None:
    source = torch.rand(2, *size)
    lines = [np.linspace(-0.4, count - 0.7, 2 * count + 3) for count in size]
    axes = tuple(Axis.at(line, count) for line, count in zip(lines, size, strict=True))
    places = np.meshgrid(*lines, indexing="ij")
    for found, channel in zip(resample(source, axes), source, strict=True):  # type: ignore[arg-type]
        expected = map_coordinates(channel.numpy(), places, order=1, mode="nearest")
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_what_lies_on_voxels_is_not_interpolated() -> None:
    axis = Axis.at(np.arange(5) + 3e-5, 5)
    assert axis.exact
    source = torch.rand(1, 5, 5, 5)
    assert torch.equal(resample(source, (axis, axis, axis)), source)
