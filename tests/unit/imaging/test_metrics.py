from __future__ import annotations

import numpy as np
import pytest

from inference_server.errors import InvalidVolume
from inference_server.imaging.metrics import dice, volume_cc
from inference_server.imaging.volume import Geometry


def test_dice_is_twice_the_common_part_over_the_sum() -> None:
    a, b = np.zeros((1, 1, 10), np.uint8), np.zeros((1, 1, 10), bool)
    a[..., :6], b[..., 4:8] = 3, True
    assert dice(a, b) == pytest.approx(2 * 2 / 10)


def test_dice_is_one_for_equal_masks_also_empty_ones_and_zero_for_disjoint_ones() -> None:
    full, empty = np.ones((2, 2, 2), bool), np.zeros((2, 2, 2), bool)
    assert (dice(full, full), dice(empty, empty), dice(full, empty)) == (1.0, 1.0, 0.0)


def test_dice_refuses_masks_of_different_shapes() -> None:
    with pytest.raises(InvalidVolume, match="one shape"):
        dice(np.ones((2, 2, 2)), np.ones((2, 2, 1)))


def test_a_sphere_has_the_volume_of_a_sphere() -> None:
    geometry = Geometry((40, 80, 80), spacing_mm=(1.0, 1.0, 2.0))
    z, y, x = np.indices(geometry.shape)
    sphere = (x - 39.5) ** 2 + (y - 39.5) ** 2 + (2 * (z - 19.5)) ** 2 <= 30**2
    assert volume_cc(sphere, geometry) == pytest.approx(4 / 3 * np.pi * 27, rel=0.01)


def test_a_volume_needs_a_mask_on_its_own_grid() -> None:
    with pytest.raises(InvalidVolume):
        volume_cc(np.ones((2, 2, 2)), Geometry((2, 2, 3)))
