"""The case of a ticket: a workspace and the images beside it, as the client uploaded them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inference_server.errors import BadRequest
from inference_server.imaging.nifti import NiftiHeader, read_header
from inference_server.imaging.workspace import Layer, Role, Workspace, read_workspace
from inference_server.imaging.workspace.services import (
    Wanted,
    landmarks_by_tag,
    layers_by_tag,
    main_of,
    parameters_of,
)
from inference_server.imaging.workspace.workspace import ENDING
from inference_server.models.manifest import Channel, Manifest
from inference_server.tasks.case_files.describe import at_field
from inference_server.tasks.case_zip import write_case

Files = Mapping[str, Path]
"""What was uploaded, by the bare names of the files."""


@dataclass(frozen=True)
class Sent:
    """A ticket's workspace and its files, of which each layer has one."""

    workspace: Workspace
    files: Files

    def file_of(self, layer: Layer) -> Path:
        """Return the file of a layer."""
        return self.files[layer.file_name]


def read_sent(files: Files) -> Sent:
    """Read the workspace of a ticket.

    Raises:
        BadRequest: there is no workspace or more than one, or a layer's file was not uploaded.
        MalformedMessage: what should be a workspace is something else.
    """
    return Sent(read_sent_workspace(files[workspace_name(files)], files), files)


def workspace_name(names: Iterable[str]) -> str:
    """Return which file of a ticket is its workspace.

    Raises:
        BadRequest: there is none, or more than one.
    """
    found = [name for name in names if name.lower().endswith(ENDING)]
    if len(found) != 1:
        came = f"{len(found)} came" if found else "none came"
        raise BadRequest(f"A ticket has one workspace, a file that ends in {ENDING}; {came}.", field="workspace")
    return found[0]


def read_sent_workspace(path: Path, names: Collection[str]) -> Workspace:
    """Read a workspace that came with files of these names.

    Layers of meshes are left out, because clients upload images only.

    Raises:
        BadRequest: a layer's file is not among them.
        MalformedMessage: what should be a workspace is something else.
    """
    workspace = replace(read_workspace(path), folder=None)
    kept = tuple(layer for layer in workspace.layers if layer.role != Role.MESH)
    _check_uploaded(kept, names)
    return _with_layers(workspace, kept)


def write_sent_case(target: Path, sent: Sent, manifest: Manifest) -> dict[str, Any]:
    """Write the case that a model gets as a zip, and return its parameters.

    Labels are wanted on the grid of the main image: ITK-SNAP opens segmentations of that size alone, and takes them to
    lie where it does. The zip of the same files is always the same, byte for byte.

    Raises:
        BadRequest: the workspace lacks a layer that the model needs, or has two for one; an image is none.
    """
    channels = manifest.channels
    layers = layers_by_tag(sent.workspace, [Wanted(channel.name, channel.required) for channel in channels])
    _check_gaps(channels, layers)
    images = [sent.file_of(layers[channel.name]) for channel in channels if channel.name in layers]
    main = _header_of_main(sent)
    names = [named.name for named in manifest.points]
    points = landmarks_by_tag(sent.workspace, names, main.geometry)
    is_first = images[0] == sent.file_of(main_of(sent.workspace))
    write_case(target, images, points=points, grid=None if is_first else main.raw)
    return dict(parameters_of(sent.workspace, {parameter.name for parameter in manifest.parameters}))


def _with_layers(workspace: Workspace, layers: tuple[Layer, ...]) -> Workspace:
    return workspace if layers == workspace.layers else replace(workspace, layers=layers)


def _check_uploaded(layers: tuple[Layer, ...], names: Collection[str]) -> None:
    for number, layer in enumerate(layers):
        if layer.file_name not in names:
            raise BadRequest(
                f"The workspace has a layer {number} whose image was not uploaded; upload all images of the workspace.",
                field="workspace",
            )


def _check_gaps(channels: tuple[Channel, ...], layers: Mapping[str, Layer]) -> None:
    """Images are told apart by their order: one can be left out only where no later one is there."""
    for before, after in itertools.pairwise(channels):
        if after.name in layers and before.name not in layers:
            raise BadRequest(
                f"The layer '{after.name}' can only be sent together with '{before.name}'.", field="workspace"
            )


def _header_of_main(sent: Sent) -> NiftiHeader:
    with at_field("workspace"):
        return read_header(sent.file_of(main_of(sent.workspace)))
