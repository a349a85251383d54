"""Sampling one grid at the voxels of another: against a plain evaluation of the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bundles import axis_geometry, centred
from scipy.ndimage import map_coordinates

from inference_server.imaging.volume import Geometry
from inference_server.models.sampling import AlignedSampler, Axis, ObliqueSampler, Sampler, make_sampler


def walk(sampler: Sampler, source: torch.Tensor, factor: tuple[int, int, int], grid: Geometry) -> np.ndarray:
    """Sample everything, in uneven slabs, into (z, y, x)."""
    output = np.full(grid.refined(factor).shape, np.nan, np.float32)
    view = sampler.arrange(output)
    for rows in (slice(0, 3), slice(3, sampler.shape[0])):
        view[rows] = sampler.sample(source, rows)[0]
    return output


def by_definition(source: torch.Tensor, affine: np.ndarray, grid: Geometry) -> np.ndarray:
    z, y, x = np.meshgrid(*(np.arange(count) for count in grid.shape), indexing="ij")
    index = np.stack([x, y, z, np.ones_like(x)], -1) @ (np.linalg.inv(affine) @ grid.affine).T
    return map_coordinates(source[0].numpy(), np.moveaxis(index[..., :3], -1, 0), order=1, mode="nearest")


@pytest.mark.parametrize("codes", ["LPS", "RAI", "SLA", "PIR"])
@pytest.mark.parametrize("factor", [(1, 1, 1), (2, 3, 4)])
def test_parallel_grids_are_sampled_axis_by_axis(codes: str, factor: tuple[int, int, int]) -> None:
    grid = axis_geometry(codes)
    source_grid = axis_geometry("RAS", (7, 12, 17), (1.3, 1.7, 2.1))
    source = torch.rand(1, *source_grid.shape[::-1])
    sampler = make_sampler(source_grid.affine, source_grid.shape[::-1], grid, factor)
    assert isinstance(sampler, AlignedSampler)
    expected = by_definition(source, source_grid.affine, grid.refined(factor))
    np.testing.assert_allclose(walk(sampler, source, factor, grid), expected, atol=1e-5)


@pytest.mark.parametrize("factor", [(1, 1, 1), (2, 1, 3)])
def test_oblique_grids_are_sampled_alike(factor: tuple[int, int, int]) -> None:
    turn = np.deg2rad(30)
    direction = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    grid = centred((6, 9, 8), (1.0, 1.5, 2.5), direction)
    source_grid = axis_geometry("RAS", (7, 12, 17), (1.3, 1.7, 2.1))
    source = torch.rand(1, *source_grid.shape[::-1])
    sampler = make_sampler(source_grid.affine, source_grid.shape[::-1], grid, factor)
    assert isinstance(sampler, ObliqueSampler)
    expected = by_definition(source, source_grid.affine, grid.refined(factor))
    np.testing.assert_allclose(walk(sampler, source, factor, grid), expected, atol=1e-4)


def test_the_same_grid_is_not_interpolated() -> None:
    grid = axis_geometry("RSA")
    source = torch.rand(2, *grid.shape[::-1])
    sampler = make_sampler(grid.affine, grid.shape[::-1], grid)
    assert sampler.exact
    assert sampler.sample(source, slice(0, 4)).data_ptr() == source.data_ptr()


def test_a_turned_and_mirrored_grid_is_not_interpolated_either() -> None:
    grid, source_grid = (
        axis_geometry("LIA", (4, 5, 6), (1.0, 2.0, 3.0)),
        axis_geometry("RAS", (5, 4, 6), (1.0, 3.0, 2.0)),
    )
    source = torch.rand(1, *source_grid.shape[::-1])
    sampler = make_sampler(source_grid.affine, source_grid.shape[::-1], grid)
    assert sampler.exact
    expected = by_definition(source, source_grid.affine, grid)
    np.testing.assert_array_equal(walk(sampler, source, (1, 1, 1), grid), expected)


def test_noise_in_an_affine_does_not_make_it_oblique() -> None:
    grid = axis_geometry("LPS")
    affine = grid.affine.copy()
    affine[:3] += np.random.default_rng(0).normal(0, 2e-7, (3, 4))
    assert make_sampler(affine, grid.shape[::-1], grid).exact


def test_contour_voxels_lie_between_those_of_the_image_and_are_clamped_at_its_edges() -> None:
    axis = Axis.at((np.arange(6) + 0.5) / 3 - 0.5, 2)
    sampled = (1 - axis.weight) * axis.lower + axis.weight * axis.upper
    np.testing.assert_allclose(sampled, [0, 0, 1 / 3, 2 / 3, 1, 1], atol=1e-6)


@pytest.mark.parametrize("turned", [False, True], ids=["parallel", "oblique"])
def test_voxels_outside_the_source_are_not_covered(turned: bool) -> None:
    turn = np.deg2rad(0.5 if turned else 0.0)
    direction = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    grid = centred((6, 10, 8), (1.0, 1.0, 1.0), direction)
    source = centred((4, 6, 6), (1.0, 1.0, 1.0), np.eye(3))
    sampler = make_sampler(source.affine, source.shape[::-1], grid, (2, 1, 1))
    covered = np.zeros((12, 10, 8), bool)
    view = sampler.arrange(covered)
    view[:] = sampler.covered(slice(0, sampler.shape[0]))
    expected = np.zeros((12, 10, 8), bool)
    expected[2:10, 2:8, 1:7] = True
    np.testing.assert_array_equal(covered, expected)


def test_the_whole_of_an_input_is_covered_by_a_resampled_source_that_ends_a_little_earlier() -> None:
    grid = Geometry((5, 5, 5), (5.0, 5.0, 5.0))
    source = Geometry((21, 21, 21), (1.0, 1.0, 1.0))
    sampler = make_sampler(source.affine, (21, 21, 21), grid, (4, 4, 4))
    assert sampler.covered(slice(0, 20)) is None
