"""Writing the members of an input zip."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from zipfile import ZIP_STORED, ZipFile

import numpy as np
import SimpleITK

from .errors import InputError


@dataclass(frozen=True)
class Grid:
    """Spacing (3) and origin (3) along x, y, z in mm, direction cosines (9) row by row."""

    spacing: list[float]
    origin: list[float]
    direction: list[float]


class InputZip:
    """A zip that takes volumes and JSON; members are stored, since the volumes are compressed already."""

    def __init__(self, path: Path) -> None:
        self._archive = ZipFile(path, "w", ZIP_STORED)

    def __enter__(self) -> InputZip:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()

    def add_json(self, name: str, content: object) -> None:
        """Add a JSON member."""
        self._archive.writestr(name, json.dumps(content, allow_nan=False))

    def add_volume(self, name: str, array: np.ndarray, grid: Grid) -> None:
        """Add a gzipped NIfTI member.

        The dialect leaves the direction at identity: it travels in the JSON beside the image.

        Args:
            name: of the member.
            array: ``(Z, Y, X)``, boolean, integer or float. Not modified.
            grid: its spacing and origin.

        Raises:
            InputError: the spacing is not positive.
        """
        if min(grid.spacing) <= 0:
            raise InputError("An image or contour has a voxel size of zero or less.")
        volume = SimpleITK.GetImageFromArray(_writable(array))
        volume.SetSpacing(grid.spacing)
        volume.SetOrigin(grid.origin)
        with TemporaryDirectory(prefix="inference_volume_") as folder:
            path = Path(folder) / "volume.nii.gz"
            SimpleITK.WriteImage(volume, str(path), useCompression=True)
            self._archive.write(path, name)


def _writable(array: np.ndarray) -> np.ndarray:
    """Bring an array to a voxel type that every NIfTI reader knows, without losing a value."""
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind == "f":
        return array.astype(np.float64 if array.dtype.itemsize > 4 else np.float32, copy=False)
    if array.dtype.itemsize < 8 and array.dtype != np.uint32:
        return array
    fits = np.iinfo(np.int32).min <= array.min() and array.max() <= np.iinfo(np.int32).max
    return array.astype(np.int32 if fits else np.float64)
