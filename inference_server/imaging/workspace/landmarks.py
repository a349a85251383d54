"""Landmarks: the points with a name that users of ITK-SNAP place, among other annotations."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from inference_server.imaging.volume import Geometry, Vector
from inference_server.imaging.workspace.registry import Folder
from inference_server.imaging.workspace.tags import join_tags, split_tags

ANNOTATIONS = "Annotations"
"""The folder of the workspace."""
_LIST = "Annotations"
_COUNT = "ArraySize"
_ELEMENT = "Element[{}]"
_TYPE = "LandmarkAnnotation"
_FORMAT = {"Format": "ITK-SNAP Annotation File", "FormatDate": "20150624"}
_SHOWN = {"Selected": "0", "VisibleInAllSlices": "0", "VisibleInAllPlanes": "0", "Plane": "2", "Color": "1 0 0"}


@dataclass(frozen=True)
class Landmark:
    """A point with a name.

    Attributes:
        text: what the user wrote beside it.
        position: along x, y, z of the main layer's voxels, as ITK-SNAP counts: the first voxel reaches from 0 to 1, its
            centre is at 0.5.
        tags: how services tell landmarks apart.
        other: the entries of the annotation that are none of these.
    """

    text: str
    position: Vector
    tags: tuple[str, ...] = ()
    other: Folder = field(default_factory=Folder, repr=False)

    def in_patient(self, grid: Geometry) -> Vector:
        """Return where it is in LPS millimetres, given the grid of the main layer."""
        x, y, z, _ = grid.affine @ np.append(np.subtract(self.position, 0.5), 1.0)
        return float(x), float(y), float(z)

    @classmethod
    def at(cls, text: str, point: Vector, grid: Geometry, *, tags: tuple[str, ...] = ()) -> Landmark:
        """Return the landmark of a point in LPS millimetres, given the grid of the main layer."""
        x, y, z, _ = np.linalg.solve(grid.affine, np.append(point, 1.0)) + 0.5
        return cls(text, (float(x), float(y), float(z)), tags)


def landmarks_of(annotations: Folder) -> tuple[Landmark, ...]:
    """Return the landmarks among the annotations; those without a position are left out."""
    found = (_landmark(element) for element in _elements(annotations) if _is_landmark(element))
    return tuple(landmark for landmark in found if landmark is not None)


def with_landmarks(annotations: Folder, landmarks: tuple[Landmark, ...]) -> Folder:
    """Return annotations with these landmarks, the others as they were; if they are the same ones, the same folder."""
    if landmarks_of(annotations) == landmarks:
        return annotations
    kept = [element for element in _elements(annotations) if not _is_landmark(element)]
    elements = [*kept, *(_element(landmark) for landmark in landmarks)]
    listed = annotations.folder(_LIST).with_entry(_COUNT, str(len(elements))).with_elements(_ELEMENT, elements)
    return Folder({**annotations.entries, **_FORMAT}, annotations.folders).with_folder(_LIST, listed)


def _elements(annotations: Folder) -> tuple[Folder, ...]:
    return annotations.folder(_LIST).elements(_ELEMENT)


def _is_landmark(element: Folder) -> bool:
    return element.get("Type") == _TYPE


def _landmark(element: Folder) -> Landmark | None:
    position = element.numbers("Pos", 3)
    if position is None or not np.isfinite(position).all():
        return None
    x, y, z = position
    return Landmark(element.get("Text"), (x, y, z), split_tags(element.get("Tags")), element)


def _element(landmark: Landmark) -> Folder:
    said = {
        "Type": _TYPE,
        "Pos": " ".join(repr(value) for value in landmark.position),
        "Tags": join_tags(landmark.tags),
        "Text": landmark.text,
    }
    return Folder({**_SHOWN, "Offset": "5 5", **landmark.other.entries, **said}, landmark.other.folders)
