"""What the tests of the TOMAAT door share: MHA files written by hand, forms as clients send them, finished tasks."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from door_support import Doors, Hands, part
from hypothesis import strategies as st
from mha_files import HEADER
from numpy.typing import NDArray

from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.case import Result, Segmentation
from inference_server.models.manifest import LabelName
from inference_server.tasks.caller import LOCAL
from inference_server.tasks.report import report_of
from inference_server.tasks.result_zip import write_result
from inference_server.tasks.store import TaskFilter

SPACING = (0.7, 0.9, 2.5)
ORIGIN = (-100.30000000000001, 20.1, 7.7)
COS, SIN = 0.8, 0.6
DIRECTION = (COS, -SIN, 0.0, SIN, COS, 0.0, 0.0, 0.0, 1.0)
"""Rows of the matrix whose columns are the directions of x, y and z: a turn about the third axis."""
SHAPE = (3, 4, 5)
GRID = Geometry(SHAPE, SPACING, ORIGIN, DIRECTION)


def voxels(shape: Sequence[int] = SHAPE) -> NDArray[np.int16]:
    """Return an image in which every voxel is another."""
    return np.arange(np.prod(shape), dtype="<i2").reshape(shape)


def mha(header: str = HEADER) -> bytes:
    """Return an MHA file as ITK writes it."""
    return header.encode() + voxels().tobytes()


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return bytes that were cut off, in which a bit was turned, or that hold more than they should."""
    body = bytearray(whole)
    at = draw(st.integers(0, len(body) - 1))
    match draw(st.sampled_from(["cut", "flip", "inflate"])):
        case "cut":
            del body[at:]
        case "flip":
            body[at] ^= 1 << draw(st.integers(0, 7))
        case _:
            body[at:at] = draw(st.binary(min_size=4, max_size=8)) * 50
    return bytes(body)


def in_lines(content: bytes) -> bytes:
    """Return base64 as Slicer writes it: lines of 76 signs."""
    return base64.encodebytes(content)


def volume_part(name: str = "image", content: bytes | None = None) -> bytes:
    """Return a volume's part of a form as the newer Slicer extension sends it: a plain field."""
    return part(name, in_lines(mha()) if content is None else content)


VERSION = part("module_version", "Slicer-v2")


def labels() -> NDArray[np.uint8]:
    """Return labels 1 and 2 on the grid of `mha`."""
    made = np.zeros(SHAPE, np.uint8)
    made[1, 1:3, 1:4], made[2, 0, 0] = 1, 2
    return made


NAMES = {1: LabelName(name="LIVER"), 2: LabelName(name="SPLEEN")}


def result(*names: str, grid: Geometry = GRID, **more: Any) -> Result:
    """Return a result with segmentations of these names."""
    return Result(tuple(Segmentation(name, Volume(labels(), grid), NAMES) for name in names or ("organs",)), **more)


def finish(hands: Hands, given: Result | None = None, outputs: Sequence[str] = ()) -> None:
    """End the next task as a worker does."""
    found = result() if given is None else given
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "result.zip")
        contents = write_result(path, found)
        hands.finish(hands.claim(), path.read_bytes(), report_of(found, GRID, contents, outputs, {}))


def element(answer: Any) -> Mapping[str, str]:
    """Return the one element of an answer."""
    [found] = answer.json
    return dict(found)


def error(answer: Any) -> str:
    """Return the sentence of an answer that says what went wrong."""
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    found = element(answer)
    assert (found["type"], found["label"], set(found)) == ("PlainText", "Error!", {"type", "content", "label"})
    return found["content"]


def without_tasks(doors: Doors) -> Doors:
    """Remove every task with its data."""
    for task in doors.store.page(TaskFilter(), limit=200).tasks:
        doors.tasks.delete(task.uid, LOCAL)
    return doors


def only_task(doors: Doors) -> Any:
    """Return the one task there is."""
    [found] = doors.store.page(TaskFilter()).tasks
    return found
