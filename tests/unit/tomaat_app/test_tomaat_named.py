"""Images and transforms that are names of files too."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from inference_server.tomaat_app.named import Named, named, names_understood


def picture(folder: Path) -> sitk.Image:
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    image.SetOrigin((1.5, -2.0, 0.25))
    return named(image, "0", lambda: folder)


def test_an_image_stays_one_and_is_written_once_its_name_is_wanted(tmp_path: Path) -> None:
    image = picture(tmp_path)
    assert isinstance(image, sitk.Image)
    assert sitk.GetArrayFromImage(image + 1).sum() == 60 * 59 // 2 + 60
    assert list(tmp_path.iterdir()) == []
    assert Path(image) == tmp_path / "0.mha"
    with open(image, "rb") as file:  # noqa: PTH123 - as scripts do
        assert file.read(10) == b"ObjectType"


def test_simpleitks_readers_take_the_name_and_are_as_before_afterwards(tmp_path: Path) -> None:
    image, before = picture(tmp_path), sitk.ReadImage
    turn = named(sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.5, 0.0, 0.25), "1", lambda: tmp_path)
    with names_understood():
        read = sitk.ReadImage(image, sitk.sitkFloat32)
        reader = sitk.ImageFileReader()
        reader.SetFileName(image)
        assert reader.Execute().GetOrigin() == read.GetOrigin() == (1.5, -2.0, 0.25)
        again = sitk.ReadTransform(turn)
        assert sitk.ReadImage(str(tmp_path / "0.mha")).GetSize() == (5, 4, 3)
    assert read.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(again.TransformPoint((4.0, 5.0, 6.0)), turn.TransformPoint((4.0, 5.0, 6.0)))
    assert sitk.ReadImage is before
    with pytest.raises(TypeError):
        sitk.ReadImage(image)


def test_a_field_of_vectors_is_a_file_that_nibabel_reads(tmp_path: Path) -> None:
    field = named(sitk.Image((2, 3, 4), sitk.sitkVectorFloat64), "2", lambda: tmp_path)
    assert nib.load(field).shape == (2, 3, 4, 1, 3)
    assert os.fspath(field) == str(tmp_path / "2.nii.gz")


def test_what_is_pickled_is_the_image_alone(tmp_path: Path) -> None:
    found = pickle.loads(pickle.dumps(picture(tmp_path)))
    assert type(found) is sitk.Image
    assert not isinstance(found, Named)
    assert found.GetOrigin() == (1.5, -2.0, 0.25)
