"""Where the voxels are: against two independent readers, in every orientation, there and back."""

from __future__ import annotations

import io
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nifti_files import GEOMETRY_BYTES, affine, nifti, oblique, orientations, packed

from inference_server.errors import InvalidVolume
from inference_server.imaging.nifti import read_header, read_volume, refined_header, write_labels
from inference_server.imaging.volume import Geometry, Volume

AFFINES = [*orientations(), *(oblique(seed) for seed in range(6))]
SHAPE_XYZ = (3, 4, 5)
FACTORS = [(1, 2, 2), (3, 1, 2), (1, 1, 5)]
LPS = np.diag([-1, -1, 1, 1])
IMAGE = np.arange(60, dtype=np.int16).reshape(SHAPE_XYZ)


def written(volume: Volume) -> bytes:
    stream = io.BytesIO()
    write_labels(stream, volume)
    return stream.getvalue()


def labels_like(volume: Volume, factor: tuple[int, int, int]) -> Volume:
    grid = volume.geometry.refined(factor)
    assert volume.nifti_header is not None
    return Volume(np.ones(grid.shape, np.uint8), grid, refined_header(volume.nifti_header, factor))


def sitk_affine(path: Path) -> np.ndarray:
    read = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(read.GetDirection(), (3, 3)) * read.GetSpacing()
    matrix[:3, 3] = read.GetOrigin()
    return matrix


@pytest.mark.parametrize("matrix", AFFINES, ids=range(len(AFFINES)))
def test_every_orientation_reads_as_simpleitk_and_nibabel_read_it(matrix: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "image.nii"
    path.write_bytes(nifti(IMAGE, matrix))
    volume = read_volume(path, max_bytes=10_000)
    assert np.allclose(volume.geometry.affine, sitk_affine(path), atol=1e-5)
    assert np.allclose(LPS @ volume.geometry.affine, nibabel.load(path).affine, atol=1e-6)
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    assert np.array_equal(volume.array.transpose(), np.asarray(nibabel.load(path).dataobj))


@pytest.mark.parametrize(("number", "matrix"), [*enumerate(AFFINES)], ids=range(len(AFFINES)))
def test_labels_copy_the_geometry_of_the_input_byte_for_byte(number: int, matrix: np.ndarray) -> None:
    source = nifti(IMAGE, matrix, big_endian=number % 2 == 1, descrip=b"Jane Doe")
    volume = read_volume(io.BytesIO(packed(source)), max_bytes=10_000)
    result = written(labels_like(volume, (1, 1, 1)))
    raw = read_header(io.BytesIO(result)).raw
    assert [raw[part] for part in GEOMETRY_BYTES] == [source[part] for part in GEOMETRY_BYTES]
    assert b"Jane" not in raw


@pytest.mark.parametrize(("number", "matrix"), [*enumerate(AFFINES)], ids=range(len(AFFINES)))
def test_on_the_contour_grid_the_outer_edges_stay_where_they_are(
    number: int, matrix: np.ndarray, tmp_path: Path
) -> None:
    factor = FACTORS[number % len(FACTORS)]
    volume = read_volume(io.BytesIO(nifti(IMAGE, matrix)), max_bytes=10_000)
    path = tmp_path / "labels.nii.gz"
    write_labels(path, labels_like(volume, factor))
    shape = np.array(SHAPE_XYZ) * factor[::-1]
    read = sitk.ReadImage(str(path))
    assert read.GetSize() == tuple(shape)
    before, after = LPS @ matrix, sitk_affine(path)
    for corner in (np.zeros(3), np.array([0, 0, 1]), np.array([1, 1, 1])):
        edge_before = before @ [*(corner * SHAPE_XYZ - 0.5), 1]
        edge_after = after @ [*(corner * shape - 0.5), 1]
        assert np.allclose(edge_before, edge_after, atol=1e-4)
    assert np.allclose(volume.geometry.refined(factor).affine, after, atol=1e-5)
    assert np.allclose(nibabel.load(path).affine, LPS @ after, atol=1e-5)


@pytest.mark.parametrize("broken", [{"pixdim": [1, 2, 3, np.nan, 1, 1, 1, 1]}, {"qform_code": 1, "quatern_b": np.nan}])
@pytest.mark.parametrize("factor", [(1, 1, 1), (1, 2, 2)])
def test_labels_of_a_2d_image_can_be_read_whatever_its_header_says_of_a_third_axis(
    broken: dict[str, object], factor: tuple[int, int, int]
) -> None:
    image = read_volume(
        io.BytesIO(nifti(IMAGE[..., 0], **{"pixdim": [1, 2, 3, 1, 1, 1, 1, 1], **broken})), max_bytes=999
    )
    grid = image.geometry.refined(factor)
    assert image.nifti_header is not None
    labels = Volume(np.ones(grid.shape, np.uint8), grid, refined_header(image.nifti_header, factor))
    found = read_header(io.BytesIO(written(labels)))
    assert (found.geometry.shape, found.geometry.spacing_mm) == (grid.shape, grid.spacing_mm)


def test_both_transforms_of_a_refined_header_agree() -> None:
    raw = nifti(IMAGE, oblique(1))[:348]
    header = nibabel.Nifti1Header(refined_header(raw, (2, 3, 4)))
    assert np.allclose(header.get_sform(), header.get_qform(), atol=1e-4)
    assert header.get_data_shape() == (12, 12, 10)


@pytest.mark.parametrize("matrix", AFFINES[::5], ids=range(0, len(AFFINES), 5))
def test_without_a_header_labels_are_written_from_the_geometry(matrix: np.ndarray, tmp_path: Path) -> None:
    given = read_header(io.BytesIO(nifti(IMAGE, matrix))).geometry
    path = tmp_path / "labels.nii"
    write_labels(path, Volume(np.zeros(given.shape, np.uint16), given))
    header = nibabel.load(path).header
    assert np.allclose(header.get_sform(), header.get_qform(), atol=1e-4)
    assert np.allclose(sitk_affine(path), given.affine, atol=1e-5)


TILT = np.array([[1, 0, 0], [0, 1, np.sin(np.deg2rad(13.5))], [0, 0, np.cos(np.deg2rad(13.5))]])
"""Directions of the axes of a CT whose gantry was tilted by 13.5 degrees."""


@pytest.mark.parametrize(("qform_code", "sform_code"), [(0, 1), (1, 1), (0, 4)])
def test_a_sheared_image_is_refused_in_words(qform_code: int, sform_code: int) -> None:
    """Also beside a qform, which cannot say that the scanner's grid is sheared."""
    content = nifti(IMAGE, affine(TILT), qform_code=qform_code, sform_code=sform_code)
    with pytest.raises(InvalidVolume, match=r"sheared: .* 13\.5 degrees .* Please send it resampled"):
        read_header(io.BytesIO(content))


def test_a_registration_that_shears_does_not_count_beside_a_scanners_own_geometry(tmp_path: Path) -> None:
    path = tmp_path / "image.nii"
    path.write_bytes(nifti(IMAGE, affine(TILT), sform_code=4))
    assert np.allclose(read_header(path).geometry.affine, sitk_affine(path), atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_axes_that_noise_made_oblique_are_taken_as_perpendicular(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    rotation = oblique(seed)[:3, :3] / np.linalg.norm(oblique(seed)[:3, :3], axis=0)
    noisy = affine(rotation + np.random.default_rng(seed).normal(0, 1e-4, (3, 3)))
    content = nifti(IMAGE, noisy, qform_code=0)
    caplog.set_level("INFO")
    header = read_header(io.BytesIO(content))
    axes = np.reshape(header.geometry.direction, (3, 3))
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(LPS @ header.geometry.affine, noisy, atol=3e-4 * 3)
    assert np.sign(np.linalg.det(axes)) == np.sign(np.linalg.det(rotation))
    assert [record.message for record in caplog.records] == ["image axes made perpendicular"]
    assert 1e-6 < caplog.records[0].off_by < 1e-3  # type: ignore[attr-defined]
    labels = Volume(np.ones(header.geometry.shape, np.uint8), header.geometry, header.raw)
    raw = read_header(io.BytesIO(written(labels))).raw
    assert [raw[part] for part in GEOMETRY_BYTES] == [content[part] for part in GEOMETRY_BYTES]


def test_what_single_precision_does_to_axes_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for matrix in AFFINES:
        read_header(io.BytesIO(nifti(IMAGE, matrix, qform_code=0)))
    assert not caplog.records


@pytest.mark.parametrize(
    ("qform_code", "sform_code"), [(1, 0), (0, 1), (1, 1), (2, 1), (1, 2), (2, 2), (2, 4), (3, 4), (0, 4)]
)
def test_of_two_transforms_that_differ_the_one_counts_that_simpleitk_takes(
    qform_code: int, sform_code: int, tmp_path: Path
) -> None:
    path = tmp_path / "image.nii"
    content = nibabel.Nifti1Header(nifti(IMAGE, oblique(0))[:348])
    content.set_sform(oblique(2), code=1)
    content["qform_code"], content["sform_code"] = qform_code, sform_code
    path.write_bytes(content.binaryblock + bytes(4 + 120))
    assert np.allclose(read_header(path).geometry.affine, sitk_affine(path), atol=1e-4)


def test_a_header_without_a_transform_gives_axes_along_the_patient_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "image.nii"
    path.write_bytes(nifti(IMAGE, oblique(0), qform_code=0, sform_code=0))
    header = read_header(path)
    assert not header.oriented
    assert np.allclose(header.geometry.affine, sitk_affine(path))


@pytest.mark.parametrize(("unit", "mm"), [(0, 1), (1, 1000), (2, 1), (3, 0.001)])
def test_metres_and_micrometres_become_millimetres(unit: int, mm: float) -> None:
    given = read_header(io.BytesIO(nifti(IMAGE, np.diag([2, 3, 4, 1.0]), xyzt_units=unit))).geometry
    assert given.spacing_mm == pytest.approx((2 * mm, 3 * mm, 4 * mm))


def test_the_real_images_read_as_simpleitk_reads_them(real_data: Path) -> None:
    paths = [*real_data.glob("mr/**/*.nii.gz"), *real_data.glob("labelled/totalseg*/*.nii.gz")]
    paths += [real_data / "ct" / "chest_lidc0001_512x512x16.nii.gz"]
    assert len(paths) > 5
    for path in paths:
        volume, other = read_volume(path, max_bytes=2**30), sitk.ReadImage(str(path))
        assert np.array_equal(volume.array, sitk.GetArrayFromImage(other))
        assert np.allclose(volume.geometry.affine, sitk_affine(path), atol=1e-6)


def test_labels_on_the_grid_of_a_real_image_lie_exactly_on_it(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "mr" / "t1_crop_256_1mm_LIA.nii.gz"
    volume = read_volume(source, max_bytes=2**30)
    path = tmp_path / "labels.nii.gz"
    write_labels(path, Volume(np.zeros(volume.array.shape, np.uint8), volume.geometry, volume.nifti_header))
    assert np.array_equal(nibabel.load(path).affine, nibabel.load(source).affine)
    ours, theirs = sitk.ReadImage(str(path)), sitk.ReadImage(str(source))
    assert (ours.GetOrigin(), ours.GetSpacing(), ours.GetDirection()) == (
        theirs.GetOrigin(),
        theirs.GetSpacing(),
        theirs.GetDirection(),
    )


def test_a_geometry_has_the_voxel_volume_of_its_spacing() -> None:
    assert Geometry((1, 1, 1), (0.5, 2.0, 3.0)).voxel_volume_mm3 == pytest.approx(3.0)
