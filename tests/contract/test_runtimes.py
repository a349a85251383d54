"""What every runtime has to do: give the right label to every voxel, on exactly the case's grid, in any orientation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from apps import LEVEL_APP, LEVEL_LABELS, write_app
from bundles import (
    ARGMAX,
    AXIS_CODES,
    INVERT,
    LEVELS,
    LOAD,
    ORIENT,
    SAVE,
    SOFTMAX,
    WHOLE,
    Bundle,
    axis_geometry,
    centred,
    conv,
    expected_levels,
    level_state,
    slope,
    slope_volume,
    world,
)
from nnunet_folders import write_nnunet
from plain_models import write_plain

from inference_server.imaging.nifti import read_volume, write_labels
from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.backends import Mode, is_installed
from inference_server.models.case import Case, Result, Segmentation
from inference_server.models.engine import Engine
from inference_server.models.manifest import Backend
from inference_server.models.registry import Model, Registry, read_model
from inference_server.models.runtimes import make_runtime
from inference_server.models.runtimes.base import Prediction, Prepared, Runtime

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # of making the test's own model

SPACING = {"_target_": "Spacingd", "keys": "image", "pixdim": [1.2, 1.2, 1.2], "mode": "bilinear"}
FILTER = {"_target_": "LabelFilterd", "keys": "pred", "applied_labels": [1, 2]}
PLAIN = ("network", "torchscript", "exported")
"""Runtimes whose `model.yaml` says how to prepare and restore; the other variants are bundles by their weights."""
BACKENDS = ("traced", "openvino")
"""What computes a bundle's network instead of torch, operation by operation."""
TILT, TURN = np.deg2rad(20), np.deg2rad(35)
ABOUT_X = np.array([[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]])
ABOUT_Z = np.array([[np.cos(TURN), -np.sin(TURN), 0], [np.sin(TURN), np.cos(TURN), 0], [0, 0, 1]])
OBLIQUE = {
    "oblique": centred((9, 14, 11), (0.9, 1.5, 2.5), ABOUT_X @ ABOUT_Z),
    "oblique, left-handed": centred((9, 14, 11), (0.9, 1.5, 2.5), ABOUT_X @ ABOUT_Z @ np.diag([1, 1, -1])),
    "oblique, of other axes": centred((9, 14, 11), (0.9, 1.5, 2.5), (ABOUT_Z @ ABOUT_X)[:, [2, 0, 1]]),
    "oblique, thick": centred((9, 14, 11), (0.4, 0.5, 6.0), ABOUT_Z @ ABOUT_X @ np.diag([-1, 1, 1])),
}
GRIDS = {**{codes: axis_geometry(codes) for codes in AXIS_CODES}, **OBLIQUE}
"""Of three lengths and three spacings, right- and left-handed."""
MARK = (0, 13, 0)
"""A corner, (z, y, x)."""
MakeRuntime = Callable[..., Runtime]


@pytest.fixture(params=["safetensors", "pt", "ts", *BACKENDS, *PLAIN, "nnunet", "python-app", "ensemble"])
def make_runtime_of(request: pytest.FixtureRequest, tmp_path: Path) -> MakeRuntime:
    """Load a model whose class is the number of `LEVELS` below a voxel's value; one variant for each runtime."""

    def make(**parts: object) -> Runtime:
        kind, folder = request.param, tmp_path / "model"
        if kind == "ensemble":
            return ensemble_of(Bundle(**parts), tmp_path)  # type: ignore[arg-type]
        if kind == "python-app":
            if "network" in parts or SPACING in parts.get("transforms", ()):  # type: ignore[operator]
                pytest.skip("what a Python app does with the case is its own")
            write_app(folder, LEVEL_APP, labels=LEVEL_LABELS)
        elif kind == "nnunet":
            if "network" in parts and SPACING in parts.get("transforms", ()):  # type: ignore[operator]
                pytest.skip("nnU-Net resamples to a grid of its own")
            write_nnunet(Bundle(**parts), folder)  # type: ignore[arg-type]
        elif kind in PLAIN:
            write_plain(Bundle(**parts), kind, folder)  # type: ignore[arg-type]
        else:
            weights = "safetensors" if kind in BACKENDS else kind
            Bundle(**{"weights": weights, **parts}).write(folder)  # type: ignore[arg-type]
        runtime = make_runtime(read_model(folder))
        runtime.load(torch.device("cpu"))
        if kind in BACKENDS:
            if not is_installed(Backend(kind)):
                pytest.skip(f"the extra {kind} is not installed")
            runtime.compute(Mode(Backend(kind)))
        return runtime

    return make


class Ensemble(Runtime):
    """Has an engine answer with an ensemble where a runtime of its own is expected."""

    def __init__(self, model: Model, engine: Engine) -> None:
        super().__init__(model)
        self.engine = engine

    def load(self, device: torch.device) -> None:
        """The engine loads the members."""

    def prepare(self, case: Case) -> Prepared:
        return Prepared(case, torch.empty(0), np.eye(4))

    def predict(self, prepared: Prepared, **_: object) -> Prediction:
        return Prediction(prepared, torch.empty(0))

    def restore(self, prediction: Prediction) -> Result:
        return self.engine.run(self.model, prediction.prepared.case)


def ensemble_of(bundle: Bundle, folder: Path) -> Runtime:
    """Write a bundle twice and an ensemble of both."""
    models = folder / f"{len(list(folder.iterdir()))}"
    for name in ("a", "b"):
        bundle.write(models / name)
    (models / "both").mkdir()
    own = any(step["_target_"] == "LabelFilterd" for step in bundle.post)
    manifest = {"runtime": "ensemble", "members": ["a", "b"], "combine": "majority" if own else "mean"}
    (models / "both" / "model.yaml").write_text(yaml.safe_dump(manifest))
    registry = Registry([models])
    return Ensemble(registry.get("both"), Engine(registry))


def run(runtime: Runtime, case: Case) -> tuple[Segmentation, ...]:
    prepared = runtime.prepare(case)
    prediction = runtime.predict(prepared, progress=lambda _: None, cancelled=lambda: False)
    return runtime.restore(prediction).segmentations


def clear_of_levels(values: np.ndarray, margin: float) -> np.ndarray:
    return np.all([np.abs(values - level) > margin for level in LEVELS], axis=0)


def test_every_voxel_has_its_label_in_all_48_orientations(make_runtime_of: MakeRuntime) -> None:
    runtime = make_runtime_of()
    for codes in AXIS_CODES:
        volume = slope_volume(axis_geometry(codes))
        (found,) = run(runtime, Case({"image": volume}))
        assert found.labels.geometry == volume.geometry
        assert found.labels.array.dtype == np.uint8
        np.testing.assert_array_equal(found.labels.array, expected_levels(volume.array), err_msg=codes)
        assert {value: label.name for value, label in found.names.items()} == {1: "low", 2: "high"}


def test_the_network_sees_the_patient_the_right_way_round(make_runtime_of: MakeRuntime) -> None:
    """This network answers with what lies one voxel further to the patient's right, in front of it and above."""
    state = level_state()
    shifted = torch.zeros(3, 1, 3, 3, 3)
    shifted[:, :, 2, 2, 2] = state["weight"][:, :, 0, 0, 0]
    runtime = make_runtime_of(network=conv(1, 3, 3), state={"weight": shifted, "bias": state["bias"]}, inferer=WHOLE)
    for codes in AXIS_CODES:
        volume = slope_volume(axis_geometry(codes))
        (found,) = run(runtime, Case({"image": volume}))
        step = np.abs(volume.geometry.affine[:3, :3]).max(axis=1) * [-1, -1, 1]  # right, anterior, superior in LPS
        neighbour = world(volume.geometry) + step
        inside = np.all(np.abs(neighbour) < np.abs(world(volume.geometry)).max(axis=(0, 1, 2)) + 1e-6, axis=-1)
        assert inside.mean() > 0.6
        np.testing.assert_array_equal(found.labels.array[inside], expected_levels(slope(neighbour))[inside], codes)


@pytest.mark.parametrize("factor", [(1, 1, 1), (2, 3, 1)])
def test_resampling_there_and_back_moves_nothing(make_runtime_of: MakeRuntime, factor: tuple[int, int, int]) -> None:
    runtime = make_runtime_of(transforms=(*LOAD, ORIENT, SPACING))
    for codes in ("LPS", "RAI", "SLA"):
        volume = slope_volume(axis_geometry(codes))
        (found,) = run(runtime, Case({"image": volume}, scaling_factor=factor))
        assert found.labels.geometry == volume.geometry.refined(factor)
        values = slope(world(found.labels.geometry))
        clear = clear_of_levels(values, 0.06) & interior(found.labels.geometry, factor)
        assert clear.mean() > 0.3
        np.testing.assert_array_equal(found.labels.array[clear], expected_levels(values)[clear], err_msg=codes)


def interior(geometry: Geometry, factor: tuple[int, int, int]) -> np.ndarray:
    """Return the voxels that are not clamped: those whose unrefined voxel is not an outermost one."""
    inside = np.zeros(geometry.shape, bool)
    inside[tuple(slice(split, -split) for split in factor)] = True
    return inside


@pytest.mark.parametrize("grid", OBLIQUE)
def test_an_oblique_grid_is_answered_on_itself(make_runtime_of: MakeRuntime, grid: str) -> None:
    volume = slope_volume(OBLIQUE[grid])
    (found,) = run(make_runtime_of(), Case({"image": volume}))
    assert found.labels.geometry == volume.geometry
    np.testing.assert_array_equal(found.labels.array, expected_levels(volume.array))


@pytest.mark.parametrize("traced", [False, True], ids=["our restore", "its own postprocessing"])
def test_a_marked_corner_stays_that_corner(make_runtime_of: MakeRuntime, traced: bool) -> None:
    own = {"post": (SOFTMAX, INVERT, ARGMAX, FILTER, SAVE)} if traced else {}
    runtime = make_runtime_of(**own)
    for name, geometry in GRIDS.items():
        (found,) = run(runtime, Case({"image": marked(geometry)}))
        assert found.labels.geometry == geometry
        assert [tuple(place) for place in np.argwhere(found.labels.array)] == [MARK], name
        assert found.labels.array[MARK] == 2


def test_a_marked_corner_stays_that_corner_on_the_contour_grid(make_runtime_of: MakeRuntime) -> None:
    """Its outermost part has the label, and nothing beyond the voxel's parts has."""
    runtime, factor = make_runtime_of(), (2, 1, 3)
    for name, geometry in GRIDS.items():
        (found,) = run(runtime, Case({"image": marked(geometry)}, scaling_factor=factor))
        assert found.labels.geometry == geometry.refined(factor)
        labels = found.labels.array
        assert labels[:2, 13:, :3].any(), name
        assert labels[0, 13, 0] == 2, name
        assert np.count_nonzero(labels) == np.count_nonzero(labels[:2, 13:, :3] == 2), name
        np.testing.assert_allclose(outer_corner(found.labels.geometry), outer_corner(geometry), atol=1e-9)


def marked(geometry: Geometry) -> Volume:
    array = np.full(geometry.shape, -1.0, np.float32)
    array[MARK] = 1.0
    return Volume(array, geometry)


def outer_corner(geometry: Geometry) -> np.ndarray:
    """Return where the corner of the marked voxel is at which the grid ends."""
    _, y, _ = geometry.shape
    corner: np.ndarray = geometry.affine @ (-0.5, y - 0.5, -0.5, 1.0)
    return corner


def test_labels_of_the_model_itself_are_repeated_as_blocks(make_runtime_of: MakeRuntime) -> None:
    runtime = make_runtime_of(post=(SOFTMAX, INVERT, ARGMAX, FILTER, SAVE))
    volume = slope_volume(axis_geometry("RAI"))
    (found,) = run(runtime, Case({"image": volume}, scaling_factor=(1, 2, 3)))
    blocks = np.repeat(np.repeat(expected_levels(volume.array), 2, axis=1), 3, axis=2)
    np.testing.assert_array_equal(found.labels.array, blocks)


def test_a_case_is_not_modified(make_runtime_of: MakeRuntime) -> None:
    scale = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 1, "b_min": 0, "b_max": 2}
    runtime = make_runtime_of(transforms=(*LOAD, ORIENT, scale, {"_target_": "NormalizeIntensityd", "keys": "image"}))
    volume = slope_volume(axis_geometry())
    before = volume.array.copy()
    volume.array.setflags(write=False)
    run(runtime, Case({"image": volume}))
    np.testing.assert_array_equal(volume.array, before)


@pytest.mark.parametrize("codes", ["LPS", "RAI", "SLA"])
def test_our_restore_decides_as_the_bundles_own_postprocessing_does(
    make_runtime_of: MakeRuntime, tmp_path: Path, codes: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {
        "weight": torch.randn(3, 1, 3, 3, 3, generator=generator),
        "bias": torch.tensor([0.5, 0.0, 0.0]),
    }
    linear = {**INVERT, "nearest_interp": False}
    parts = {"network": conv(1, 3, 3), "state": state, "transforms": (*LOAD, ORIENT, SPACING)}
    ours = make_runtime_of(**parts, post=(SOFTMAX, linear, ARGMAX))
    folder = Bundle(**parts, post=(SOFTMAX, linear, ARGMAX, FILTER)).write(tmp_path / "own")  # type: ignore[arg-type]
    own = make_runtime(read_model(folder))
    own.load(torch.device("cpu"))
    geometry = axis_geometry(codes)
    noise = np.random.default_rng(0).normal(size=geometry.shape).astype(np.float32)
    case = Case({"image": Volume(noise, geometry)})
    (found,), (expected,) = run(ours, case), run(own, case)
    assert len(np.unique(expected.labels.array)) == 3
    assert np.mean(found.labels.array == expected.labels.array) >= 0.999


@pytest.mark.parametrize(
    "name",
    ["mr/t1_crop_256_1mm_LIA.nii.gz", "ct/chest_lidc0001_512x512x16.nii.gz", "mr/stroke_multichannel/FLAIR.nii.gz"],
)
def test_real_images_come_back_on_their_own_grid(real_data: Path, tmp_path: Path, name: str) -> None:
    scale = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 171.3, "b_min": -1, "b_max": 1}
    folder = Bundle(transforms=(*LOAD, ORIENT, scale), inferer=dict(WHOLE)).write(tmp_path / "model")
    runtime = make_runtime(read_model(folder))
    runtime.load(torch.device("cpu"))
    image = read_volume(real_data / name, max_bytes=2**30)
    (found,) = run(runtime, Case({"image": image}))
    expected = expected_levels(image.array.astype(np.float64) / 171.3 * 2 - 1)
    assert len(np.unique(expected)) == 3
    np.testing.assert_array_equal(found.labels.array, expected)
    write_labels(tmp_path / "labels.nii.gz", found.labels)
    back = read_volume(tmp_path / "labels.nii.gz", max_bytes=2**30)
    assert back.geometry == image.geometry
    spacing_and_transforms = (slice(76, 108), slice(252, 328))
    for part in spacing_and_transforms:
        assert back.nifti_header[part] == image.nifti_header[part]  # type: ignore[index]
