"""A workspace: what is in an `.itksnap` file, read and written without losing what it also holds."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from inference_server.imaging.workspace.labels import TABLE, SnapLabel, labels_of, with_labels
from inference_server.imaging.workspace.landmarks import ANNOTATIONS, Landmark, landmarks_of, with_landmarks
from inference_server.imaging.workspace.layers import ELEMENT, LAYERS, Layer, Role, element_of, layers_of
from inference_server.imaging.workspace.registry import Folder
from inference_server.imaging.workspace.xml import LIMIT_BYTES, decode_registry, encode_registry

ENDING = ".itksnap"
VERSION = "20250909"
_LOCATION = "SaveLocation"


@dataclass(frozen=True)
class Workspace:
    """Layers with their tags, the names and colours of labels, and landmarks.

    Attributes:
        layers: the main image first, if ITK-SNAP is to open it.
        labels: the label table, which ITK-SNAP keeps with the first layer.
        landmarks: the points that have names.
        save_location: the folder that it was saved in, as it stands in the file.
        version: of the format, a date.
        folder: the folder that it was read from, None where it came as bytes.
        other: all entries of the file; what stands above replaces those that it differs from.
    """

    layers: tuple[Layer, ...] = ()
    labels: tuple[SnapLabel, ...] = ()
    landmarks: tuple[Landmark, ...] = ()
    save_location: str = ""
    version: str = VERSION
    folder: Path | None = None
    other: Folder = field(default_factory=Folder, repr=False)

    @property
    def mains(self) -> tuple[Layer, ...]:
        """The layers that are main images; ITK-SNAP opens workspaces with exactly one."""
        return self.in_role(Role.MAIN)

    def in_role(self, role: str) -> tuple[Layer, ...]:
        """Return the layers of a role."""
        return tuple(layer for layer in self.layers if layer.role == role)

    def tagged(self, tag: str) -> tuple[Layer, ...]:
        """Return the layers that have a tag."""
        return tuple(layer for layer in self.layers if tag in layer.tags)

    def path_of(self, layer: Layer) -> Path:
        """Return where a layer's file is.

        The workspace may have been moved together with its images: where its path lies below the folder that it was
        saved in, and the same file lies below the one that it was read from, it is that; else the path as it stands.
        Do not use it for workspaces that others sent: they may name any file. `Layer.file_name` is safe.
        """
        if self.folder is not None and layer.path.startswith(self.save_location):
            rest = layer.path[len(self.save_location) :].replace("\\", "/").lstrip("/")
            moved = self.folder / rest
            if rest and moved.exists():
                return moved
        return Path(layer.path)

    def with_layer(self, layer: Layer) -> Workspace:
        """Return the same workspace with one layer more, the last."""
        return replace(self, layers=(*self.layers, layer))

    def flattened(self, location: str = ".") -> Workspace:
        """Return the same workspace with the files of all layers beside it, to be moved together with them."""
        moved = (replace(layer, path=f"{location}/{layer.file_name}") for layer in self.layers)
        return replace(self, layers=tuple(moved), save_location=location)


def read_workspace(source: Path | str | bytes) -> Workspace:
    """Read a workspace.

    Args:
        source: the path of the file, or its bytes.

    Raises:
        MalformedMessage: it is no workspace, or uses entities of XML.
        TooLarge: it is larger than any workspace.
        OSError: the file cannot be read.
    """
    if isinstance(source, bytes):
        return _workspace(decode_registry(source), None)
    path = Path(source)
    with path.open("rb") as file:
        content = file.read(LIMIT_BYTES + 1)
    return _workspace(decode_registry(content), Path(os.path.abspath(path)).parent)  # noqa: PTH100 - links stay


def encode_workspace(workspace: Workspace) -> bytes:
    """Return the bytes of a workspace's file. What a workspace held that is not known here is written as it was."""
    root = workspace.other.with_entry(_LOCATION, workspace.save_location).with_entry("Version", workspace.version)
    elements = [element_of(layer) for layer in workspace.layers]
    if elements:
        table = with_labels(elements[0].folder(TABLE), workspace.labels)
        elements[0] = elements[0].with_folder(TABLE, table) if table != Folder() else elements[0]
    root = root.with_folder(LAYERS, root.folder(LAYERS).with_elements(ELEMENT, elements))
    annotations = with_landmarks(root.folder(ANNOTATIONS), workspace.landmarks)
    return encode_registry(root if annotations == Folder() else root.with_folder(ANNOTATIONS, annotations))


def write_workspace(workspace: Workspace, path: Path | str) -> None:
    """Write a workspace to a file; the paths of its layers are written as they are."""
    Path(path).write_bytes(encode_workspace(workspace))


def _workspace(root: Folder, folder: Path | None) -> Workspace:
    layers = layers_of(root)
    return Workspace(
        layers=layers,
        labels=labels_of(layers[0].other.folder(TABLE)) if layers else (),
        landmarks=landmarks_of(root.folder(ANNOTATIONS)),
        save_location=root.get(_LOCATION),
        version=root.get("Version", VERSION),
        folder=folder,
        other=root,
    )
