"""Where the voxels of one grid lie in another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bundles import axis_geometry, centred

from inference_server.imaging.volume import Geometry
from inference_server.models.placement import AlignedPlacement, ObliquePlacement, Placement, blocks, make_placement

TURN = np.deg2rad(30)
ABOUT_Z = np.array([[np.cos(TURN), -np.sin(TURN), 0], [np.sin(TURN), np.cos(TURN), 0], [0, 0, 1]])


def nearest(placement: Placement, source: torch.Tensor, *, voxels: int = 50) -> np.ndarray:
    """Take the nearest voxel everywhere, block by block."""
    found = np.full(placement.shape, np.nan, np.float32)
    for block in blocks(placement.shape, voxels):
        part = placement.part(block)
        found[block] = part.nearest(placement.view(source)[part.box]).numpy()
    return found


def coverage(placement: Placement) -> np.ndarray:
    found = np.ones(placement.shape, bool)
    for block in blocks(placement.shape, 50):
        covered = placement.part(block).covered
        if covered is not None:
            found[block] = covered.numpy()
    return found


@pytest.mark.parametrize(
    ("grid", "kind"),
    [
        (axis_geometry("RAI"), AlignedPlacement),
        (axis_geometry("SLA"), AlignedPlacement),
        (centred((9, 14, 11), (1.0, 1.5, 2.5), ABOUT_Z), ObliquePlacement),
    ],
)
@pytest.mark.parametrize("factor", [(1, 1, 1), (1, 3, 2)])
def test_the_nearest_voxel_is_the_nearest(grid: Geometry, kind: type, factor: tuple[int, int, int]) -> None:
    source = axis_geometry("RAS", (7, 12, 17), (1.3, 1.7, 2.1))
    values = torch.rand(source.shape[::-1])
    placement = make_placement(source.affine, source.shape[::-1], grid, factor)
    assert isinstance(placement, kind)
    fine = grid.refined(factor)
    z, y, x = np.meshgrid(*(np.arange(count) for count in fine.shape), indexing="ij")
    index = np.stack([x, y, z, np.ones_like(x)], -1) @ (np.linalg.inv(source.affine) @ fine.affine).T
    index = np.clip(index[..., :3], 0, np.asarray(values.shape) - 1)
    clear = (np.abs(index % 1 - 0.5) > 1e-3).all(-1)
    expected = values.numpy()[tuple(np.moveaxis(np.round(index).astype(int), -1, 0))]
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(nearest(placement, values)[clear], expected[clear])


def test_the_same_grid_lies_on_its_own_voxels() -> None:
    for codes in ("RSA", "LPS", "PIR"):
        grid = axis_geometry(codes)
        placement = make_placement(grid.affine, grid.shape[::-1], grid)
        assert placement.whole == (True, True, True)
        values = torch.rand(grid.shape[::-1])
        np.testing.assert_array_equal(nearest(placement, values), values.permute(2, 1, 0))


def test_noise_in_an_affine_does_not_make_it_oblique() -> None:
    grid = axis_geometry("LPS")
    affine = grid.affine.copy()
    affine[:3] += np.random.default_rng(0).normal(0, 2e-7, (3, 4))
    assert make_placement(affine, grid.shape[::-1], grid).whole == (True, True, True)


@pytest.mark.parametrize("turned", [False, True], ids=["parallel", "oblique"])
def test_voxels_outside_the_source_are_not_covered(turned: bool) -> None:
    turn = np.deg2rad(0.5 if turned else 0.0)
    direction = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    grid = centred((6, 10, 8), (1.0, 1.0, 1.0), direction)
    source = centred((4, 6, 6), (1.0, 1.0, 1.0), np.eye(3))
    expected = np.zeros((12, 10, 8), bool)
    expected[2:10, 2:8, 1:7] = True
    found = coverage(make_placement(source.affine, source.shape[::-1], grid, (2, 1, 1)))
    np.testing.assert_array_equal(found, expected)


def test_a_source_far_away_covers_nothing() -> None:
    grid = Geometry((4, 5, 6))
    for turn in (np.eye(3), ABOUT_Z):
        source = centred((4, 5, 6), (1.0, 1.0, 1.0), turn).affine
        source[:3, 3] += 1000.0
        placement = make_placement(source, (6, 5, 4), grid)
        assert not coverage(placement).any()
        assert np.isfinite(nearest(placement, torch.rand(6, 5, 4))).all()


def test_the_whole_of_an_input_is_covered_by_a_resampled_source_that_ends_a_little_earlier() -> None:
    grid = Geometry((5, 5, 5), (5.0, 5.0, 5.0))
    source = Geometry((21, 21, 21), (1.0, 1.0, 1.0))
    placement = make_placement(source.affine, (21, 21, 21), grid, (4, 4, 4))
    assert all(placement.part(block).covered is None for block in blocks((20, 20, 20), 500))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 300, 7), (40, 50, 600)])
@pytest.mark.parametrize("voxels", [1, 100, 10_000])
def test_blocks_cut_a_grid_into_parts_that_are_small_enough(shape: tuple[int, int, int], voxels: int) -> None:
    seen = np.zeros(shape, np.uint8)
    for block in blocks(shape, voxels):
        seen[block] += 1
        assert seen[block].size <= max(voxels, 128)
    assert (seen == 1).all()
