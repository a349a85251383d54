"""Transforms in files: what goes out comes back, and what is no transform is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from inference_server.errors import InferenceServerError, MalformedMessage, TooLarge
from inference_server.imaging.transforms import read_transform, write_transform

PLACES = np.random.default_rng(0).uniform(1, 8, (20, 3)).tolist()
LIMIT = 10**6


def affine() -> sitk.Transform:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix([1.1, 0.2, 0, -0.3, 0.9, 0.1, 0, 0.05, 1.3])
    transform.SetCenter((4, 5, 6))
    transform.SetTranslation((1 / 3, -2, 7))
    return transform


def euler() -> sitk.Transform:
    return sitk.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3, (4, 5, 6))


def bspline() -> sitk.Transform:
    transform = sitk.BSplineTransformInitializer(sitk.Image(10, 10, 10, sitk.sitkUInt8), [3, 3, 3])
    transform.SetParameters(np.random.default_rng(1).normal(size=len(transform.GetParameters())).tolist())
    return transform


def field(shape: tuple[int, ...] = (10, 11, 12)) -> sitk.Transform:
    vectors = np.random.default_rng(2).normal(size=(*shape, 3)).astype(np.float32).astype(np.float64)
    image = sitk.GetImageFromArray(vectors, isVector=True)
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    image.SetOrigin((-1, 9, -1))
    return sitk.DisplacementFieldTransform(image)


def composite() -> sitk.Transform:
    return sitk.CompositeTransform([affine(), bspline()])


def moved(transform: sitk.Transform) -> np.ndarray:
    return np.array([transform.TransformPoint(place) for place in PLACES])


@pytest.mark.parametrize(
    ("made", "ending", "off_mm"),
    [
        (affine, "mat", 0),
        (euler, "mat", 1e-12),
        (lambda: sitk.TranslationTransform(3, (1, 2, 3)), "mat", 1e-12),
        (lambda: sitk.CompositeTransform([affine(), euler()]), "mat", 1e-12),
        (lambda: sitk.Transform(affine()), "mat", 0),
        (bspline, "h5", 0),
        (composite, "h5", 0),
        (field, "nii.gz", 1e-6),
    ],
)
def test_every_kind_comes_back_as_it_was(made: object, ending: str, off_mm: float, tmp_path: Path) -> None:
    transform = made()  # type: ignore[operator]
    path = write_transform(tmp_path, transform)
    assert path.name == f"transform.{ending}"
    back = read_transform(path, max_bytes=LIMIT)
    assert np.abs(moved(back) - moved(transform)).max() <= off_mm
    assert np.abs(moved(back) - PLACES).max() > 0.1


def test_a_text_file_is_read_too(tmp_path: Path) -> None:
    sitk.WriteTransform(affine(), str(tmp_path / "a.tfm"))
    assert np.allclose(moved(read_transform(tmp_path / "a.tfm", max_bytes=LIMIT)), moved(affine()))


def test_linear_transforms_are_written_in_the_form_that_every_program_reads(tmp_path: Path) -> None:
    assert b"AffineTransform_double_3_3" in write_transform(tmp_path, euler()).read_bytes()


def test_displacements_in_the_files_own_axes_are_turned_round(tmp_path: Path) -> None:
    """3D Slicer has written them so, by another code, since version 5.2.2."""
    content = bytearray(gzip.decompress(write_transform(tmp_path, field()).read_bytes()))
    vectors = np.frombuffer(content, "<f4", offset=352).reshape(3, -1).copy()
    vectors[:2] *= -1
    content[68:70], content[352:] = np.int16(1006).tobytes(), vectors.tobytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content))
    assert np.allclose(moved(read_transform(tmp_path / "a.nii.gz", max_bytes=LIMIT)), moved(field()), atol=1e-5)


def test_a_field_is_written_as_plain_vectors_which_no_version_of_itk_turns_round(tmp_path: Path) -> None:
    import nibabel

    write_transform(tmp_path, field())
    written = nibabel.load(tmp_path / "transform.nii.gz")
    assert int(written.header["intent_code"]) == 1007
    assert written.header.get_data_dtype() == np.float32
    vectors = sitk.GetArrayFromImage(sitk.DisplacementFieldTransform(field()).GetDisplacementField())
    assert np.array_equal(np.asarray(written.dataobj)[:, :, :, 0].transpose(2, 1, 0, 3), vectors)


def image(array: np.ndarray, path: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=array.shape[-1] == 3), str(path))
    return path


def no_number() -> sitk.Transform:
    transform = bspline()
    transform.SetParameters([float("nan")] * len(transform.GetParameters()))
    return transform


@pytest.mark.parametrize("name", ["a.h5", "a.mat", "a.tfm", "a.nii.gz"])
def test_bytes_that_are_no_transform_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"#Insight Transform File V1.0\n" + b"x" * 300)
    with pytest.raises(MalformedMessage, match=r"damaged, or of a kind"):
        read_transform(tmp_path / name, max_bytes=LIMIT)


def test_what_is_of_another_kind_is_refused(tmp_path: Path) -> None:
    wrong: list[tuple[Path, type[InferenceServerError], int]] = [
        (image(np.zeros((4, 4, 4)), tmp_path / "scalar.nii.gz"), MalformedMessage, LIMIT),
        (image(np.zeros((4, 4, 4, 4, 3)), tmp_path / "four.nii.gz"), MalformedMessage, LIMIT),
        (write_transform(tmp_path, field()), TooLarge, 10 * 11 * 12 * 24 - 1),
    ]
    for name, transform in {"flat.tfm": sitk.AffineTransform(2), "nan.h5": no_number()}.items():
        sitk.WriteTransform(transform, str(tmp_path / name))
        wrong.append((tmp_path / name, MalformedMessage, LIMIT))
    for path, error, limit in wrong:
        with pytest.raises(error) as caught:
            read_transform(path, max_bytes=limit)
        assert type(caught.value) is error, path.name
