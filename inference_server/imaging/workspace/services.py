"""What a segmentation service takes of a workspace, and the workspace that it gives back.

Tags say which layer is which input: those of a layer, or of a landmark. Values of parameters stand in the entries
``Parameters.NAME``, or in tags ``NAME=VALUE`` of any layer, since ITK-SNAP and its tools write tags only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from inference_server.errors import BadRequest
from inference_server.imaging.volume import Geometry, Vector
from inference_server.imaging.workspace.labels import SnapLabel
from inference_server.imaging.workspace.layers import Layer, Role
from inference_server.imaging.workspace.workspace import Workspace

PARAMETERS = "Parameters"
_AND = " / "


@dataclass(frozen=True)
class Wanted:
    """An input of a service, by the tag of its layer."""

    tag: str
    required: bool = True


@dataclass(frozen=True)
class SegmentationFile:
    """A segmentation that a service made: its name, the bare name of its NIfTI file, and what its values mean."""

    name: str
    file_name: str
    labels: tuple[SnapLabel, ...] = ()


def tag_of(name: str) -> str:
    """Return the tag of an input: its name, in which blanks stand for the commas that part tags."""
    return " ".join(name.replace(",", " ").split())


def main_of(workspace: Workspace) -> Layer:
    """Return the main image, whose grid landmarks are counted on.

    Raises:
        BadRequest: there is none, or more than one.
    """
    if len(workspace.mains) > 1:
        raise BadRequest(f"The workspace has {len(workspace.mains)} main images; one was expected.", field="workspace")
    if not workspace.mains:
        raise BadRequest("The workspace has no main image; one was expected.", field="workspace")
    return workspace.mains[0]


def layers_by_tag(workspace: Workspace, wanted: Sequence[Wanted]) -> dict[str, Layer]:
    """Return which layer is which input, in the order of `wanted`; inputs that are not there are left out.

    Tags are compared without regard to upper and lower case. Where a service needs one image only and no layer has its
    tag, the main image is taken.

    Raises:
        BadRequest: the layer of a required input is missing, two layers have the tag of one input, or there is no main
            image or more than one.
    """
    main = main_of(workspace)
    found = {one.tag: layers[0] for one in wanted if (layers := _tagged(workspace, one.tag))}
    required = [one.tag for one in wanted if one.required] or [one.tag for one in wanted[:1]]
    if len(required) == 1 and required[0] not in found and main not in found.values():
        found[required[0]] = main
    missing = next((tag for tag in required if tag not in found), None)
    if missing is not None:
        raise BadRequest(
            f"No layer of the workspace has the tag '{missing[:50]}', which this service needs. "
            f"Tags of its layers: {_tags(workspace)}.",
            field="workspace",
        )
    return {one.tag: found[one.tag] for one in wanted if one.tag in found}


def landmarks_by_tag(workspace: Workspace, tags: Iterable[str], grid: Geometry) -> dict[str, tuple[Vector, ...]]:
    """Return points in LPS millimetres by the tags that landmarks have, or else by their texts.

    Args:
        workspace: where they were placed.
        tags: of the inputs; those that no landmark has are left out.
        grid: of the main image.
    """
    found = {}
    for tag in tags:
        tagged = [mark for mark in workspace.landmarks if _same(tag, *mark.tags)]
        marks = tagged or [mark for mark in workspace.landmarks if _same(tag, mark.text)]
        if marks:
            found[tag] = tuple(mark.in_patient(grid) for mark in marks)
    return found


def parameters_of(workspace: Workspace, known: Collection[str]) -> dict[str, str]:
    """Return the values of parameters as they stand in the workspace; entries win over tags.

    Args:
        workspace: where they stand.
        known: names of parameters; tags of other names mean something else.
    """
    pairs = (tag.partition("=") for layer in workspace.layers for tag in layer.tags)
    tagged = {name: value.strip() for text, _, value in pairs if (name := text.strip()) in known}
    return {**tagged, **workspace.other.folder(PARAMETERS).entries}


def with_segmentations(workspace: Workspace, made: Sequence[SegmentationFile]) -> Workspace:
    """Return a workspace with segmentations added, all files lying beside it.

    Each becomes a layer that has its name as nickname and as tag. The label table gets their names and colours in the
    place of what it said of these values before; a value that means different things has all names.
    """
    layers = [
        Layer(one.file_name, Role.SEGMENTATION, tuple(filter(None, [tag_of(one.name)])), one.name) for one in made
    ]
    table = {label.value: label for label in workspace.labels}
    table.update(_merged(label for one in made for label in one.labels))
    labels = tuple(table[value] for value in sorted(table))
    return replace(workspace, layers=(*workspace.layers, *layers), labels=labels).flattened()


def _tagged(workspace: Workspace, tag: str) -> list[Layer]:
    layers = [layer for layer in workspace.layers if _same(tag, *layer.tags)]
    if len(layers) > 1:
        raise BadRequest(
            f"{len(layers)} layers of the workspace have the tag '{tag[:50]}'; one was expected.", field="workspace"
        )
    return layers


def _same(tag: str, *others: str) -> bool:
    return tag_of(tag).casefold() in (tag_of(other).casefold() for other in others)


def _tags(workspace: Workspace) -> str:
    tags = dict.fromkeys(tag[:50] for layer in workspace.layers for tag in layer.tags)
    return ", ".join([*tags][:20]) or "none"


def _merged(labels: Iterable[SnapLabel]) -> dict[int, SnapLabel]:
    table: dict[int, SnapLabel] = {}
    for label in labels:
        first = table.setdefault(label.value, label)
        if label.name not in first.name.split(_AND):
            table[label.value] = replace(first, name=f"{first.name}{_AND}{label.name}")
    return table
