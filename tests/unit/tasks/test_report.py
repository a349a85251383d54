"""What a report says of a result, and what of it is shown to whom."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
from door_support import queued_task

from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.case import Report, Result, Segmentation
from inference_server.models.manifest import LabelName
from inference_server.tasks.report import report_of
from inference_server.tasks.result_zip import Content
from inference_server.tasks.results import FINDINGS, without_findings

GRID = Geometry((4, 3, 2), (0.1 + 0.2, 1 / 3, 2.5), (-1 / 3, 2, 3), (0, 1, 0, -1, 0, 0, 0, 0, 1))
NAMES = {1: LabelName(name="GTV"), 2: LabelName(name="Cord"), 3: LabelName(name="GTV"), 300: LabelName(name="Nothing")}
CONTENTS = (Content("labels", "organs", "organs.nii.gz"), Content("mesh", "organs", "meshes/organs GTV.vtk", "GTV"))


def segmentation() -> Segmentation:
    labels = np.zeros(GRID.shape, np.uint16)
    labels[0], labels[1, 0], labels[1, 1] = 1, 2, 3
    return Segmentation("organs", Volume(labels, GRID), NAMES)


def report(result: Result, *, outputs: tuple[str, ...] = (), grid: Geometry | None = GRID) -> dict[str, Any]:
    return report_of(result, grid, CONTENTS, outputs, {"reading": 1.5})


def test_all_that_a_report_says_of_a_result_is_a_finding() -> None:
    members = {"first": {"a": 0.25}, "second": {"a": 0.75}}
    result = Result((segmentation(),), {"a": 0.5}, {"t": "x"}, points={"p": np.ones((1, 3))}, members=members)
    found = report(result, outputs=("volumes",))
    assert set(found) - set(asdict(Report())) - {"grid"} == set(FINDINGS)
    assert found["points"] == {"p": [[1.0, 1.0, 1.0]]}
    assert found["members"] == members
    task = replace(queued_task(), report=found)
    shown = without_findings(task).report
    assert shown == {**asdict(Report()), "timings_s": {"reading": 1.5}, "grid": found["grid"]}
    assert set(task.report) > set(FINDINGS)


def test_the_grid_stands_there_to_the_last_digit() -> None:
    grid = report(Result())["grid"]
    assert grid == {
        "size": [2, 3, 4],
        "spacing": [0.30000000000000004, 1 / 3, 2.5],
        "origin": [-1 / 3, 2, 3],
        "direction": [0, 1, 0, -1, 0, 0, 0, 0, 1],
    }
    assert "grid" not in report(Result(), grid=None)


def test_volumes_are_made_where_they_are_asked_for_and_count_labels_of_one_name_together() -> None:
    assert "volumes_cc" not in report(Result((segmentation(),)), outputs=("meshes",))
    found = report(Result((segmentation(),)), outputs=("volumes",))["volumes_cc"]
    voxel_cc = 0.25 / 1000
    assert {name: round(value / voxel_cc, 6) for name, value in found["organs"].items()} == {
        "GTV": 6 + 2, "Cord": 2, "Nothing": 0,
    }  # fmt: skip


def test_contents_name_a_label_where_there_is_one() -> None:
    assert report(Result())["contents"] == [
        {"kind": "labels", "name": "organs", "member": "organs.nii.gz"},
        {"kind": "mesh", "name": "organs", "member": "meshes/organs GTV.vtk", "label": "GTV"},
    ]
