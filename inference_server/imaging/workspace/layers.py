"""Layers: the images and segmentations of a workspace."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from inference_server.imaging.workspace.registry import Folder
from inference_server.imaging.workspace.tags import join_tags, split_tags

LAYERS = "Layers"
ELEMENT = "Layer[{:03d}]"
_PATH, _ROLE, _TAGS, _NICKNAME = "AbsolutePath", "Role", "Tags", "LayerMetaData.CustomNickName"


class Role(StrEnum):
    """What a layer is. Other programs may write further ones."""

    MAIN = "MainRole"
    OVERLAY = "OverlayRole"
    SEGMENTATION = "SegmentationRole"
    MESH = "MeshRole"


@dataclass(frozen=True)
class Layer:
    """One image of a workspace.

    Attributes:
        path: of its file as it stands in the workspace; `Workspace.path_of` says where it is.
        role: one of `Role`, or what else stood there.
        tags: how services tell layers apart.
        nickname: shown in ITK-SNAP in the place of the file's name.
        other: the entries of the layer that are none of these.
    """

    path: str
    role: str = Role.OVERLAY
    tags: tuple[str, ...] = ()
    nickname: str = ""
    other: Folder = field(default_factory=Folder, repr=False)

    @property
    def file_name(self) -> str:
        """The last part of the path, whichever system wrote it."""
        return re.split(r"[/\\]", self.path)[-1]


def layers_of(root: Folder) -> tuple[Layer, ...]:
    """Return the layers of a workspace in their order."""
    return tuple(_layer(element) for element in root.folder(LAYERS).elements(ELEMENT))


def element_of(layer: Layer) -> Folder:
    """Return the folder of a layer; what it says already is left as it is written."""
    folder, was = layer.other, _layer(layer.other)
    for name, text, same in (
        (_PATH, layer.path, layer.path == was.path),
        (_ROLE, layer.role, layer.role == was.role),
        (_TAGS, join_tags(layer.tags), layer.tags == was.tags),
        (_NICKNAME, layer.nickname, layer.nickname == was.nickname),
    ):
        folder = folder if same else folder.with_entry(name, text)
    return folder


def _layer(element: Folder) -> Layer:
    return Layer(
        path=element.get(_PATH),
        role=element.get(_ROLE),
        tags=split_tags(element.get(_TAGS)),
        nickname=element.get(_NICKNAME),
        other=element,
    )
