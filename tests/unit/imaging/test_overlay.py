from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference_server.errors import InvalidVolume
from inference_server.imaging.overlay import write_overlay
from inference_server.imaging.volume import Geometry, Volume

Image = pytest.importorskip("PIL.Image", reason="Pillow (the extra `demo`) is not installed")

RED, GREEN = (255, 0, 0), (0, 255, 0)
LPS = (1.0, 0, 0, 0, 1, 0, 0, 0, 1)


def box(shape: tuple[int, int, int], *slices: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*part) for part in slices)] = True
    return mask


def drawn(path: Path, volume: Volume, **masks: tuple[np.ndarray, tuple[int, int, int]]) -> np.ndarray:
    write_overlay(path, volume, masks)
    return np.asarray(Image.open(path))


def bounds(pixels: np.ndarray, color: tuple[int, int, int], columns: slice) -> tuple[int, int, int, int]:
    """First and last column, first and last row of a colour above the legend."""
    rows, across = np.nonzero((pixels[:504, columns] == color).all(axis=2))
    return int(across.min()), int(across.max()), int(rows.min()), int(rows.max())


def test_outlines_have_true_proportions_whatever_the_spacing(tmp_path: Path) -> None:
    volume = Volume(np.zeros((20, 60, 60), np.int16), Geometry((20, 60, 60), (1.0, 1.0, 3.0)))
    cube = box((20, 60, 60), (5, 15), (15, 45), (15, 45))
    pixels = drawn(tmp_path / "a.png", volume, cube=(cube, RED))
    for left in (24, 24 + 504, 24 + 2 * 504):
        x0, x1, y0, y1 = bounds(pixels, RED, slice(left, left + 480))
        assert (x0, x1 - x0 + 1, y0 - 24, y1 - y0 + 1) == (120, 240, 120, 240)


@pytest.mark.parametrize("flip", [1, -1])
def test_the_patients_right_is_left_front_is_up_and_head_is_up(flip: int, tmp_path: Path) -> None:
    shape = (60, 60, 60)
    direction = tuple(flip * value for value in LPS)
    volume = Volume(np.zeros(shape, np.int16), Geometry(shape, direction=direction))
    corner = (40, 50) if flip == 1 else (10, 20)  # towards left, back and head of the patient
    pixels = drawn(tmp_path / "a.png", volume, corner=(box(shape, corner, corner, corner), RED))
    axial, coronal, sagittal = (bounds(pixels, RED, slice(24 + 504 * i, 504 + 504 * i)) for i in range(3))
    assert axial == (320, 399, 24 + 320, 24 + 399)
    assert coronal == (320, 399, 24 + 80, 24 + 159)
    assert sagittal == (320, 399, 24 + 80, 24 + 159)


def test_axes_in_another_order_are_turned(tmp_path: Path) -> None:
    direction = (0.0, 0, 1, 1, 0, 0, 0, 1, 0)  # x runs to the back, y to the head, z to the left
    volume = Volume(np.zeros((60, 60, 60), np.int16), Geometry((60, 60, 60), direction=direction))
    mask = box((60, 60, 60), (40, 50), (20, 30), (0, 30))
    pixels = drawn(tmp_path / "a.png", volume, mask=(mask, RED))
    assert bounds(pixels, RED, slice(24, 504)) == (320, 399, 24, 24 + 239)


def test_a_mask_on_the_contour_grid_lies_where_it_does_on_the_image_grid(tmp_path: Path) -> None:
    volume = Volume(np.zeros((20, 30, 30), np.int16), Geometry((20, 30, 30)))
    mask = box((20, 30, 30), (5, 12), (6, 20), (3, 9))
    coarse = drawn(tmp_path / "a.png", volume, m=(mask, RED))
    fine = drawn(tmp_path / "b.png", volume, m=(mask.repeat(2, 1).repeat(3, 2), RED))
    assert np.array_equal(coarse, fine)


def test_planes_go_through_the_largest_mask_and_the_legend_shows_all_colours(tmp_path: Path) -> None:
    volume = Volume(np.zeros((60, 60, 60), np.int16), Geometry((60, 60, 60)))
    large, small = box((60, 60, 60), (0, 20), (0, 20), (0, 20)), box((60, 60, 60), (50, 52), (50, 52), (50, 52))
    pixels = drawn(tmp_path / "a.png", volume, small=(small, GREEN), large=(large, RED))
    assert (pixels[:504] == RED).all(axis=2).any()
    assert not (pixels[:504] == GREEN).all(axis=2).any()
    assert (pixels[504:] == GREEN).all(axis=2).any()


def test_ct_has_a_fixed_window_and_other_images_one_by_percentiles(tmp_path: Path) -> None:
    ct = np.full((10, 10, 10), -1000, np.int16)
    ct[:, :5] = 50
    pixels = drawn(tmp_path / "a.png", Volume(ct, Geometry(ct.shape)))
    assert tuple(pixels[24 + 100, 24 + 100]) == (127, 127, 127)
    assert tuple(pixels[24 + 400, 24 + 100]) == (0, 0, 0)
    pixels = drawn(tmp_path / "b.png", Volume((ct + 1000) * 3, Geometry(ct.shape)))
    assert tuple(pixels[24 + 100, 24 + 100]) == (255, 255, 255)


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    volume = Volume(np.zeros((4, 4, 4)), Geometry((4, 4, 4)))
    with pytest.raises(InvalidVolume, match="multiple"):
        write_overlay(tmp_path / "a.png", volume, {"a": (np.zeros((4, 4, 5)), RED)})
