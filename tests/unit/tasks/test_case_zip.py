"""What a case's zip becomes: channels, geometry, contours, tags and what had to be assumed."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from case_zips import ARRAY, LIMITS, MIM_AFFINE, SHAPE, image, model, zipped
from nifti_files import nifti, oblique

from inference_server.errors import BadRequest, InvalidVolume, MalformedMessage
from inference_server.imaging.archive import open_archive
from inference_server.imaging.nifti import read_header
from inference_server.imaging.picture import read_picture
from inference_server.models.case import Case
from inference_server.models.manifest import Manifest
from inference_server.settings import Settings
from inference_server.tasks.case_files.describe import GRIDS_DIFFER, ORIENTATION_ASSUMED, SPACING_DIFFERS, as_file
from inference_server.tasks.case_zip import check_case, read_case, write_case

OLDER = {"scaling_factor": [1, 2, 2], "spacing": [2.0, 2.0, 3.0]}
DIRECTION = [0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
NEWER = {**OLDER, "origin": [0.1, 0.2, 0.3], "direction": DIRECTION}


def read(path: Path, manifest: Manifest | None = None, **parameters: object) -> Case:
    return read_case(path, manifest or model(), LIMITS, parameters=parameters)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "case.zip"


def test_the_older_form_gives_the_factor_and_an_orientation_that_was_assumed(path: Path) -> None:
    case = read(zipped(path, {"tmp_0000.nii.gz": image(), "meta.json": OLDER}))
    assert list(case.channels) == ["C0"]
    assert np.array_equal(case.reference.array, ARRAY)
    assert case.scaling_factor == (1, 2, 2)
    assert case.reference.geometry.spacing_mm == (2.0, 2.0, 3.0)
    assert case.reference.geometry.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert case.assumed == (ORIENTATION_ASSUMED,)


def test_the_newer_form_gives_the_geometry_in_full_precision_and_the_header_stays_the_files(path: Path) -> None:
    meta = {**NEWER, "spacing": [2.0000000001, 2.0, 3.0]}
    case = read(zipped(path, {"tmp_0000.nii.gz": image(), "tmp_0000.meta.json": meta, "meta.json": OLDER}))
    geometry = case.reference.geometry
    assert geometry.spacing_mm == (2.0000000001, 2.0, 3.0)
    assert geometry.origin_mm == (0.1, 0.2, 0.3)
    assert geometry.direction == tuple(DIRECTION)
    assert case.reference.nifti_header == nifti(ARRAY.transpose(), MIM_AFFINE)[:348]
    assert (case.scaling_factor, case.assumed) == ((1, 2, 2), ())


def test_what_the_newer_form_leaves_out_is_the_headers(path: Path) -> None:
    case = read(zipped(path, {"tmp_0000.nii.gz": image(), "tmp_0000.meta.json": {"origin": [7, 8, 9]}}))
    assert case.reference.geometry.origin_mm == (7, 8, 9)
    assert case.reference.geometry.spacing_mm == (2, 2, 3)
    assert case.assumed == (ORIENTATION_ASSUMED,)


def test_a_plain_image_has_its_headers_geometry_and_nothing_is_assumed(path: Path) -> None:
    for affine in (MIM_AFFINE, oblique(3)):
        case = read(zipped(path, {"tmp_0000.nii.gz": image(affine=affine)}))
        assert np.allclose(np.diag([-1, -1, 1, 1]) @ case.reference.geometry.affine, affine, atol=1e-5)
        assert (case.scaling_factor, case.assumed) == ((1, 1, 1), ())


def test_an_orientation_in_the_header_counts_also_beside_the_older_form(path: Path) -> None:
    case = read(zipped(path, {"tmp_0000.nii.gz": image(affine=oblique(2)), "meta.json": {"scaling_factor": [1, 1, 1]}}))
    assert case.assumed == ()


def test_a_header_that_says_nothing_of_the_orientation_is_reported(path: Path) -> None:
    content = image(qform_code=0, sform_code=0)
    assert read(zipped(path, {"tmp_0000.nii.gz": content})).assumed == (ORIENTATION_ASSUMED,)


@pytest.mark.parametrize(("sform_code", "assumed"), [(1, ()), (0, (ORIENTATION_ASSUMED,))])
def test_a_factor_beside_plain_images_leaves_the_orientation_to_the_header(
    sform_code: int, assumed: tuple[str, ...], tmp_path: Path, path: Path
) -> None:
    plain = tmp_path / "upload"
    plain.write_bytes(image(qform_code=0, sform_code=sform_code))
    write_case(path, [plain], scaling_factor=(1, 2, 2))
    case = read(path)
    assert (case.scaling_factor, case.assumed) == ((1, 2, 2), assumed)


def test_the_image_counts_where_the_older_form_says_another_spacing(path: Path) -> None:
    meta = {"spacing": [5, 5, 5]}
    case = read(zipped(path, {"tmp_0000.nii.gz": image(affine=oblique(2)), "meta.json": meta}))
    assert case.reference.geometry.spacing_mm == pytest.approx((0.7, 1.3, 2.9))
    assert case.assumed == (SPACING_DIFFERS,)


@pytest.mark.parametrize(("given", "expected"), [([1, 2, 3], (1, 2, 3)), ([2.0, 1, 1.0], (2, 1, 1)), (None, (1, 1, 1))])
@pytest.mark.parametrize("member", ["meta.json", "tmp_0000.meta.json"])
def test_whole_numbers_are_factors_however_json_writes_them(
    given: object, expected: tuple[int, int, int], member: str, path: Path
) -> None:
    members = {"tmp_0000.nii.gz": image(), member: {"scaling_factor": given}}
    assert check_case(zipped(path, members), model(), LIMITS).scaling_factor == expected


def test_only_the_first_images_factor_counts(path: Path) -> None:
    members = {"tmp_0000.nii.gz": image(), "tmp_0001.nii.gz": image(), "tmp_0001.meta.json": OLDER}
    assert check_case(zipped(path, members), model(images=2), LIMITS).scaling_factor == (1, 1, 1)


def test_images_become_channels_in_the_order_of_their_numbers(path: Path) -> None:
    members = {f"tmp_{i:04d}.nii.gz": image(ARRAY + 100 * i) for i in (2, 0, 1)}
    case = read(zipped(path, members), model(images=2, optional=2))
    assert {name: int(volume.array.min()) for name, volume in case.channels.items()} == {"C0": 0, "C1": 100, "C2": 200}
    assert len(check_case(path, model(images=3), LIMITS).channels) == 3


def test_images_of_one_shape_at_different_places_are_taken_and_reported(path: Path) -> None:
    moved = MIM_AFFINE.copy()
    moved[0, 3] = 40
    case = read(zipped(path, {"tmp_0000.nii.gz": image(), "tmp_0001.nii.gz": image(affine=moved)}), model(images=2))
    assert case.assumed == (GRIDS_DIFFER,)


def test_contours_become_masks_on_the_contour_grid_by_the_name_in_their_description(path: Path) -> None:
    fine = np.zeros((4, 6, 4), np.uint8)
    fine[1, 2:4, 1] = 7
    members = {
        "tmp_0000.nii.gz": image(),
        "meta.json": OLDER,
        "x y.nii.gz": image(fine),
        "x y.json": {"name": "GTV 1", "dimensions": [4, 6, 4], "multiplier": [1, 2, 2]},
    }
    case = read(zipped(path, members))
    assert list(case.contours) == ["GTV 1"]
    mask = case.contours["GTV 1"]
    assert mask.array.dtype == bool
    assert np.array_equal(mask.array, fine == 7)
    assert mask.geometry == case.reference.geometry.refined((1, 2, 2))


def test_dicom_tags_reach_the_channel_that_they_belong_to(path: Path) -> None:
    members = {
        "tmp_0000.nii.gz": image(),
        "tmp_0001.nii.gz": image(),
        "tmp_0001.dicom_info.json": {"1048592": "Doe^Jane", "524384": "MR"},
    }
    assert read(zipped(path, members), model(images=2)).dicom_tags == {"C1": {0x00100010: "Doe^Jane", 0x00080060: "MR"}}


def test_members_of_no_known_kind_are_left_alone(path: Path) -> None:
    members = {"tmp_0000.nii.gz": image(), "readme.txt": b"hello", "other.json": b"not even JSON"}
    assert read(zipped(path, members)).contours == {}


def test_parameters_not_given_have_their_defaults_and_unknown_ones_are_refused(path: Path) -> None:
    manifest = model(parameters=[{"name": "k", "type": "number", "default": 3}])
    zipped(path, {"tmp_0000.nii.gz": image()})
    assert read(path, manifest).parameters == {"k": 3}
    assert read(path, manifest, k=5).parameters == {"k": 5}
    with pytest.raises(BadRequest):
        read(path, manifest, q=5)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_plain_and_gzipped_members_read_alike(method: int, path: Path) -> None:
    zipped(path, {"tmp_0000.nii": nifti(ARRAY.transpose(), MIM_AFFINE)}, method=method)
    assert np.array_equal(read(path).reference.array, ARRAY)


def test_the_door_reads_headers_only_and_the_worker_finds_the_damage_behind_them(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 999, (32, 32, 32), np.int16)
    zipped(path, {"tmp_0000.nii.gz": image(noise)[:-1000]})
    assert check_case(path, model(), Settings()).channels[0].shape == (32, 32, 32)
    with pytest.raises(MalformedMessage, match="cut off") as caught:
        read_case(path, model(), Settings(), parameters={})
    assert caught.value.field == "tmp_0000.nii.gz"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_finite_numbers_are_refused(value: float, path: Path) -> None:
    array = ARRAY.astype(np.float32)
    array[1, 2, 1] = value
    zipped(path, {"tmp_0000.nii.gz": image(array)})
    check_case(path, model(), LIMITS)
    with pytest.raises(InvalidVolume, match="not finite") as caught:
        read(path)
    assert caught.value.field == "tmp_0000.nii.gz"


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_picture_is_one_slice_for_a_model_of_two_dimensions(ending: str, tmp_path: Path, path: Path) -> None:
    picture = tmp_path / f"a.{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(np.full((8, 16), 90, np.uint8)), str(picture))
    write_case(path, [picture])
    case = read(path, model(dimensions=2))
    assert case.reference.array.shape == (1, 8, 16)
    assert np.abs(case.reference.array.astype(int) - 90).max() <= 2
    assert case.assumed == ()


@pytest.mark.parametrize("ending", ["png", "jpg", "dcm"])
def test_a_picture_on_its_way_to_its_reader_has_no_name_that_would_outlive_a_kill(ending: str, tmp_path: Path) -> None:
    picture, folder = tmp_path / f"a.{ending}", tmp_path / "temporary"
    sitk.WriteImage(sitk.GetImageFromArray(np.full((8, 16), 90, np.uint8)), str(picture))
    write_case(tmp_path / "case.zip", [picture])
    folder.mkdir()
    with (
        pytest.MonkeyPatch.context() as patch,
        open_archive(tmp_path / "case.zip", member_limit=1, unpacked_limit_bytes=10_000) as archive,
    ):
        patch.setattr(tempfile, "tempdir", str(folder))
        with as_file(archive, archive.names[0]) as path:
            assert list(folder.iterdir()) == []
            assert path.read_bytes() == picture.read_bytes()
            assert read_picture(path, max_bytes=1000).array.shape == (1, 8, 16)


@pytest.mark.parametrize("content", [nifti(ARRAY[0].transpose()), nifti(ARRAY[:1].transpose(), MIM_AFFINE)])
def test_a_flat_nifti_file_is_one_slice_for_a_model_of_two_dimensions(content: bytes, path: Path) -> None:
    zipped(path, {"tmp_0000.nii": content})
    assert np.array_equal(read(path, model(dimensions=2)).reference.array, ARRAY[:1])


def test_a_written_case_holds_the_files_byte_for_byte_and_uncompressed(tmp_path: Path, path: Path) -> None:
    images = [tmp_path / "upload-1", tmp_path / "upload-2"]
    images[0].write_bytes(image())
    images[1].write_bytes(nifti(ARRAY.transpose(), MIM_AFFINE))
    write_case(path, images, scaling_factor=(1, 2, 2))
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["tmp_0000.nii.gz", "tmp_0001.nii", "tmp_0000.meta.json"]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert [archive.read(f"tmp_000{i}.{ending}") for i, ending in ((0, "nii.gz"), (1, "nii"))] == [
            file.read_bytes() for file in images
        ]
    assert check_case(path, model(images=2), LIMITS).scaling_factor == (1, 2, 2)


def test_what_a_mim_client_writes_reads_as_the_array_that_it_had(tmp_path: Path, path: Path) -> None:
    picture = sitk.GetImageFromArray(ARRAY)
    picture.SetSpacing((0.9765625, 0.9765625, 2.5))
    picture.SetOrigin((-250.0, -249.5, 31.25))
    sitk.WriteImage(picture, str(tmp_path / "tmp_0000.nii.gz"))
    write_case(path, [tmp_path / "tmp_0000.nii.gz"])
    volume = read(path).reference
    assert np.array_equal(volume.array, ARRAY)
    assert volume.geometry.shape == SHAPE
    assert volume.geometry.spacing_mm == (0.9765625, 0.9765625, 2.5)
    assert volume.geometry.origin_mm == (-250.0, -249.5, 31.25)


def test_a_real_chest_ct_is_checked_and_read(real_data: Path, path: Path) -> None:
    source = real_data / "ct" / "chest_lidc0001_512x512x16.nii.gz"
    write_case(path, [source], scaling_factor=(1, 2, 2))
    summary = check_case(path, model(), Settings())
    assert summary.channels[0].shape == (16, 512, 512)
    volume = read_case(path, model(), Settings(), parameters={}).reference
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(sitk.ReadImage(str(source))))
    assert volume.nifti_header == read_header(source).raw
