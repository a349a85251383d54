"""The points and transforms of a case's zip: are they those that the model takes, as far as first bytes tell?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import BadRequest, MalformedMessage, TooLarge
from inference_server.imaging.archive import Archive
from inference_server.imaging.sizes import size_text
from inference_server.models.manifest import Manifest, NamedInput
from inference_server.settings import Settings
from inference_server.tasks.case_files.meta import decode_object, is_number
from inference_server.tasks.case_files.names import POINTS, TRANSFORMS, Members

POINTS_LIMIT_BYTES = 4 * 1024**2
MAGICS = {
    "nii.gz": (b"\x1f\x8b",),
    "h5": (b"\x89HDF\r\n\x1a\n",),
    "mat": (bytes(4), b"\x0a\0\0\0", b"\0\0\x03\xe8", b"\0\0\x03\xf2"),
    "tfm": (b"#Insight Transform File",),
}
"""What files of transforms end in and begin with. Those of MATLAB begin with a number: double or single precision, in
either byte order."""

Points = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class TransformFile:
    """One transform: its name in the manifest, and its member."""

    name: str
    member: str

    @property
    def ending(self) -> str:
        """`nii.gz`, `h5`, `mat` or `tfm`."""
        return self.member.removeprefix(f"{TRANSFORMS}/{self.name}.")


def named_points(archive: Archive, members: Members, manifest: Manifest) -> Points:
    """Return the points of a case by name, (N, 3) in LPS mm.

    Raises:
        BadRequest: they are not those that the model takes.
        MalformedMessage: they are no points.
        TooLarge: there are more of them than anybody places.
    """
    content = archive.read(POINTS, POINTS_LIMIT_BYTES) if members.has_points else b"{}"
    points = decode_points(content, field=POINTS)
    _check_known(points, manifest.points, manifest, "points")
    _check_required([name for name, found in points.items() if len(found)], manifest.points, manifest, "points")
    return points


def decode_points(content: bytes, *, field: str) -> Points:
    """Decode a JSON object of names and lists of points.

    Raises:
        MalformedMessage: it is something else.
    """
    return {name: _array(value, f"{field}: {name[:50]}") for name, value in decode_object(content, field=field).items()}


def named_transforms(
    archive: Archive, members: Members, manifest: Manifest, limits: Settings
) -> tuple[TransformFile, ...]:
    """Return where a case's transforms are.

    Raises:
        BadRequest: they are not those that the model takes, or one has an ending of another format.
        MalformedMessage: one is there twice, or begins otherwise than a file of its ending.
        TooLarge: one is larger than an image may be.
    """
    files = tuple(_transform(member) for member in members.transforms)
    names = [file.name for file in files]
    if len(set(names)) < len(names):
        raise MalformedMessage("The zip has two files of one transform; one was expected.", field=TRANSFORMS)
    _check_known(names, manifest.transforms, manifest, "transforms")
    _check_required(names, manifest.transforms, manifest, "transforms")
    for file in files:
        _check_beginning(archive, file, limits)
    return files


def _array(value: Any, field: str) -> NDArray[np.float64]:
    if not isinstance(value, list) or not all(_is_point(point) for point in value):
        raise MalformedMessage("A list of points [x, y, z], in LPS millimetres, was expected.", field=field)
    return np.array(value, np.float64).reshape(-1, 3)


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(is_number(item) for item in value)


def _transform(member: str) -> TransformFile:
    file = member.removeprefix(f"{TRANSFORMS}/")
    for ending in MAGICS:
        if file.endswith(f".{ending}"):
            return TransformFile(file.removesuffix(f".{ending}"), member)
    raise BadRequest(
        f"A transform has an unknown format; a file that ends in .{', .'.join(MAGICS)} was expected.", field=TRANSFORMS
    )


def _check_beginning(archive: Archive, file: TransformFile, limits: Settings) -> None:
    field, limit_bytes = f"{TRANSFORMS}: {file.name}", limits.image_limit_bytes
    with archive.open(file.member) as stream:
        beginning = stream.read(32)
    if not beginning.startswith(MAGICS[file.ending]):
        raise MalformedMessage(f"The transform is not the .{file.ending} file that its name says.", field=field)
    if archive.size_bytes(file.member) > limit_bytes:
        raise TooLarge(
            f"The transform is larger than the {size_text(limit_bytes)} that this server takes.", field=field
        )


def _check_known(given: Collection[str], declared: Sequence[NamedInput], manifest: Manifest, noun: str) -> None:
    known = [one.name for one in declared]
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        takes = f"It takes: {', '.join(known)}." if known else f"It takes no {noun}."
        raise BadRequest(f"The model '{manifest.id}' does not know the {noun} '{unknown[:50]}'. {takes}", field=noun)


def _check_required(given: Collection[str], declared: Sequence[NamedInput], manifest: Manifest, noun: str) -> None:
    for one in declared:
        if one.required and one.name not in given:
            raise BadRequest(f"The model '{manifest.id}' needs the {noun} '{one.name}'.", field=f"{noun}: {one.name}")
