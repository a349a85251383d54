"""A case that says on which grid its labels are wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from case_zips import LIMITS, image, model, zipped
from nifti_files import nifti, oblique

from inference_server.errors import MalformedMessage, TooLarge
from inference_server.tasks.case_zip import check_case, read_case, write_case

GRID = nifti(np.zeros((4, 3, 2), np.uint8), oblique(1))[:348]


def test_a_grid_goes_in_and_out_and_the_same_case_is_the_same_zip(tmp_path: Path) -> None:
    (tmp_path / "image.nii.gz").write_bytes(image())
    paths = [tmp_path / "one.zip", tmp_path / "two.zip"]
    for path in paths:
        write_case(path, [tmp_path / "image.nii.gz"], grid=GRID)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    check_case(paths[0], model(), LIMITS)
    case = read_case(paths[0], model(), LIMITS, parameters={})
    assert case.labels_grid is not None
    assert (case.labels_grid.raw, case.labels_grid.geometry.shape) == (GRID, (2, 3, 4))
    assert case.result_grid == case.labels_grid.geometry
    write_case(paths[1], [tmp_path / "image.nii.gz"])
    plain = read_case(paths[1], model(), LIMITS, parameters={})
    assert (plain.labels_grid, plain.result_grid) == (None, plain.reference.geometry)


def test_a_grid_that_is_none_or_too_large_is_refused_at_the_door(tmp_path: Path) -> None:
    files = {"tmp_0000.nii.gz": image(), "grid.hdr": GRID[:347]}
    with pytest.raises(MalformedMessage) as refused:
        check_case(zipped(tmp_path / "case.zip", files), model(), LIMITS)
    assert refused.value.field == "grid.hdr"
    huge = nifti(np.zeros((1, 1, 1), np.uint8), oblique(1), dim=[3, 30_000, 30_000, 30_000, 1, 1, 1, 1])[:348]
    with pytest.raises(TooLarge) as refused_size:
        check_case(zipped(tmp_path / "case.zip", {**files, "grid.hdr": huge}), model(), LIMITS)
    assert refused_size.value.field == "grid.hdr"
