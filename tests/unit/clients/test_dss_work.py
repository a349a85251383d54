"""What a ticket's files are to a model, and what its result is to the ticket."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nifti_files import affine, nifti, packed

from inference_server.clients.dss.bridge.work import result_workspace, work_of, write_case
from inference_server.errors import BadRequest
from inference_server.imaging.nifti import read_header
from inference_server.imaging.workspace import (
    Landmark,
    Layer,
    Role,
    SnapLabel,
    Workspace,
    read_workspace,
    write_workspace,
)

PICTURE = np.zeros((4, 5, 6), np.uint8)
TWO = {
    "channels": [
        {"name": "T1", "required": True},
        {"name": "T2", "required": True},
        {"name": "FLAIR", "required": False},
    ],
    "labels": {"1": {"name": "LESION", "color": [1, 2, 3]}},
}


def ticket(folder: Path, *layers: Layer, **more: Any) -> list[Path]:
    """Files of a ticket that was made far away."""
    folder.mkdir()
    for layer in layers:
        (folder / layer.file_name).write_bytes(packed(nifti(PICTURE, affine(np.eye(3)))))
    write_workspace(Workspace(layers, save_location="/far", **more), folder / "ticket_00000007.itksnap")
    return sorted(folder.iterdir())


def layer(name: str, role: str, *tags: str) -> Layer:
    return Layer(f"/far/{name}.nii.gz", role, tags)


def test_layers_are_channels_by_their_tags_in_the_models_order(tmp_path: Path) -> None:
    files = ticket(
        tmp_path / "in", layer("a", Role.MAIN, "t2", "gain=3"), layer("b", Role.OVERLAY, "T1"), layer("c", Role.OVERLAY)
    )
    work = work_of(files, {**TWO, "parameters": [{"name": "gain"}]})
    assert [path.name for path in work.images] == ["b.nii.gz", "a.nii.gz"]
    assert (work.parameters, work.points) == ({"gain": "3"}, {})


def test_landmarks_are_points_in_patient_coordinates(tmp_path: Path) -> None:
    main = layer("a", Role.MAIN, "T1")
    files = ticket(tmp_path / "in", main)
    grid = read_header(tmp_path / "in" / "a.nii.gz").geometry
    mark = Landmark.at("seed", (-100.0, -56.0, 14.0), grid)
    write_workspace(
        Workspace((main,), landmarks=(mark,), save_location="/far"), tmp_path / "in" / "ticket_00000007.itksnap"
    )
    model = {"channels": TWO["channels"][:1], "points": [{"name": "seed"}, {"name": "other"}]}
    [point] = work_of(files, model).points["seed"]
    np.testing.assert_allclose(point, mark.in_patient(grid))


def test_where_the_main_image_is_another_the_case_is_a_zip_that_says_so_the_same_every_time(tmp_path: Path) -> None:
    files = ticket(tmp_path / "in", layer("a", Role.MAIN), layer("b", Role.OVERLAY, "T1"))
    model = {"channels": TWO["channels"][:1], "points": []}
    work = work_of(files, model)
    assert work.grid == read_header(tmp_path / "in" / "a.nii.gz").raw
    marked = replace(work, points={"seed": ((1.0, 2.0, 3.0),)})
    for name in ("one.zip", "two.zip"):
        write_case(marked, tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as case:
        assert {member.date_time[0] for member in case.infolist()} == {1980}
        assert {name: case.read(name) for name in case.namelist()} == {
            "tmp_0000.nii.gz": (tmp_path / "in" / "b.nii.gz").read_bytes(),
            "points.json": b'{"seed": [[1.0, 2.0, 3.0]]}',
            "grid.hdr": work.grid,
        }
    plain = ticket(tmp_path / "plain", layer("a", Role.MAIN, "T1"), layer("b", Role.OVERLAY))
    assert work_of(plain, model).grid is None


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([layer("a", Role.MAIN, "T1")], "'T2'"),
        ([layer("a", Role.OVERLAY, "T1")], "main image"),
        ([layer("a", Role.MAIN, "T1"), layer("b", Role.MAIN, "T2")], "main image"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, layers: list[Layer], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        work_of(ticket(tmp_path / "in", *layers), TWO)


def test_a_file_that_did_not_come_and_a_path_elsewhere_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "secret.nii.gz").write_bytes(b"")
    files = ticket(tmp_path / "in", Layer(str(tmp_path / "secret.nii.gz"), Role.MAIN, ("T1",)))
    (tmp_path / "in" / "secret.nii.gz").unlink()
    with pytest.raises(BadRequest, match="did not come"):
        work_of([path for path in files if path.exists()], {"channels": TWO["channels"][:1]})


def test_segmentations_are_added_with_the_models_names_and_colours(tmp_path: Path) -> None:
    files = ticket(tmp_path / "in", layer("a", Role.MAIN, "T1"), layer("gone", Role.OVERLAY))
    (tmp_path / "in" / "gone.nii.gz").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "lesions.nii.gz").write_bytes(packed(nifti(PICTURE, affine(np.eye(3)))))
    (tmp_path / "out" / "lesions.json").write_text(json.dumps({"1": "LESION", "2": "new one"}))
    here = [path for path in files if path.exists()]
    result_workspace(here, sorted((tmp_path / "out").iterdir()), TWO, tmp_path / "results.itksnap")
    made = read_workspace(tmp_path / "results.itksnap")
    assert [made.path_of(each) for each in made.layers] == [
        tmp_path / "in" / "a.nii.gz",
        tmp_path / "out" / "lesions.nii.gz",
    ]
    assert [(each.role, each.nickname) for each in made.layers] == [(Role.MAIN, ""), (Role.SEGMENTATION, "lesions")]
    assert [(each.value, each.name, each.color) for each in made.labels] == [
        (1, "LESION", (1, 2, 3)),
        (2, "new one", (255, 0, 0)),
    ]
    assert isinstance(made.labels[0], SnapLabel)
