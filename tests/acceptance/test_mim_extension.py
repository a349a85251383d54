"""What a user of MIM does, through the extension's own entry points, against the running server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from served import bright_box

from inference_server.imaging.metrics import dice
from inference_server.stack.launch import LaunchedServer
from mim_extension.testing import mimpython
from mim_extension.testing.image_files import image_from_file
from mim_extension.testing.mim_objects import MimImage, MimSession, drawn_contours, logged


@pytest.fixture(scope="module")
def ext() -> Iterator[ModuleType]:
    mimpython.install()
    from mim_extension import ext as entry_points

    yield entry_points
    mimpython.uninstall()


def segment(ext: ModuleType, image: MimImage, model: str, url: str) -> MimSession:
    session = MimSession()
    uid = ext.InferenceServer1images(session, image, model, 0, 0, "", url)
    assert uid, logged(session)
    ext.InferenceServerGetFromUid(session, uid, image, url, 1, 120)
    return session


@pytest.mark.parametrize("factor", [(1, 1, 1), (1, 2, 2), (2, 1, 2)])
def test_contours_lie_exactly_on_mims_finer_grid(
    ext: ModuleType, server: LaunchedServer, factor: tuple[int, int, int]
) -> None:
    image = MimImage(bright_box(), spacing=(0.9, 1.1, 3.0), origin=(-7.0, 5.0, 40.0), scaling_factor=factor)
    session = segment(ext, image, "bright", server.url)
    expected = bright_box() > 100
    for axis, times in enumerate(factor):
        expected = np.repeat(expected, times, axis)
    assert logged(session, "error") == []
    np.testing.assert_array_equal(drawn_contours(image)["BRIGHT"], expected)


def test_an_unknown_model_is_explained_in_mims_log(ext: ModuleType, server: LaunchedServer) -> None:
    session = MimSession()
    assert ext.InferenceServer1images(session, MimImage(bright_box()), "x", 0, 0, "", server.url) == ""
    [error] = logged(session, "error")
    assert "does not know the model 'x'" in error
    assert "bright" in error


def test_a_wrong_number_of_images_is_explained_in_mims_log(ext: ModuleType, server: LaunchedServer) -> None:
    session, image = MimSession(), MimImage(bright_box())
    assert ext.InferenceServer2images(session, image, image, "bright", 0, 0, "", server.url) == ""
    assert len(logged(session, "error")) == 1


def test_exported_contours_and_dicom_values_are_taken(ext: ModuleType, server: LaunchedServer) -> None:
    image = MimImage(bright_box(), dicom_info={0x00100010: "Somebody^Secret", 0x00080060: "CT"})
    contour = image.createNewContour("Secret's tumour")
    contour.getData().setFromNPArray(np.ones(contour.getDims(), dtype=bool))
    session = MimSession()
    uid = ext.InferenceServer1images(session, image, "bright", 1, 1, "", server.url)
    ext.InferenceServerGetFromUid(session, uid, image, server.url, 1, 120)
    assert logged(session, "error") == []
    assert "BRIGHT" in drawn_contours(image)


def test_a_real_chest_ct_comes_back_with_body_and_lungs(
    ext: ModuleType, server: LaunchedServer, real_data: Path
) -> None:
    image = image_from_file(real_data / "ct" / "chest_lidc0001_512x512x16.nii.gz", scaling_factor=(1, 1, 1))
    session = segment(ext, image, "ct-body", server.url)
    contours = drawn_contours(image)
    assert logged(session, "error") == []
    hu = image.getRawData().copyToNPArray()
    assert set(contours) == {"BODY", "LUNGS", "BONE"}
    # Half of this slab is lung: dark within the body, and nothing bright.
    assert dice(contours["LUNGS"], contours["LUNGS"] & (hu < -200)) > 0.9
    assert (hu[contours["BONE"]] > 100).mean() > 0.7
    assert (contours["BODY"] & contours["LUNGS"]).sum() > 0.9 * contours["LUNGS"].sum()
