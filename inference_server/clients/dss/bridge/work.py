"""What a ticket's files are to a model, and what its result is to the ticket. Nothing here talks to a server."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inference_server.errors import BadRequest
from inference_server.imaging.nifti import read_header
from inference_server.imaging.volume import Geometry, Vector
from inference_server.imaging.workspace import Layer, SnapLabel, Workspace, read_workspace, write_workspace
from inference_server.imaging.workspace.services import (
    SegmentationFile,
    Wanted,
    landmarks_by_tag,
    layers_by_tag,
    main_of,
    parameters_of,
    tag_of,
    with_segmentations,
)

LABELS = ".nii.gz"
CLASSES = "classifications.csv"
_RED = (255, 0, 0)
_STEP_BYTES = 1 << 20


@dataclass(frozen=True)
class Work:
    """What a task is submitted with: images in the order of the model's channels, points (LPS, mm) and parameters.

    `grid` is the header of the main image, on whose grid labels are wanted, where it is not the first of the images.
    """

    images: tuple[Path, ...]
    points: Mapping[str, Sequence[Vector]]
    parameters: Mapping[str, str]
    grid: bytes | None = None


def work_of(files: Sequence[Path], model: Mapping[str, Any]) -> Work:
    """Find a model's inputs among a ticket's files.

    Args:
        files: the workspace and the images of its layers.
        model: the model's manifest, as the server tells it.

    Raises:
        BadRequest: there is no workspace, a layer that the model needs, or its file.
        MalformedMessage: the workspace, or the header of the main image, is damaged.
        InvalidVolume: the main image is not a valid one.
    """
    workspace = read_workspace(workspace_of(files))
    channels = model["channels"]
    layers = layers_by_tag(workspace, [Wanted(tag_of(each["name"]), each["required"]) for each in channels])
    if list(layers) != [tag_of(each["name"]) for each in channels[: len(layers)]]:
        raise BadRequest("An image that may be left out is missing, and a later one is there; please send both.")
    images = tuple(_file_of(layer, files) for layer in layers.values())
    known = [each["name"] for each in model.get("parameters", ())]
    main = _file_of(main_of(workspace), files)
    header = read_header(main)
    points = _points(workspace, header.geometry, model.get("points", ()))
    return Work(images, points, parameters_of(workspace, known), None if main == images[0] else header.raw)


def write_case(work: Work, target: Path) -> None:
    """Write a case as the one zip that holds all of it, to be submitted in the place of its images.

    The zip of the same case is always the same, byte for byte: a submission may have to be repeated.
    """
    points = {name: [list(point) for point in found] for name, found in work.points.items()}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for number, image in enumerate(work.images):
            member = zipfile.ZipInfo(f"tmp_{number:04d}{_ending(image)}")
            member.file_size = image.stat().st_size
            with image.open("rb") as source, archive.open(member, "w") as packed:
                shutil.copyfileobj(source, packed, _STEP_BYTES)
        if points:
            archive.writestr(zipfile.ZipInfo("points.json"), json.dumps(points))
        if work.grid is not None:
            archive.writestr(zipfile.ZipInfo("grid.hdr"), work.grid)


def workspace_of(files: Sequence[Path]) -> Path:
    """Return the workspace among a ticket's files.

    Raises:
        BadRequest: there is none, or more than one.
    """
    found = [path for path in files if path.name.lower().endswith(".itksnap")]
    if len(found) != 1:
        raise BadRequest(f"One workspace (.itksnap) was expected in the ticket; {len(found)} came.")
    return found[0]


def result_workspace(files: Sequence[Path], result: Sequence[Path], model: Mapping[str, Any], target: Path) -> None:
    """Write a workspace with a ticket's layers and a task's segmentations, without layers whose files did not come.

    Args:
        files: what the ticket came with.
        result: the files of the task's result.
        model: the model's manifest, for the colours of labels.
        target: where to; its layers are where `files` and `result` are.
    """
    given = read_workspace(workspace_of(files))
    by_name = {path.name: path for path in files}
    kept = tuple(layer for layer in given.layers if layer.file_name in by_name)
    labels = [path for path in result if path.name.endswith(LABELS)]
    made = [SegmentationFile(_stem(path), path.name, _snap_labels(path, model)) for path in labels]
    both = with_segmentations(replace(given, layers=kept), made)
    places = [*(by_name[layer.file_name] for layer in kept), *labels]
    layers = tuple(replace(layer, path=str(path)) for layer, path in zip(both.layers, places, strict=True))
    write_workspace(replace(both, layers=layers, save_location=""), target)


def _file_of(layer: Layer, files: Sequence[Path]) -> Path:
    """Return the file of a layer: by its name alone, whatever folder the workspace names."""
    for path in files:
        if path.name == layer.file_name:
            return path
    raise BadRequest("The file of a layer that the model needs did not come with the ticket.")


def _ending(image: Path) -> str:
    return LABELS if image.name.endswith(".gz") else image.suffix


def _points(workspace: Workspace, grid: Geometry, wanted: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Vector, ...]]:
    tags = {tag_of(each["name"]): each["name"] for each in wanted}
    return {tags[tag]: points for tag, points in landmarks_by_tag(workspace, tags, grid).items()}


def _stem(labels: Path) -> str:
    return labels.name.removesuffix(LABELS)


def _snap_labels(labels: Path, model: Mapping[str, Any]) -> tuple[SnapLabel, ...]:
    """Return the names of a label file's values, in the colours that the model has for them."""
    names = json.loads(labels.with_name(f"{_stem(labels)}.json").read_text())
    colors = {value: tuple(each["color"]) for value, each in model.get("labels", {}).items()}
    return tuple(SnapLabel(int(value), name, colors.get(value, _RED)) for value, name in names.items())
