"""The phantom: known truth, plausible HU, the same patient on any grid."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from inference_server.imaging.phantom import Phantom, PhantomOptions, ct_phantom


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return ct_phantom((48, 96, 96), spacing_mm=(4.5, 4.5, 6.0), seed=0)


def test_the_same_seed_gives_the_same_phantom_and_another_seed_another_patient() -> None:
    first, again, other = (ct_phantom((8, 40, 40), spacing_mm=(9, 9, 20), seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.image, again.image)
    assert (first.truth["BODY"] != other.truth["BODY"]).any()


def test_image_and_truth_have_the_shape_asked_for_and_the_grid_is_centred() -> None:
    phantom = ct_phantom((4, 6, 8), spacing_mm=(2.0, 3.0, 5.0), seed=0)
    assert (phantom.image.shape, phantom.image.dtype) == ((4, 6, 8), np.dtype(np.int16))
    assert {name: (mask.shape, mask.dtype) for name, mask in phantom.truth.items()} == {
        name: ((4, 6, 8), np.dtype(bool)) for name in ("BODY", "LUNGS", "BONE")
    }
    assert phantom.origin_mm == (-7.0, -7.5, -7.5)


def test_body_contains_lungs_and_bone_which_are_apart(phantom: Phantom) -> None:
    body, lungs, bone = (phantom.truth[name] for name in ("BODY", "LUNGS", "BONE"))
    assert lungs.any()
    assert bone.any()
    assert not ((lungs | bone) & ~body).any()
    assert not (lungs & bone).any()


def test_there_are_two_lungs_of_human_size(phantom: Phantom) -> None:
    pieces, _ = ndimage.label(phantom.truth["LUNGS"])
    litres = np.sort(np.bincount(pieces.ravel())[1:])[::-1] * np.prod(phantom.spacing_mm) / 1e6
    assert 0.8 < litres[1] <= litres[0] < 4
    assert litres[2:].sum() < 0.05


@pytest.mark.parametrize(("name", "low", "high"), [("LUNGS", -920, -650), ("BONE", 200, 900), ("BODY", -600, 100)])
def test_each_tissue_has_plausible_mean_hu(phantom: Phantom, name: str, low: float, high: float) -> None:
    assert low < phantom.image[phantom.truth[name]].mean() < high


def test_a_finer_grid_shows_the_same_patient() -> None:
    volumes_cc = []
    for shape, step in (((32, 64, 64), 7.0), ((56, 112, 112), 4.0)):
        truth = ct_phantom(shape, spacing_mm=(step, step, step), seed=5).truth
        volumes_cc.append([truth[name].sum() * step**3 / 1000 for name in ("BODY", "LUNGS", "BONE")])
    assert np.divide(*volumes_cc) == pytest.approx([1, 1, 1], abs=0.04)


def test_the_table_is_not_part_of_the_body() -> None:
    with_table, without = (
        ct_phantom((4, 80, 80), spacing_mm=(5, 5, 5), seed=0, options=PhantomOptions(table=table, noise_hu=0))
        for table in (True, False)
    )
    differs = with_table.image != without.image
    assert differs.any()
    assert np.array_equal(with_table.truth["BODY"], without.truth["BODY"])
    assert (differs & with_table.truth["BODY"]).sum() < 0.02 * differs.sum()


def test_arms_widen_the_body_and_contrast_brightens_the_heart() -> None:
    options = PhantomOptions(arms="down", contrast_hu=250, noise_hu=0)
    plain = ct_phantom((4, 60, 100), spacing_mm=(5, 6, 6), seed=3)
    rich = ct_phantom((4, 60, 100), spacing_mm=(5, 6, 6), seed=3, options=options)
    assert rich.truth["BODY"].sum() > 1.05 * plain.truth["BODY"].sum()
    heart = (2, 25, 54)
    assert rich.image[heart] - plain.image[heart] > 150


def test_a_single_voxel_is_a_phantom_too() -> None:
    assert ct_phantom((1, 1, 1), spacing_mm=(1, 1, 1), seed=0).truth["BODY"].all()


@pytest.mark.parametrize(("shape", "spacing"), [((0, 4, 4), (1, 1, 1)), ((4, 4, 4), (1, -1, 1))])
def test_sizes_that_are_not_positive_are_refused(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        ct_phantom(shape, spacing_mm=spacing, seed=0)
