"""The extension and the server, which share no code, understand each other's zips."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mim_extension.contour_loader import ContourLoader
from mim_extension.task_input import TaskInput
from mim_extension.task_output import TaskOutput
from mim_extension.testing.mim_objects import MimImage, MimSession, drawn_contours

if sys.version_info < (3, 11):  # noqa: UP036 - the extension itself is tested on 3.8 too
    pytest.skip("the server needs Python 3.11", allow_module_level=True)

from inference_server.imaging.volume import Volume
from inference_server.models.case import Result, Segmentation
from inference_server.models.manifest import Channel, LabelName, Manifest
from inference_server.settings import Settings
from inference_server.tasks.case_zip import check_case, read_case
from inference_server.tasks.result_zip import write_result

MANIFEST = Manifest(id="two", channels=(Channel(name="ct"), Channel(name="pet")))
SPACING, ORIGIN = (0.1 + 0.2, 1.1, 3.0), (-123.456789012345, 1e-3, 55.5)
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def make_image(value: int, modality: str) -> MimImage:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4) + value
    return MimImage(array, spacing=SPACING, origin=ORIGIN, direction=OBLIQUE, dicom_info={0x00080060: modality})


@pytest.fixture
def images() -> list[MimImage]:
    return [make_image(0, "CT"), make_image(100, "PT")]


def draw(image: MimImage, name: str) -> np.ndarray:
    contour = image.createNewContour(name)
    mask = np.random.default_rng(3).random(contour.getDims()) > 0.5
    contour.getData().setFromNPArray(mask)
    return mask


def test_the_server_reads_all_that_the_extension_writes(images):
    mask = draw(images[0], "GTVt")
    task_input = TaskInput("two", images, export_dicom_info=True, contour_names=[])
    with task_input.as_zip() as path:
        check_case(path, MANIFEST, Settings())
        case = read_case(path, MANIFEST, Settings(), parameters={})

    for name, image in zip(("ct", "pet"), images, strict=True):
        geometry = case.channels[name].geometry
        assert np.array_equal(case.channels[name].array, image.getRawData().copyToNPArray())
        assert (geometry.spacing_mm, geometry.origin_mm, geometry.direction) == (SPACING, ORIGIN, OBLIQUE)
    assert case.scaling_factor == (1, 2, 2)
    assert case.assumed == ()
    assert case.dicom_tags == {"ct": {0x00080060: "CT"}, "pet": {0x00080060: "PT"}}
    assert list(case.contours) == ["GTVt"]
    assert np.array_equal(case.contours["GTVt"].array, mask)


def test_the_server_and_mim_agree_where_the_contour_grid_lies(images):
    draw(images[0], "GTVt")
    space = images[0].getContours()[0].getSpace()
    with TaskInput("two", images, contour_names=["GTVt"]).as_zip() as path:
        grid = read_case(path, MANIFEST, Settings(), parameters={}).contours["GTVt"].geometry

    assert grid.spacing_mm == pytest.approx(space.getNoxSize())
    assert grid.origin_mm == pytest.approx(space.getDicomCenter())
    assert grid.direction == space.getIop()


def test_the_extension_draws_all_that_the_server_writes(images, tmp_path: Path):
    with TaskInput("two", images).as_zip() as path:
        case = read_case(path, MANIFEST, Settings(), parameters={})
    grid = case.reference.geometry.refined(case.scaling_factor)
    labels = np.random.default_rng(4).integers(0, 3, grid.shape).astype(np.uint8)
    body = Segmentation("body", Volume(np.ones_like(labels), grid), {1: LabelName(name="BODY")})
    organs = Segmentation("organs", Volume(labels, grid), {1: LabelName(name="Lung"), 2: LabelName(name="Os/sacrum")})
    write_result(tmp_path / "result.zip", Result(segmentations=(body, organs)))

    output = TaskOutput(tmp_path / "result.zip")
    ContourLoader(images[0], MimSession().createLogger()).set_contours(output.label_arrays())
    contours = drawn_contours(images[0])
    assert sorted(contours) == ["BODY", "Lung", "Os/sacrum"]
    assert contours["BODY"].all()
    assert np.array_equal(contours["Lung"], labels == 1)
    assert np.array_equal(contours["Os/sacrum"], labels == 2)
