"""The results of a ticket: its workspace with the segmentations that a model made, and all images beside it.

The images are those that the ticket came with, under the same keys: no voxel is copied.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from inference_server.imaging.archive import Archive
from inference_server.imaging.workspace import SnapLabel, Workspace, encode_workspace
from inference_server.imaging.workspace.services import SegmentationFile, with_segmentations
from inference_server.imaging.workspace.workspace import ENDING
from inference_server.models.bundle import default_color
from inference_server.models.manifest import LabelName
from inference_server.tasks.blobs import Blobs
from inference_server.tasks.blobs.staging import disk_errors
from inference_server.tasks.result_zip import names_of, open_result
from inference_server.tasks.tickets.record import TicketFile

LABELS = "labels"
_ENDING = ".nii.gz"
_STEP_BYTES = 1024**2
Labels = Mapping[int, LabelName]


@dataclass(frozen=True)
class Stored:
    """A file of the results that is stored already: its bare name, its blob, its size.

    `shared` tells whether it is also one that the ticket came with.
    """

    name: str
    key: str
    size_bytes: int
    shared: bool = False


def store_results(
    blobs: Blobs,
    ticket_id: int,
    workspace: Workspace,
    result: Path,
    contents: Sequence[Mapping[str, Any]],
    labels: Labels,
) -> tuple[Stored, ...]:
    """Store the segmentations, and the workspace with them added.

    If anything is raised, nothing stays behind.

    Args:
        blobs: where they are stored.
        ticket_id: names the workspace.
        workspace: what the ticket came with.
        result: the zip of the task's result.
        contents: what its members are, as its report says.
        labels: of the model, for their colours.

    Raises:
        MalformedMessage: the result is damaged.
        StorageFull, StoreUnavailable: there is no room, or the file storage does not answer.
    """
    stored: list[Stored] = []
    with _all_or_nothing(blobs, stored), open_result(result) as archive:
        taken = {layer.file_name.casefold() for layer in workspace.layers}
        made = []
        for said in contents:
            if said["kind"] != LABELS:
                continue
            name = _unused(said["member"], taken)
            with archive.open(said["member"]) as member:
                stored.append(_stored(blobs, name, member))
            made.append(SegmentationFile(said["name"], name, _labels(archive, said["member"], labels)))
        stored.append(_workspace(blobs, ticket_id, with_segmentations(workspace, made)))
    return tuple(stored)


def shared_images(workspace: Workspace, files: Iterable[TicketFile]) -> tuple[Stored, ...]:
    """Return the images of a ticket's layers, among the files that it came with, as results."""
    names = {layer.file_name for layer in workspace.layers}
    return tuple(Stored(file.name, file.blob, file.size_bytes, shared=True) for file in files if file.name in names)


def drop_results(blobs: Blobs, stored: Sequence[Stored]) -> None:
    """Remove results that will not be used; the ticket keeps what it came with."""
    for one in stored:
        if not one.shared:
            blobs.delete(one.key)


@contextmanager
def _all_or_nothing(blobs: Blobs, stored: Sequence[Stored]) -> Iterator[None]:
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            drop_results(blobs, stored)


def _workspace(blobs: Blobs, ticket_id: int, workspace: Workspace) -> Stored:
    content = io.BytesIO(encode_workspace(workspace))
    return _stored(blobs, f"ticket_{ticket_id:08d}_results{ENDING}", content)


def _stored(blobs: Blobs, name: str, source: BinaryIO) -> Stored:
    staged = blobs.stage()
    try:
        with disk_errors(), staged.open("wb") as target:
            shutil.copyfileobj(source, target, _STEP_BYTES)
        size_bytes = staged.stat().st_size
        return Stored(name, blobs.put(staged), size_bytes)
    finally:
        blobs.discard(staged)


def _labels(archive: Archive, member: str, known: Labels) -> tuple[SnapLabel, ...]:
    named = sorted(names_of(archive, member).items())
    return tuple(SnapLabel(value, name, _color(value, known)) for value, name in named if value > 0)


def _color(value: int, known: Labels) -> tuple[int, int, int]:
    """Return the colour that the model declares, or else one that differs from those of its other labels."""
    label = known.get(value)
    declared = label is not None and "color" in label.model_fields_set
    return label.color if label is not None and declared else default_color(value)


def _unused(name: str, taken: set[str]) -> str:
    """Return a file's name that no layer has, where upper and lower case are the same."""
    unused, number = name, 2
    while unused.casefold() in taken:
        unused, number = f"{name.removesuffix(_ENDING)}_{number}{_ENDING}", number + 1
    taken.add(unused.casefold())
    return unused
