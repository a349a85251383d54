"""Labels from scores on other grids: against interpolating everything by the definition, and deciding then."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bundles import AXIS_CODES, axis_geometry, centred
from scipy.ndimage import map_coordinates

from inference_server.imaging.volume import Geometry
from inference_server.models import decision
from inference_server.models.decision import Above, Highest, Rule, Scores, decide
from inference_server.models.scattered import interpolate_at

TURN = np.deg2rad(25)
ABOUT_Z = np.array([[np.cos(TURN), -np.sin(TURN), 0], [np.sin(TURN), np.cos(TURN), 0], [0, 0, 1]])
ABOUT_X = np.array([[1, 0, 0], [0, np.cos(TURN), -np.sin(TURN)], [0, np.sin(TURN), np.cos(TURN)]])
SOURCE = axis_geometry("RAS", (7, 12, 17), (1.3, 1.7, 2.1))
GRIDS = {
    "parallel": axis_geometry("LPS"),
    "turned": axis_geometry("SLA"),
    "oblique": centred((9, 14, 11), (1.0, 1.5, 2.5), ABOUT_Z),
    "oblique, left-handed": centred((9, 14, 11), (1.0, 1.5, 2.5), ABOUT_X @ ABOUT_Z @ np.diag([1, -1, 1])),
    "much coarser": axis_geometry("PIR", (3, 3, 3), (8.0, 9.0, 7.0)),
}


def interpolated(source: torch.Tensor, affine: np.ndarray, grid: Geometry) -> np.ndarray:
    """Interpolate all channels at the voxels of a grid, by the definition."""
    z, y, x = np.meshgrid(*(np.arange(count) for count in grid.shape), indexing="ij")
    index = np.stack([x, y, z, np.ones_like(x)], -1) @ (np.linalg.inv(affine) @ grid.affine).T
    places = np.moveaxis(index[..., :3], -1, 0)
    return np.stack([map_coordinates(channel.double().numpy(), places, order=1, mode="nearest") for channel in source])


def covered(source: Geometry, grid: Geometry, factor: tuple[int, int, int]) -> np.ndarray:
    """Return which voxels of the contour grid are parts of voxels whose centres lie in the source."""
    z, y, x = np.meshgrid(*(np.arange(count) for count in grid.shape), indexing="ij")
    index = np.stack([x, y, z, np.ones_like(x)], -1) @ (np.linalg.inv(source.affine) @ grid.affine).T
    last = np.asarray(source.shape[::-1]) - 1
    inside = ((index[..., :3] >= -0.51) & (index[..., :3] <= last + 0.51)).all(-1)
    return np.kron(inside, np.ones(factor, bool))


def blobs(classes: int, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Return scores of which some have the same winner all around and some have not."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, classes, 4, 4, 4, generator=generator) * 4
    return torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0]


@pytest.mark.parametrize("block", [97, 2**17])
@pytest.mark.parametrize("factor", [(1, 1, 1), (2, 1, 3)])
@pytest.mark.parametrize("grid", GRIDS)
def test_labels_are_those_of_interpolating_everything(
    grid: str, factor: tuple[int, int, int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision, "BLOCK_VOXELS", block)
    scores = blobs(5, SOURCE.shape[::-1])
    chances = interpolated(scores.softmax(0), SOURCE.affine, GRIDS[grid].refined(factor))
    found = decide([Scores(scores, SOURCE.affine)], GRIDS[grid], factor, Highest("softmax"), np.dtype(np.uint8))
    expected = np.where(covered(SOURCE, GRIDS[grid], factor), chances.argmax(0), 0)
    best = np.sort(chances, 0)
    clear = best[-1] - best[-2] > 1e-5
    assert clear.mean() > 0.99
    assert len(np.unique(expected)) > 2
    np.testing.assert_array_equal(found[clear], expected[clear])


@pytest.mark.parametrize("grid", GRIDS)
def test_structures_are_those_of_interpolating_everything(grid: str) -> None:
    scores = blobs(1, SOURCE.shape[::-1])
    rule = Above(0.4, "sigmoid", value=3)
    found = decide([Scores(scores, SOURCE.affine)], GRIDS[grid], (1, 2, 1), rule, np.dtype(np.uint8))
    fine = GRIDS[grid].refined((1, 2, 1))
    chances = interpolated(scores.sigmoid(), SOURCE.affine, fine)[0]
    expected = np.where(covered(SOURCE, GRIDS[grid], (1, 2, 1)), (chances > 0.4) * 3, 0)
    clear = np.abs(chances - 0.4) > 1e-5
    assert set(np.unique(expected)) == {0, 3}
    np.testing.assert_array_equal(found[clear], expected[clear])


@pytest.mark.parametrize("rule", [Highest(None), Above(0.3, None)], ids=["argmax", "threshold"])
def test_sources_on_grids_of_their_own_decide_by_their_mean(rule: Rule) -> None:
    """What a source does not cover is background to it: with argmax of the chance 1."""
    argmax = isinstance(rule, Highest)
    other = centred((6, 6, 8), (2.0, 2.5, 1.5), ABOUT_Z)
    grid, shares = GRIDS["parallel"], (0.25, 0.75)
    sources = [
        blobs(4 if argmax else 1, size.shape[::-1], seed).softmax(0) for seed, size in enumerate((SOURCE, other))
    ]
    sources = sources if argmax else [blobs(1, size.shape[::-1], 7).sigmoid() for size in (SOURCE, other)]
    mean, background = 0.0, np.eye(len(sources[0]))[0] if argmax else np.zeros(1)
    for source, geometry, share in zip(sources, (SOURCE, other), shares, strict=True):
        seen = covered(geometry, grid, (1, 1, 1))
        chances = interpolated(source, geometry.affine, grid)
        mean = mean + share * np.where(seen, chances, background[:, None, None, None])
    scores = [
        Scores(source, geometry.affine, share)
        for source, geometry, share in zip(sources, (SOURCE, other), shares, strict=True)
    ]
    found = decide(scores, grid, (1, 1, 1), rule, np.dtype(np.uint8))
    expected = mean.argmax(0) if argmax else mean[0] > 0.3
    best = np.sort(mean, 0)
    clear = best[-1] - best[-2] > 1e-5 if argmax else np.abs(mean[0] - 0.3) > 1e-5
    assert 0 < np.count_nonzero(expected) < expected.size
    np.testing.assert_array_equal(found[clear], expected[clear])


def test_on_the_sources_own_voxels_the_labels_are_its_own() -> None:
    scores = torch.rand(6, 11, 14, 9)
    for codes in AXIS_CODES:
        geometry = axis_geometry(codes)
        turned = scores.permute(0, *(1 + {11: 0, 14: 1, 9: 2}[size] for size in geometry.shape[::-1]))
        found = decide([Scores(turned, geometry.affine)], geometry, (1, 1, 1), Highest(None), np.dtype(np.uint8))
        np.testing.assert_array_equal(found, turned.argmax(0).permute(2, 1, 0), err_msg=codes)


def test_more_classes_than_a_byte_can_tell() -> None:
    scores = torch.rand(300, 4, 5, 6)
    grid = Geometry((6, 5, 4))
    found = decide([Scores(scores, grid.affine)], grid, (1, 1, 1), Highest(None), np.dtype(np.uint16))
    np.testing.assert_array_equal(found, scores.argmax(0).permute(2, 1, 0))


def test_a_class_that_wins_at_no_voxel_can_win_between_two() -> None:
    """0.9 and 0.1 at one end, 0.1 and 0.9 at the other, and 0.6 at both of a third class."""
    scores = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.6, 0.6]]).view(3, 2, 1, 1)
    found = decide(
        [Scores(scores, Geometry((1, 1, 2)).affine)], Geometry((1, 1, 2)), (1, 1, 5), Highest(None), np.dtype("u1")
    )
    assert found[0, 0].tolist() == [0, 0, 0, 0, 2, 2, 1, 1, 1, 1]


def test_only_what_lies_at_borders_is_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def count(
        source: torch.Tensor, places: tuple[tuple[torch.Tensor, torch.Tensor], ...], **more: object
    ) -> torch.Tensor:
        counted.append(len(places[0][0]))
        return interpolate_at(source, places, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(decision, "interpolate_at", count)
    scores = torch.zeros(2, 8, 8, 8)
    scores[0], scores[1, 4:] = 0.5, 1.0
    grid = Geometry((8, 8, 8))
    found = decide([Scores(scores, grid.affine)], grid, (1, 1, 4), Highest(None), np.dtype(np.uint8))
    assert found[0, 0].tolist() == [0] * 16 + [1] * 16
    assert sum(counted) == 4 * 64  # the four voxels between the planes 3 and 4
