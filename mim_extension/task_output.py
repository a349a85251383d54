"""The result that comes back: label volumes and the names of their labels, in one zip."""

from __future__ import annotations

import json
import shutil
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Iterator
from zipfile import BadZipFile, ZipFile

import numpy as np
import SimpleITK

from .errors import OutputError

_VOLUME = ".nii.gz"
_NAMES = ".json"


@dataclass(frozen=True)
class _Part:
    """Where a structure lies: a value in one of the volumes."""

    member: str
    value: int


class TaskOutput:
    """A result zip: pairs of ``X.nii.gz`` (labels on the contour grid) and ``X.json`` (value → name).

    Members that are no ``.json`` and belong to none are passed over.
    """

    def __init__(self, zip_path: Path) -> None:
        self._zip_path = zip_path

    def get_output_as_label_array_dict(self) -> dict[str, np.ndarray]:
        """Return every structure at once.

        Returns:
            Name → boolean array ``(Z, Y, X)`` on the contour grid. A structure that several pairs name is their
            union; one that no voxel has is all False.

        Raises:
            OutputError: the zip or a member of it cannot be understood.
        """
        return dict(self.label_arrays())

    def label_arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the same structures one by one, so that only one is in memory."""
        with _zip_errors():
            parts_of = self._read_names()
        volumes = _Volumes(self._zip_path)
        for name, parts in parts_of.items():
            with _zip_errors():
                mask = _union(volumes, parts)
            yield name, mask

    def _read_names(self) -> dict[str, list[_Part]]:
        parts_of: dict[str, list[_Part]] = {}
        with ZipFile(self._zip_path) as archive:
            members = set(archive.namelist())
            for member in sorted(name for name in members if name.endswith(_NAMES)):
                volume = member[: -len(_NAMES)] + _VOLUME
                if volume not in members:
                    raise OutputError(f"The result names structures in {member!r} but has no volume for them.")
                for value, name in _parse_names(archive.read(member), member):
                    parts_of.setdefault(name, []).append(_Part(volume, value))
        return parts_of


class _Volumes:
    """Reads label volumes and keeps the last one, since structures of one volume follow each other."""

    def __init__(self, zip_path: Path) -> None:
        self._zip_path = zip_path
        self._member = ""
        self._array = np.empty(0)

    def read(self, member: str) -> np.ndarray:
        if member != self._member:
            self._array = self._load(member)
            self._member = member
        return self._array

    def _load(self, member: str) -> np.ndarray:
        with TemporaryDirectory(prefix="inference_labels_") as folder:
            path = Path(folder) / "labels.nii.gz"
            with ZipFile(self._zip_path) as archive, archive.open(member) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
            array: np.ndarray = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
        if array.ndim != 3:
            raise OutputError(f"The volume {member!r} of the result is not 3-D.")
        return array


def _union(volumes: _Volumes, parts: list[_Part]) -> np.ndarray:
    mask: np.ndarray = volumes.read(parts[0].member) == parts[0].value
    for part in parts[1:]:
        other = volumes.read(part.member) == part.value
        if other.shape != mask.shape:
            raise OutputError("The volumes of the result are of different shapes.")
        mask |= other
    return mask


def _parse_names(content: bytes, member: str) -> Iterator[tuple[int, str]]:
    try:
        names = json.loads(content.decode("utf-8"))
        pairs = [(int(value), name) for value, name in names.items()]
    except (ValueError, AttributeError, RecursionError):
        raise OutputError(f"The list of structures {member!r} of the result cannot be understood.") from None
    for value, name in pairs:
        if not isinstance(name, str) or not name.strip():
            raise OutputError(f"The list of structures {member!r} of the result has a structure without a name.")
        yield value, name


@contextmanager
def _zip_errors() -> Iterator[None]:
    # SimpleITK raises RuntimeError for a file it cannot read, zipfile for an encrypted one.
    try:
        yield
    except (BadZipFile, EOFError, zlib.error, RuntimeError) as error:
        raise OutputError(
            "The result is damaged or is no result at all. Fetch it again; if that fails, tell the "
            "administrator of the server."
        ) from error
