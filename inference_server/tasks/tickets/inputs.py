"""The case of a ticket: a workspace and the images beside it, as the client uploaded them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inference_server.errors import BadRequest
from inference_server.imaging.nifti import read_header
from inference_server.imaging.volume import Geometry
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

    Layers of meshes are left out, because clients upload images only.

    Raises:
        BadRequest: there is no workspace or more than one, or a layer's file was not uploaded.
        MalformedMessage: what should be a workspace is something else.
    """
    names = [name for name in files if name.lower().endswith(ENDING)]
    if len(names) != 1:
        came = f"{len(names)} came" if names else "none came"
        raise BadRequest(f"A ticket has one workspace, a file that ends in {ENDING}; {came}.", field="workspace")
    workspace = replace(read_workspace(files[names[0]]), folder=None)
    kept = tuple(layer for layer in workspace.layers if layer.role != Role.MESH)
    _check_uploaded(kept, files)
    return Sent(_with_layers(workspace, kept), files)


def write_sent_case(target: Path, sent: Sent, manifest: Manifest) -> dict[str, Any]:
    """Write the case that a model gets as a zip, and return its parameters.

    The zip of the same files is always the same, byte for byte.

    Raises:
        BadRequest: the workspace lacks a layer that the model needs, or has two for one; an image is none.
    """
    channels = manifest.channels
    layers = layers_by_tag(sent.workspace, [Wanted(channel.name, channel.required) for channel in channels])
    _check_gaps(channels, layers)
    images = [sent.file_of(layers[channel.name]) for channel in channels if channel.name in layers]
    names = [named.name for named in manifest.points]
    points = landmarks_by_tag(sent.workspace, names, _grid_of_main(sent)) if names else {}
    write_case(target, images, points=points)
    return dict(parameters_of(sent.workspace, {parameter.name for parameter in manifest.parameters}))


def _with_layers(workspace: Workspace, layers: tuple[Layer, ...]) -> Workspace:
    return workspace if layers == workspace.layers else replace(workspace, layers=layers)


def _check_uploaded(layers: tuple[Layer, ...], files: Files) -> None:
    for number, layer in enumerate(layers):
        if layer.file_name not in files:
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


def _grid_of_main(sent: Sent) -> Geometry:
    main = main_of(sent.workspace)
    with at_field("workspace"):
        return read_header(sent.file_of(main)).geometry
