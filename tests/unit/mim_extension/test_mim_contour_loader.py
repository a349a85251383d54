"""Drawing on the reference image, through stand-ins that refuse what MIM refuses."""

from __future__ import annotations

import numpy as np
import pytest

from mim_extension.contour_loader import ContourLoader
from mim_extension.errors import OutputError
from mim_extension.testing.mim_objects import MimImage, MimSession, drawn_contours, logged

SHAPE = (2, 6, 8)


@pytest.fixture
def image() -> MimImage:
    return MimImage(np.zeros((2, 3, 4), dtype=np.int16), scaling_factor=(1, 2, 2))


@pytest.fixture
def session() -> MimSession:
    return MimSession()


def mask(*voxels: tuple[int, int, int]) -> np.ndarray:
    array = np.zeros(SHAPE, dtype=bool)
    for voxel in voxels:
        array[voxel] = True
    return array


def test_structures_become_contours_that_are_redrawn(image, session):
    structures = {"GTVt": mask((0, 1, 2)), "Lung": mask((1, 5, 7), (0, 0, 0))}
    drawn = ContourLoader(image, session.createLogger()).set_contours_from_label_array_dict(structures)

    assert drawn == ["GTVt", "Lung"]
    contours = drawn_contours(image)
    assert list(contours) == ["GTVt", "Lung"]
    assert all(np.array_equal(contours[name], structures[name]) for name in structures)


def test_a_contour_of_the_same_name_is_reused_and_others_are_left_alone(image, session):
    image.createNewContour("GTVt").getData().setFromNPArray(mask((0, 0, 0)))
    other = image.createNewContour("Heart")
    other.getData().setFromNPArray(mask((1, 1, 1)))
    other.redrawCompletely()
    ContourLoader(image, session.createLogger()).set_contours_from_label_array_dict({"GTVt": mask((0, 1, 2))})

    contours = drawn_contours(image)
    assert np.argwhere(contours["GTVt"]).tolist() == [[0, 1, 2]]
    assert np.argwhere(contours["Heart"]).tolist() == [[1, 1, 1]]
    assert "The contour 'GTVt' was there and is replaced." in logged(session)


@pytest.mark.parametrize("wrong", [np.zeros((2, 3, 4), dtype=bool), np.zeros(SHAPE, dtype=np.uint8)])
def test_what_mim_refuses_is_said_in_a_sentence_and_leaves_no_empty_contour(wrong, image, session):
    with pytest.raises(OutputError, match=r"MIM does not take the structure 'GTVt'.*image zero"):
        ContourLoader(image, session.createLogger()).set_contours_from_label_array_dict({"GTVt": wrong})
    assert image.getContours() == []


def test_a_refused_array_leaves_the_contour_that_was_there(image, session):
    contour = image.createNewContour("GTVt")
    contour.getData().setFromNPArray(mask((0, 0, 0)))
    contour.redrawCompletely()
    with pytest.raises(OutputError):
        ContourLoader(image, session.createLogger()).set_contours([("GTVt", np.zeros((1, 1, 1), dtype=bool))])
    assert np.argwhere(drawn_contours(image)["GTVt"]).tolist() == [[0, 0, 0]]


def test_an_empty_structure_is_drawn_and_said_to_be_empty(image, session):
    ContourLoader(image, session.createLogger()).set_contours([("Spleen", mask())])
    assert list(drawn_contours(image)) == ["Spleen"]
    assert logged(session, "info") == ["The structure 'Spleen' is empty: the model found none."]
