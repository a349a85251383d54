"""Workspaces of ITK-SNAP (`.itksnap`): layers, roles, tags, label tables and landmarks; usable without a server."""

from inference_server.imaging.workspace.labels import SnapLabel
from inference_server.imaging.workspace.landmarks import Landmark
from inference_server.imaging.workspace.layers import Layer, Role
from inference_server.imaging.workspace.registry import Folder
from inference_server.imaging.workspace.workspace import (
    Workspace,
    encode_workspace,
    read_workspace,
    write_workspace,
)

__all__ = [
    "Folder",
    "Landmark",
    "Layer",
    "Role",
    "SnapLabel",
    "Workspace",
    "encode_workspace",
    "read_workspace",
    "write_workspace",
]
