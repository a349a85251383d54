"""Our faster transforms, and loading from memory, against MONAI itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import LOAD, ORIENT, axis_geometry, centred
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    MapTransform,
    NormalizeIntensityd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
    Spacingd,
)

from inference_server.imaging.nifti import read_volume, write_labels
from inference_server.imaging.volume import Volume
from inference_server.models.case import Case
from inference_server.models.manifest import parse_manifest
from inference_server.models.registry import Model
from inference_server.models.runtimes.monai_bundle import MonaiBundle
from inference_server.models.runtimes.monai_lean import LeanResample, PerImage, lean
from inference_server.models.runtimes.monai_prepare import Preprocessing, lps_affine

MakeModel = Callable[..., Model]
SPACING = {"_target_": "Spacingd", "keys": "image", "pixdim": [1.2, 2.0, 1.7], "mode": "bilinear"}


def image(strided: bool = True) -> MetaTensor:
    generator = torch.Generator().manual_seed(0)
    array = torch.rand(1, 13, 21, 17, generator=generator).permute(0, 3, 2, 1) * 900 - 300
    affine = torch.tensor([[-0.9, 0, 0, 4], [0, -1.1, 0, 5], [0, 0, 2.5, -7], [0, 0, 0, 1]], dtype=torch.float64)
    return MetaTensor(array if strided else array.contiguous(), affine=affine)


TRANSFORMS: list[Callable[[], MapTransform]] = [
    lambda: Spacingd("image", pixdim=[1.5, 1.0, 2.0], mode="bilinear"),
    lambda: Spacingd("image", pixdim=[0.5, 0.7, 3.1], mode="bilinear", padding_mode="border", align_corners=True),
    lambda: Spacingd("image", pixdim=[1.5, -1, 2.0], min_pixdim=[0.8, 1, 2.0], max_pixdim=[1.6, 1, 2.6]),
    lambda: Spacingd("image", pixdim=1.5, mode="nearest"),
    lambda: Spacingd("image", pixdim=1.5, mode="bilinear", padding_mode="zeros"),
    lambda: Spacingd("image", pixdim=1.5, mode="bilinear", diagonal=True),
    lambda: ScaleIntensityRanged("image", -200, 400, 0, 1, clip=True),
    lambda: ScaleIntensityRanged("image", -200, 400, -1, 1),
    lambda: ScaleIntensityRanged("image", -200, 400),
    lambda: ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0, 1, clip=True),
    lambda: ScaleIntensityRangePercentilesd("image", 5, 95, 0, 1, relative=True),
    lambda: ScaleIntensityRangePercentilesd("image", 5, 95, 0, 1, channel_wise=True),
    lambda: NormalizeIntensityd("image"),
    lambda: NormalizeIntensityd("image", nonzero=True),
    lambda: NormalizeIntensityd("image", subtrahend=100, divisor=20),
]


@pytest.mark.parametrize("index", range(len(TRANSFORMS)))
@pytest.mark.parametrize("strided", [False, True])
def test_a_lean_transform_does_what_monais_does(index: int, strided: bool) -> None:
    expected = TRANSFORMS[index]()({"image": image(strided)})["image"]
    given = image(strided)
    transform = lean(TRANSFORMS[index]())
    found = transform({"image": given})["image"]
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor().float(), atol=2e-3, rtol=1e-5)
    torch.testing.assert_close(found.affine, expected.affine, check_dtype=False)
    if not isinstance(transform, NormalizeIntensityd):  # MONAI's own changes what it is given
        assert torch.equal(given.as_tensor(), image(strided).as_tensor())


def test_what_costs_most_is_replaced_and_what_differs_is_not() -> None:
    spacing = lean(Spacingd("image", pixdim=1.5))
    assert isinstance(spacing.spacing_transform.sp_resample, LeanResample)  # type: ignore[attr-defined]
    assert isinstance(lean(NormalizeIntensityd("image")), PerImage)
    assert isinstance(lean(NormalizeIntensityd("image", nonzero=True)), NormalizeIntensityd)


def test_an_image_of_one_value_is_scaled_and_normalised_to_something_finite() -> None:
    flat = {"image": MetaTensor(torch.full((1, 3, 3, 3), 7.0))}
    for transform in (ScaleIntensityRangePercentilesd("image", 1, 99, 0, 1), NormalizeIntensityd("image")):
        assert torch.equal(lean(transform)(flat)["image"].as_tensor(), torch.zeros(1, 3, 3, 3))


def steps(transforms: list[dict[str, Any]]) -> Compose:
    parser = ConfigParser({"steps": {"_target_": "Compose", "transforms": transforms}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's readers complain of what is not installed
        return parser.get_parsed_content("steps")


@pytest.mark.parametrize("codes", ["LPS", "RAI", "SLA"])
@pytest.mark.parametrize("first", [False, True], ids=["EnsureChannelFirstd", "ensure_channel_first"])
def test_a_case_in_memory_is_prepared_as_monai_prepares_its_file(tmp_path: Path, codes: str, first: bool) -> None:
    load = [{**LOAD[0], "ensure_channel_first": True}] if first else list(LOAD)
    transforms = [*load, ORIENT, SPACING, {"_target_": "NormalizeIntensityd", "keys": "image"}]
    turn = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])
    upright = axis_geometry(codes, (12, 15, 11), (1.0, 1.5, 2.5))
    geometry = centred(upright.shape, upright.spacing_mm, turn @ np.reshape(upright.direction, (3, 3)))
    array = np.random.default_rng(0).integers(0, 200, geometry.shape).astype(np.uint8)
    write_labels(tmp_path / "image.nii.gz", Volume(array, geometry))
    expected = steps(transforms)({"image": str(tmp_path / "image.nii.gz")})["image"]
    case = Case({"image": read_volume(tmp_path / "image.nii.gz", max_bytes=10_000)})
    preprocessing = Preprocessing(steps(transforms), traced=False)
    found = preprocessing.image(preprocessing(case, parse_manifest({"id": "m"})))
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor(), atol=1e-4, rtol=1e-4)
    expected_affine = np.diag([-1, -1, 1, 1]) @ expected.affine.numpy()
    np.testing.assert_allclose(lps_affine(found), expected_affine, atol=1e-4)


def test_channels_are_stacked_for_one_key_and_handed_out_to_several(make_model: MakeModel) -> None:
    geometry = axis_geometry()
    volumes = {name: Volume(np.full(geometry.shape, value, np.int16), geometry) for name, value in (("a", 3), ("b", 7))}
    both = ["x", "y"]
    apart = (
        *({**transform, "keys": both} for transform in LOAD),
        {"_target_": "ConcatItemsd", "keys": both, "name": "image"},
    )
    for name, transforms in (("stacked", LOAD), ("apart", apart)):
        model = make_model(name, channels={"0": "a", "1": "b"}, transforms=transforms, network=two_channels())
        runtime = MonaiBundle(model)
        runtime.load(torch.device("cpu"))
        inputs = runtime.prepare(Case(volumes)).inputs
        assert inputs.shape == (2, *geometry.shape[::-1])
        assert [float(channel.unique()) for channel in inputs] == [3, 7]


def test_an_optional_channel_that_was_not_sent_is_zero(make_model: MakeModel) -> None:
    channels = [{"name": "a"}, {"name": "b", "required": False}]
    model = make_model(transforms=LOAD, network=two_channels(), manifest={"channels": channels})
    runtime = MonaiBundle(model)
    runtime.load(torch.device("cpu"))
    geometry = axis_geometry()
    inputs = runtime.prepare(Case({"a": Volume(np.ones(geometry.shape, np.int16), geometry)})).inputs
    assert [float(channel.unique()) for channel in inputs] == [1, 0]


def two_channels() -> dict[str, Any]:
    return {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 3, "kernel_size": 1}
