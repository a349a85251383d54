"""Points, transforms and metas of a case's zip, and images on grids of their own."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from case_zips import ARRAY, LIMITS, image, model, zipped

from inference_server.errors import (
    BadRequest,
    InferenceServerError,
    InvalidVolume,
    MalformedMessage,
    PredictionError,
    TooLarge,
)
from inference_server.imaging.mha import mha_to_nifti
from inference_server.models.case import Case
from inference_server.models.manifest import Manifest
from inference_server.tasks.case_files.describe import GRIDS_DIFFER
from inference_server.tasks.case_files.meta import ImageMeta, meta_of
from inference_server.tasks.case_zip import check_case, read_case, write_case

FIRST = "tmp_0000.nii.gz"
SEEDS = [[1.5, -2, 1 / 3], [4, 5, 6]]
NOISY = (0.9999999, 1e-4, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def app(**declared: Any) -> Manifest:
    return model(runtime="python-app", app="a.py:app", **declared)


TAKES = app(
    points=[{"name": "seeds"}, {"name": "marks", "required": False}],
    transforms=[{"name": "before"}, {"name": "after", "required": False}],
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "case.zip"


@pytest.fixture(scope="session")
def shift(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A translation in every format."""
    folder = tmp_path_factory.mktemp("transforms")
    for ending in ("h5", "mat", "tfm"):
        affine = sitk.AffineTransform(3)
        affine.SetTranslation((1, 2, 3))
        sitk.WriteTransform(affine, str(folder / f"shift.{ending}"))
    vectors = sitk.GetImageFromArray(np.full((3, 3, 3, 3), [1.0, 2, 3]), isVector=True)
    sitk.WriteImage(vectors, str(folder / "shift.nii.gz"))
    return folder


def members(shift: Path, **more: Any) -> dict[str, Any]:
    given = {"points.json": {"seeds": SEEDS}, "transforms/before.mat": (shift / "shift.mat").read_bytes(), **more}
    return {FIRST: image(), **{name: content for name, content in given.items() if content is not None}}


def read(path: Path, manifest: Manifest = TAKES) -> Case:
    check_case(path, manifest, LIMITS)
    return read_case(path, manifest, LIMITS, parameters={})


@pytest.mark.parametrize("ending", ["h5", "mat", "tfm", "nii.gz"])
def test_points_and_transforms_come_as_they_were_sent(ending: str, shift: Path, path: Path, tmp_path: Path) -> None:
    (tmp_path / FIRST).write_bytes(image())
    write_case(
        path, [tmp_path / FIRST], points={"seeds": np.array(SEEDS)}, transforms={"before": shift / f"shift.{ending}"}
    )
    case = read(path)
    assert list(case.points) == ["seeds"]
    assert case.points["seeds"].dtype == np.float64
    assert case.points["seeds"].tolist() == SEEDS
    assert list(case.transforms) == ["before"]
    assert np.allclose(case.transforms["before"].TransformPoint((1, 1, 1)), (2, 3, 4))


def test_a_folder_may_have_an_entry_of_its_own(shift: Path, path: Path) -> None:
    assert list(read(zipped(path, {"transforms/": b"", **members(shift)})).transforms) == ["before"]


def test_a_contour_may_be_called_points(path: Path) -> None:
    contour = {"points.nii.gz": image(ARRAY.astype(np.uint8)), "points.json": {"name": "GTV"}}
    assert list(read(zipped(path, {FIRST: image(), **contour}), model()).contours) == ["GTV"]


@pytest.mark.parametrize(
    ("more", "error", "field", "words"),
    [
        ({"points.json": None}, BadRequest, "points: seeds", "needs the points 'seeds'"),
        ({"points.json": {"seeds": []}}, BadRequest, "points: seeds", "needs the points 'seeds'"),
        ({"points.json": {"seeds": SEEDS, "more": []}}, BadRequest, "points", "It takes: seeds, marks."),
        ({"points.json": b"{"}, MalformedMessage, "points.json", "JSON"),
        ({"points.json": [SEEDS]}, MalformedMessage, "points.json", "JSON object"),
        ({"points.json": {"seeds": "x"}}, MalformedMessage, "points.json: seeds", "list of points"),
        ({"points.json": {"seeds": [1, 2, 3]}}, MalformedMessage, "points.json: seeds", "list of points"),
        ({"points.json": {"seeds": [[1, 2]]}}, MalformedMessage, "points.json: seeds", "list of points"),
        ({"points.json": {"seeds": [[1, 2, True]]}}, MalformedMessage, "points.json: seeds", "list of points"),
        ({"points.json": b'{"seeds": [[1, 2, NaN]]}'}, MalformedMessage, "points.json: seeds", "list of points"),
        ({"points.json": b'{"seeds": [[1, 2, 1e999]]}'}, MalformedMessage, "points.json: seeds", "list of points"),
        ({"points.json": b" " * (4 * 1024**2 + 1)}, TooLarge, None, "too large"),
        ({"transforms/before.mat": None}, BadRequest, "transforms: before", "needs the transforms 'before'"),
        ({"transforms/other.h5": b"x"}, BadRequest, "transforms", "It takes: before, after."),
        ({"transforms/after.png": b"x"}, BadRequest, "transforms", "ends in .nii.gz, .h5, .mat, .tfm"),
        ({"transforms/before.h5": b"\x89HDF\r\n\x1a\n"}, MalformedMessage, "transforms", "two files"),
        ({"transforms/after.h5": b"x"}, MalformedMessage, "transforms: after", "not the .h5 file"),
        ({"transforms/after.tfm": bytes(11_000)}, MalformedMessage, "transforms: after", "not the .tfm file"),
        ({"transforms/after.mat": bytes(11_000)}, TooLarge, "transforms: after", "larger than"),
        ({"transforms/a/b.mat": bytes(4)}, BadRequest, None, "folder"),
        ({"elsewhere/after.mat": bytes(4)}, BadRequest, None, "folder"),
    ],
)
def test_what_does_not_fit_is_refused_at_the_door(
    more: dict[str, Any], error: type[InferenceServerError], field: str | None, words: str, shift: Path, path: Path
) -> None:
    limits = LIMITS.model_copy(update={"unpacked_limit_bytes": 10**7})
    with pytest.raises(InferenceServerError) as caught:
        check_case(zipped(path, members(shift, **more)), TAKES, limits)
    assert (type(caught.value), caught.value.field) == (error, field)
    assert words in caught.value.message


def test_a_model_that_takes_neither_says_so(shift: Path, path: Path) -> None:
    with pytest.raises(BadRequest, match="It takes no points"):
        read(zipped(path, members(shift)), model())
    with pytest.raises(BadRequest, match="It takes no transforms"):
        read(zipped(path, members(shift, **{"points.json": None})), model())


def test_a_transform_that_only_begins_as_one_fails_when_it_is_read(shift: Path, path: Path) -> None:
    zipped(path, members(shift, **{"transforms/after.h5": b"\x89HDF\r\n\x1a\n" + bytes(100)}))
    check_case(path, TAKES, LIMITS)
    with pytest.raises(MalformedMessage) as caught:
        read(path)
    assert caught.value.field == "transforms: after"


def test_metas_give_the_geometry_to_the_last_digit_and_share_a_member_with_the_factor(
    path: Path, tmp_path: Path
) -> None:
    volume = sitk.GetImageFromArray(ARRAY)
    volume.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.1, 0.2, 0.3).GetMatrix())
    volume.SetSpacing((0.1 + 0.2, 1 / 3, np.pi))
    volume.SetOrigin((-101.30000000000001, 1e-17, 2 / 3))
    sitk.WriteImage(volume, str(tmp_path / "a.mha"), useCompression=True)
    geometry = mha_to_nifti(tmp_path / "a.mha", tmp_path / "a.nii", limit_bytes=1000)
    write_case(path, [tmp_path / "a.nii"], metas=[meta_of(geometry)], scaling_factor=(1, 2, 1))
    case = read(path, model())
    assert np.array_equal(case.reference.array, ARRAY)
    assert case.reference.geometry == case.sent_geometry == geometry
    assert case.result_grid == geometry.refined((1, 2, 1))
    assert case.assumed == ()


def test_a_meta_may_be_missing_for_an_image(path: Path, tmp_path: Path) -> None:
    (tmp_path / FIRST).write_bytes(image())
    there = ImageMeta(origin_mm=(1, 2, 3))
    write_case(path, [tmp_path / FIRST] * 2, metas=[None, there])
    first, second = read(path, app(images=2, same_grid=False)).channels.values()
    assert (first.geometry.origin_mm, second.geometry.origin_mm) == ((0, 0, 0), (1, 2, 3))


def test_the_grid_of_the_result_is_the_one_that_was_sent_although_its_axes_were_slightly_oblique(path: Path) -> None:
    meta = {"direction": list(NOISY), "spacing": [2, 2, 3], "origin": [0, 0, 0]}
    case = read(zipped(path, {FIRST: image(), "tmp_0000.meta.json": meta}), model())
    assert case.result_grid.direction == NOISY
    axes = np.reshape(case.reference.geometry.direction, (3, 3))
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-12)


def test_images_of_several_grids_are_for_models_that_say_so(path: Path) -> None:
    other = np.ones((2, 2, 2), np.int16)
    zipped(path, {FIRST: image(), "tmp_0001.nii.gz": image(other)})
    with pytest.raises(InvalidVolume, match="one shape"):
        read(path, model(images=2))
    case = read(path, app(images=2, same_grid=False))
    assert [volume.array.shape for volume in case.channels.values()] == [ARRAY.shape, other.shape]
    assert case.reference.array.shape == ARRAY.shape
    assert case.assumed == ()


def test_images_of_one_shape_at_different_places_are_no_reason_to_assume_anything_then(path: Path) -> None:
    far = np.array([[-2.0, 0, 0, 500], [0, -2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])
    zipped(path, {FIRST: image(), "tmp_0001.nii.gz": image(affine=far)})
    assert read(path, model(images=2)).assumed == (GRIDS_DIFFER,)
    assert read(path, app(images=2, same_grid=False)).assumed == ()


def test_a_stream_of_an_mha_file_becomes_a_case(path: Path, tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(tmp_path / "a.mha"))
    with (tmp_path / "a.nii").open("wb") as target:
        mha_to_nifti(io.BytesIO((tmp_path / "a.mha").read_bytes()), target, limit_bytes=1000)
    write_case(path, [tmp_path / "a.nii"])
    assert np.array_equal(read(path, model()).reference.array, ARRAY)


def test_a_model_may_take_no_image_at_all(path: Path) -> None:
    manifest = app(points=[{"name": "seeds"}]).model_copy(update={"channels": ()})
    write_case(path, [], points={"seeds": SEEDS})
    case = read(path, manifest)
    assert (dict(case.channels), case.result_grid, case.points["seeds"].tolist()) == ({}, None, SEEDS)
    with pytest.raises(PredictionError, match="no image"):
        _ = case.reference
    with pytest.raises(BadRequest, match="takes no image; 1 came"):
        read(zipped(path, {FIRST: image(), "points.json": {"seeds": SEEDS}}), manifest)
    write_case(path, [])
    with pytest.raises(BadRequest, match="needs the points 'seeds'"):
        read(path, manifest)
    with pytest.raises(BadRequest, match="no image"):
        read(path, model())
