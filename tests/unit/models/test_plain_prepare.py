"""What a manifest's `prepare` makes of an image: against MONAI's transforms, and voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bundles import AXIS_CODES, axis_geometry, centred, slope, slope_volume
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing

from inference_server.imaging.volume import Volume
from inference_server.models.case import Case
from inference_server.models.preparation import Preparation
from inference_server.models.runtimes.base import Prepared
from inference_server.models.runtimes.plain_prepare import prepare_case

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def prepare(volume: Volume, **declared: object) -> Prepared:
    return prepare_case(Case({"image": volume}), ["image"], Preparation.model_validate(declared))


def positions(prepared: Prepared) -> np.ndarray:
    """Return the LPS position of each voxel of a network's input."""
    index = np.stack(np.meshgrid(*map(np.arange, prepared.inputs.shape[1:]), indexing="ij"), -1)
    return index @ prepared.affine[:3, :3].T + prepared.affine[:3, 3]


def monai_image(volume: Volume) -> MetaTensor:
    array = torch.from_numpy(volume.array.astype(np.float32)).permute(2, 1, 0)[None]
    return MetaTensor(array, affine=torch.from_numpy(RAS_FROM_LPS @ volume.geometry.affine))


@pytest.mark.parametrize("target", ["RAS", "LIA", "PSL"])
def test_every_orientation_is_turned_into_the_networks_own(target: str) -> None:
    for codes in AXIS_CODES:
        prepared = prepare(slope_volume(axis_geometry(codes)), orientation=target)
        np.testing.assert_allclose(prepared.inputs[0], slope(positions(prepared)), atol=1e-5, err_msg=codes)
        signs = [1 if code in "LPS" else -1 for code in target]
        worlds = [next(axis for axis, pair in enumerate(("LR", "PA", "IS")) if code in pair) for code in target]
        directions = prepared.affine[worlds, range(3)]
        np.testing.assert_array_equal(np.sign(directions), signs, codes)
        assert np.count_nonzero(prepared.affine[:3, :3]) == 3


@pytest.mark.parametrize("codes", ["LPS", "RAI", "SLA"])
@pytest.mark.parametrize("spacing_mm", [[1.2, 1.2, 1.2], [0.7, 2.0, 3.1]])
def test_orientation_and_spacing_are_those_of_monai(codes: str, spacing_mm: list[float]) -> None:
    geometry = axis_geometry(codes)
    noise = Volume(np.random.default_rng(0).normal(size=geometry.shape).astype(np.float32), geometry)
    prepared = prepare(noise, orientation="RAS", spacing_mm=spacing_mm)
    expected = Spacing(spacing_mm, mode="bilinear")(Orientation("RAS", labels=None)(monai_image(noise)))
    np.testing.assert_allclose(prepared.affine, RAS_FROM_LPS @ expected.affine.numpy(), atol=1e-6)
    np.testing.assert_allclose(prepared.inputs, expected.as_tensor(), atol=1e-4)


def test_an_oblique_image_is_turned_to_the_nearest_axes_and_stays_oblique() -> None:
    turn = np.deg2rad(30)
    direction = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, -1]])
    volume = slope_volume(centred((6, 9, 8), (1.0, 1.5, 2.5), direction))
    prepared = prepare(volume, orientation="LPS", spacing_mm=[1.0, 1.0, 1.0])
    np.testing.assert_allclose(prepared.affine[:3, :3], direction @ np.diag([1, 1, -1]), atol=1e-12)
    np.testing.assert_allclose(prepared.inputs[0], slope(positions(prepared)), atol=1e-5)


def test_an_image_is_cropped_and_padded_about_its_middle_with_its_lowest_value() -> None:
    volume = slope_volume(axis_geometry("LPS", (4, 9, 6)))
    prepared = prepare(volume, orientation="LPS", size=[8, 5, 5])
    expected = np.full((8, 5, 5), volume.array.min())
    expected[1:7, :, 0:4] = volume.array[:, 2:7, :].transpose(2, 1, 0)
    np.testing.assert_array_equal(prepared.inputs[0], expected)
    inside = positions(prepared)[1:7, :, 0:4]
    np.testing.assert_allclose(prepared.inputs[0, 1:7, :, 0:4], slope(inside), atol=1e-5)


def test_the_box_of_what_is_above_a_value_is_kept_after_the_intensities_and_made_a_multiple() -> None:
    array = np.zeros((10, 11, 12), np.int16)
    array[3:5, 4:8, 6:9] = 200
    geometry = axis_geometry("LPS", array.shape)
    declared = {"orientation": "LPS", "intensity": [{"step": "scale"}], "crop": {"above": 0.5, "margin": 1}}
    prepared = prepare(Volume(array, geometry), **declared)
    np.testing.assert_array_equal(prepared.inputs[0], array[2:6, 3:9, 5:10].transpose(2, 1, 0) / 200)
    np.testing.assert_allclose(prepared.affine @ [0, 0, 0, 1], geometry.affine @ [5, 3, 2, 1])
    padded = prepare(Volume(array, geometry), **declared, multiple_of=4)
    assert padded.inputs.shape == (1, 8, 8, 4)
    assert padded.inputs.sum() == prepared.inputs.sum()


def test_an_image_with_nothing_above_the_value_is_kept_whole() -> None:
    volume = Volume(np.zeros((4, 5, 6), np.float32), axis_geometry("LPS", (4, 5, 6)))
    assert prepare(volume, orientation="LPS", crop={"above": 0.5}).inputs.shape == (1, 6, 5, 4)


def test_a_channel_that_was_not_sent_is_zero_everywhere() -> None:
    volume = slope_volume(axis_geometry("RAS"))
    case = Case({"T1": volume})
    prepared = prepare_case(case, ["T1", "T2"], Preparation(intensity=()))
    assert prepared.inputs.shape == (2, 11, 14, 9)
    assert prepared.inputs[0].any()
    assert not prepared.inputs[1].any()


def test_an_image_is_stretched_between_its_edges() -> None:
    """A function that is linear in the position keeps its value at every position inside."""
    volume = slope_volume(axis_geometry("LPS", (8, 14, 9)))
    prepared = prepare_case(Case({"image": volume}), ["image"], Preparation(orientation="LPS", stretch=(9, 7, 16)))
    assert prepared.inputs.shape == (1, 9, 7, 16)
    x, y, z = np.meshgrid(np.arange(9), np.arange(7), np.arange(1, 15), indexing="ij")
    positions = np.stack([x, y, z], -1) @ prepared.affine[:3, :3].T + prepared.affine[:3, 3]
    np.testing.assert_allclose(prepared.inputs[0, :, :, 1:15].numpy(), slope(positions), atol=1e-5)
    corner = prepared.affine @ (-0.5, -0.5, -0.5, 1)
    np.testing.assert_allclose(corner, volume.geometry.affine @ (-0.5, -0.5, -0.5, 1), atol=1e-9)
