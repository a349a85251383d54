"""The stand-ins refuse what MIM refuses; a demonstration with softer ones would show nothing."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import SimpleITK

from mim_extension.testing import mimpython
from mim_extension.testing.image_files import image_from_file
from mim_extension.testing.mim_objects import MimImage, MimSession, drawn_contours

# As protocols/mim.md lists them.
OFFERED = {
    "session": {"createLogger"},
    "logger": {"info", "error"},
    "image": {"getRawData", "getContours", "createNewContour", "getSpace", "getInfo"},
    "raw data": {"copyToNPArray"},
    "space": {"getNoxSize", "getDicomCenter", "getIop"},
    "info": {"getDicomInfo"},
    "DICOM info": {"getTags", "getValue"},
    "contour": {"getInfo", "getMultiplier", "getDims", "getData", "getSpace", "redrawCompletely", "delete"},
    "contour info": {"getName"},
    "contour data": {"setFromNPArray", "copyToNPArray"},
}


@pytest.fixture
def image() -> MimImage:
    return MimImage(np.zeros((2, 3, 4), dtype=np.int16), scaling_factor=(1, 2, 3))


def test_every_object_offers_what_mim_offers_and_nothing_else(image):
    session, contour = MimSession(), image.createNewContour("A")
    objects = {
        "session": session,
        "logger": session.createLogger(),
        "image": image,
        "raw data": image.getRawData(),
        "space": image.getSpace(),
        "info": image.getInfo(),
        "DICOM info": image.getInfo().getDicomInfo(),
        "contour": contour,
        "contour info": contour.getInfo(),
        "contour data": contour.getData(),
    }
    public = {name: {part for part in dir(thing) if part[0] != "_"} for name, thing in objects.items()}
    assert public == OFFERED


def test_a_contour_has_the_shape_of_the_image_times_the_multiplier(image):
    contour = image.createNewContour("A")
    assert contour.getMultiplier() == (1, 2, 3)
    assert contour.getDims() == contour.getData().copyToNPArray().shape == (2, 6, 12)


@pytest.mark.parametrize(
    "refused",
    [
        np.zeros((2, 3, 4), dtype=bool),
        np.zeros((2, 12, 6), dtype=bool),
        np.zeros((2, 6, 12), dtype=np.uint8),
        np.zeros((2, 6, 12, 1), dtype=bool),
        [[[True]]],
    ],
)
def test_an_array_of_another_shape_or_type_is_refused(refused, image):
    with pytest.raises(AssertionError):
        image.createNewContour("A").getData().setFromNPArray(refused)


def test_a_second_contour_of_the_same_name_is_refused(image):
    image.createNewContour("A")
    with pytest.raises(ValueError, match="exists"):
        image.createNewContour("A")


def test_a_deleted_contour_refuses_everything(image):
    contour = image.createNewContour("A")
    contour.delete()
    assert image.getContours() == []
    for call in (contour.getData, contour.getInfo, contour.redrawCompletely, contour.delete):
        with pytest.raises((RuntimeError, ValueError)):
            call()


def test_a_contour_that_was_not_redrawn_is_not_seen(image):
    contour = image.createNewContour("A")
    contour.getData().setFromNPArray(np.ones((2, 6, 12), dtype=bool))
    assert drawn_contours(image) == {}
    contour.redrawCompletely()
    assert drawn_contours(image)["A"].all()


def test_voxels_are_handed_out_as_copies(image):
    image.getRawData().copyToNPArray()[:] = 7
    assert not image.getRawData().copyToNPArray().any()


def test_an_image_file_keeps_its_voxels_and_geometry(tmp_path):
    source = SimpleITK.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    source.SetSpacing((0.5, 0.75, 2.0))
    source.SetOrigin((1.0, 2.0, 3.0))
    SimpleITK.WriteImage(source, str(tmp_path / "image.mha"))
    image = image_from_file(tmp_path / "image.mha", scaling_factor=(1, 1, 2))

    assert image.getRawData().copyToNPArray()[1, 2, 3] == 23
    assert image.getSpace().getNoxSize() == (0.5, 0.75, 2.0)
    assert image.getSpace().getDicomCenter() == (1.0, 2.0, 3.0)
    assert image.getSpace().getIop() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    contour = image.createNewContour("A")
    assert contour.getSpace().getNoxSize() == (0.25, 0.75, 2.0)
    assert contour.getSpace().getDicomCenter() == (0.875, 2.0, 3.0)


def test_an_entry_point_whose_types_mim_cannot_read_is_refused():
    declare = mimpython.mim_extension_entrypoint(
        name="X", author="a", description="d", category="c", institution="i", version=1.0
    )

    def with_text_annotations(uid: "String") -> None: ...  # noqa: F821, UP037

    def with_python_types(uid: str) -> None: ...

    for function in (with_text_annotations, with_python_types):
        with pytest.raises(TypeError, match="MIM does not know the type of uid"):
            declare(function)


def test_the_stand_in_comes_and_goes_and_never_hides_the_real_module(tmp_path, monkeypatch):
    assert "MIMPython" not in sys.modules
    mimpython.install()
    assert "MIMPython.EntryPoint" in sys.modules
    mimpython.uninstall()
    assert "MIMPython" not in sys.modules

    (tmp_path / "MIMPython.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RuntimeError, match="MIM's own Python"):
        mimpython.install()
