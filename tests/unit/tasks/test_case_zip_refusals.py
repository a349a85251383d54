"""Cases that are refused: the class, the field and a sentence; and that nothing of a patient is in them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from case_zips import ARRAY, LIMITS, MIM_AFFINE, image, model, zipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nifti_files import nifti, packed

from inference_server.errors import BadRequest, InferenceServerError, InvalidVolume, MalformedMessage, TooLarge
from inference_server.models.manifest import Manifest
from inference_server.settings import Settings
from inference_server.tasks.case_zip import check_case, read_case

FIRST, SECOND, THIRD = (f"tmp_000{i}.nii.gz" for i in range(3))
META, NEWER = "meta.json", "tmp_0000.meta.json"
SHEARED = [1.0, 0.0, 0.0, 0.0, 1.0, 0.25, 0.0, 0.0, 0.968]
SHEARED_AFFINE = np.array([[2.0, 0, 0, 0], [0, 2, 0.5, 0], [0, 0, 3, 0], [0, 0, 0, 1]])
CONTOUR = {"c.nii.gz": image(ARRAY.astype(np.uint8)), "c.json": {"name": "Doe"}}


def refusal(path: Path, manifest: Manifest | None = None, limits: Settings = LIMITS) -> InferenceServerError:
    with pytest.raises(InferenceServerError) as caught:
        check_case(path, manifest or model(), limits)
    with pytest.raises(type(caught.value), match=r"^[A-Z].*\.$"):
        read_case(path, manifest or model(), limits, parameters={})
    return caught.value


@pytest.mark.parametrize(
    ("members", "error", "field"),
    [
        ({}, BadRequest, FIRST),
        ({"ct.txt": b""}, BadRequest, FIRST),
        ({SECOND: image()}, MalformedMessage, FIRST),
        ({FIRST: image(), THIRD: image()}, MalformedMessage, SECOND),
        ({FIRST: image(), "tmp_0000.nii": nifti(ARRAY)}, MalformedMessage, "tmp_0000.nii"),
        ({FIRST: image(), "tmp_0001.mha": b"x"}, BadRequest, "tmp_0001"),
        ({FIRST: image(), SECOND: image()}, BadRequest, SECOND),
        ({"tmp_0000.png": b"\x89PNG"}, BadRequest, "tmp_0000.png"),
        ({FIRST: b"no image"}, MalformedMessage, FIRST),
        ({FIRST: packed(b"no image")}, MalformedMessage, FIRST),
        ({FIRST: image()[:30]}, MalformedMessage, FIRST),
        ({FIRST: packed(nifti(ARRAY[0]))}, InvalidVolume, FIRST),
        ({FIRST: packed(nifti(np.zeros((2, 2, 2, 3), "u1")))}, InvalidVolume, FIRST),
        ({FIRST: image(pixdim=[1, 0, 1, 1, 1, 1, 1, 1])}, InvalidVolume, FIRST),
        ({FIRST: image(srow_y=[0, np.nan, 0, 0])}, InvalidVolume, FIRST),
        ({FIRST: packed(nifti(ARRAY, MIM_AFFINE, dim=[3, 30, 30, 30, 1, 1, 1, 1]))}, TooLarge, FIRST),
        ({FIRST: image(), META: b"{"}, MalformedMessage, META),
        ({FIRST: image(), META: b"[" * 50_000}, MalformedMessage, META),
        ({FIRST: image(), META: b"\xff\xfe"}, MalformedMessage, META),
        ({FIRST: image(), META: [1, 2]}, MalformedMessage, META),
        ({FIRST: image(), META: {"spacing": [1, 1, 0]}}, InvalidVolume, "meta.json: spacing"),
        ({FIRST: image(), META: {"spacing": [1, 1, float("nan")]}}, InvalidVolume, "meta.json: spacing"),
        ({FIRST: image(), META: {"spacing": [1, 1]}}, InvalidVolume, "meta.json: spacing"),
        ({FIRST: image(), META: {"spacing": "111"}}, InvalidVolume, "meta.json: spacing"),
        ({FIRST: image(), NEWER: {"spacing": [1, -1, 1]}}, InvalidVolume, f"{NEWER}: spacing"),
        ({FIRST: image(), NEWER: {"origin": [0, 0, float("inf")]}}, InvalidVolume, f"{NEWER}: origin"),
        ({FIRST: image(), NEWER: {"origin": [0, 0, 10**400]}}, InvalidVolume, f"{NEWER}: origin"),
        ({FIRST: image(), NEWER: {"direction": [1, 0, 0]}}, InvalidVolume, f"{NEWER}: direction"),
        ({FIRST: image(), NEWER: {"direction": [0] * 9}}, InvalidVolume, NEWER),
        ({FIRST: image(), NEWER: {"direction": SHEARED}}, InvalidVolume, NEWER),
        ({FIRST: image(affine=SHEARED_AFFINE)}, InvalidVolume, FIRST),
        ({FIRST: image(), META: {"scaling_factor": [1, 1, 2]}, NEWER: {"scaling_factor": [1, 2, 2]}},
         MalformedMessage, "meta.json: scaling_factor"),
        ({FIRST: image(), "tmp_0000.dicom_info.json": {"PatientName": "Doe"}},
         MalformedMessage, "tmp_0000.dicom_info.json"),
        ({FIRST: image(), "Doe.nii.gz": image()}, MalformedMessage, "contour"),
        ({FIRST: image(), **CONTOUR, "c.json": {"title": "Doe"}}, MalformedMessage, "contour"),
        ({FIRST: image(), **CONTOUR, "c.json": b"Doe"}, MalformedMessage, "contour"),
        ({FIRST: image(), **CONTOUR, "c.nii.gz": b"Doe"}, MalformedMessage, "contour"),
        ({FIRST: image(), META: {"scaling_factor": [1, 2, 2]}, **CONTOUR}, InvalidVolume, "contour"),
        ({FIRST: image(), **CONTOUR, "d.nii.gz": image(), "d.json": {"name": "Doe"}}, MalformedMessage, "contour"),
    ],
)  # fmt: skip
def test_a_case_at_fault_is_refused_with_its_field_at_the_door_and_by_the_worker(
    members: dict[str, Any], error: type[InferenceServerError], field: str, tmp_path: Path
) -> None:
    caught = refusal(zipped(tmp_path / "case.zip", members))
    assert (type(caught), caught.field) == (error, field)
    assert "Doe" not in caught.message
    assert caught.__cause__ is None or "Doe" not in str(caught.__cause__)


@pytest.mark.parametrize(
    "factor",
    [[0, 1, 1], [-1, 1, 1], [1.5, 1, 1], [True, 1, 1], ["2", 1, 1], [None, 1, 1], [float("nan"), 1, 1],
     [float("inf"), 1, 1], [1, 1], [1, 1, 1, 1], [], 2, "222", {"z": 1}, [[1], [1], [1]]],
)  # fmt: skip
@pytest.mark.parametrize("member", [META, NEWER])
def test_scaling_factors_other_than_three_positive_whole_numbers_are_bad_requests(
    factor: object, member: str, tmp_path: Path
) -> None:
    caught = refusal(zipped(tmp_path / "case.zip", {FIRST: image(), member: {"scaling_factor": factor}}))
    assert (type(caught), caught.field) == (BadRequest, f"{member}: scaling_factor")


@pytest.mark.parametrize("member", [META, NEWER])
@pytest.mark.parametrize("factor", [[1, 20, 21], [10_000, 1, 1], [10**100, 1, 1]])
def test_factors_that_make_the_labels_larger_than_the_limit_are_too_large(
    factor: list[int], member: str, tmp_path: Path
) -> None:
    path = zipped(tmp_path / "case.zip", {FIRST: image(), member: {"scaling_factor": factor}})
    caught = refusal(path)
    assert (type(caught), caught.field) == (TooLarge, f"{member}: scaling_factor")


def test_labels_exactly_at_the_limit_are_taken(tmp_path: Path) -> None:
    path = zipped(tmp_path / "case.zip", {FIRST: image(), META: {"scaling_factor": [1, 2, 2]}})
    check_case(path, model(), Settings(labels_limit_bytes=96))
    with pytest.raises(TooLarge):
        check_case(path, model(), Settings(labels_limit_bytes=95))


def test_an_axis_longer_than_nifti_can_say_is_too_large(tmp_path: Path) -> None:
    path = zipped(tmp_path / "case.zip", {FIRST: image(), META: {"scaling_factor": [8192, 1, 1]}})
    caught = refusal(path, limits=Settings())
    assert (type(caught), caught.field) == (TooLarge, "meta.json: scaling_factor")


@pytest.mark.parametrize(("sent", "field"), [(1, SECOND), (4, "tmp_0003.nii.gz")])
def test_the_sentence_about_wrong_numbers_of_images_names_what_the_model_takes(
    sent: int, field: str, tmp_path: Path
) -> None:
    path = zipped(tmp_path / "case.zip", {f"tmp_{i:04d}.nii.gz": image() for i in range(sent)})
    caught = refusal(path, model(images=2, optional=1))
    assert caught.message == f"The model 'm' takes 2 to 3 images (C0, C1, C2); {sent} came."
    assert caught.field == field


def test_a_channel_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "case.zip", {FIRST: image(), SECOND: image(ARRAY[:3])})
    caught = refusal(path, model(images=2))
    assert (type(caught), caught.field) == (InvalidVolume, SECOND)
    assert "(3, 3, 2)" in caught.message
    assert "(4, 3, 2)" in caught.message


def test_images_too_large_together_are_refused(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "case.zip", {FIRST: image(np.zeros((9, 20, 25), "u1")), SECOND: image(np.zeros((9, 20, 25), "u1"))}
    )
    caught = refusal(path, model(images=2), Settings(unpacked_limit_bytes=8999))
    assert (type(caught), caught.field) == (TooLarge, SECOND)


def test_contours_too_large_together_are_refused(tmp_path: Path) -> None:
    members: dict[str, Any] = {FIRST: image(np.zeros((9, 20, 25), "u1"))}
    for i in range(3):
        members |= {f"{i}.nii.gz": image(np.zeros((9, 20, 25), "u1")), f"{i}.json": {"name": str(i)}}
    path = zipped(tmp_path / "case.zip", members)
    check_case(path, model(), Settings(unpacked_limit_bytes=18_000))
    assert refusal(path, limits=Settings(unpacked_limit_bytes=17_999)).field == "contour"


def test_json_larger_than_any_description_is_refused_unread(tmp_path: Path) -> None:
    path = zipped(tmp_path / "case.zip", {FIRST: image(), META: b" " * (1024**2 + 1)}, method=zipfile.ZIP_DEFLATED)
    caught = refusal(path, limits=Settings())
    assert (type(caught), caught.field) == (TooLarge, META)


def test_a_volume_for_a_model_of_two_dimensions_is_refused(tmp_path: Path) -> None:
    caught = refusal(zipped(tmp_path / "case.zip", {FIRST: image()}), model(dimensions=2))
    assert (type(caught), caught.field) == (InvalidVolume, FIRST)


def test_a_damaged_picture_is_refused(tmp_path: Path) -> None:
    caught = refusal(zipped(tmp_path / "case.zip", {"tmp_0000.png": b"\x89PNG nothing"}), model(dimensions=2))
    assert (type(caught), caught.field) == (MalformedMessage, "tmp_0000.png")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
KEYS = st.sampled_from(["scaling_factor", "spacing", "origin", "direction", "name"])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    member=st.sampled_from([META, NEWER, "tmp_0000.dicom_info.json", "c.json"]), said=st.dictionaries(KEYS, JSON) | JSON
)
def test_any_json_gives_a_case_or_one_of_our_errors(member: str, said: object, tmp_path: Path) -> None:
    path = zipped(tmp_path / "case.zip", {FIRST: image(), **CONTOUR, member: json.dumps(said).encode()})
    try:
        case = read_case(path, model(), LIMITS, parameters={})
    except InferenceServerError:
        return
    assert np.array_equal(case.reference.array, ARRAY)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_the_zip_gives_a_case_or_one_of_our_errors(data: Any, tmp_path: Path) -> None:
    members = {FIRST: image(), META: {"scaling_factor": [1, 1, 1]}, **CONTOUR}
    path = zipped(tmp_path / "case.zip", members, method=data.draw(st.sampled_from([0, 8])))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: len(content) - data.draw(st.integers(0, 100))])
    try:
        check_case(path, model(), LIMITS)
        case = read_case(path, model(), LIMITS, parameters={})
    except InferenceServerError:
        return
    assert case.reference.array.nbytes <= LIMITS.image_limit_bytes
