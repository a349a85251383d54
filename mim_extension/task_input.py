"""The case that is sent: images, their geometry and, if wanted, contours and DICOM tags, in one zip."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Iterable, Iterator, Sequence

import numpy as np

from .errors import InputError
from .input_zip import Grid, InputZip
from .mim_types import Contour, Image, Space

MAX_IMAGES = 4
_TEMPORARY_NAME = "inference_server_grid"


@dataclass(frozen=True)
class TaskInput:
    """What one task needs.

    Args:
        model_human_readable_id: the model's id.
        images: one to four images of the same shape; image zero is the reference.
        export_dicom_info: send the DICOM tags of the images, which hold patient data.
        contour_names: contours of image zero to send; none where None, all of them where empty.
    """

    model_human_readable_id: str
    images: Sequence[Image]
    export_dicom_info: bool = False
    contour_names: Sequence[str] | None = None

    @contextmanager
    def as_zip(self) -> Iterator[Path]:
        """Write the input zip to a temporary folder, which is removed when the ``with`` block ends.

        Yields:
            The path of the zip, laid out as the MIM dialect has it.

        Raises:
            InputError: an image is missing, not 3-D or of another shape, its geometry or its contour grid is
                unusable, or a contour that was asked for does not exist.
        """
        if not 1 <= len(self.images) <= MAX_IMAGES:
            raise InputError(f"A case has one to {MAX_IMAGES} images.")
        missing = [number for number, image in enumerate(self.images, start=1) if image is None]
        if missing:
            raise InputError(f"Image {missing[0]} is missing.")
        with TemporaryDirectory(prefix="inference_case_") as folder:
            zip_path = Path(folder) / "input.zip"
            with InputZip(zip_path) as archive:
                self._write(archive)
            yield zip_path

    def _write(self, archive: InputZip) -> None:
        scaling_factor = read_scaling_factor(self.images[0])
        shape = None
        for index, image in enumerate(self.images):
            array = _read_voxels(image, index)
            shape = shape or array.shape
            if array.shape != shape:
                raise InputError(
                    f"Image {index + 1} has {_by(array.shape)} voxels, image 1 has {_by(shape)}. "
                    "Resample the images onto image 1 in MIM first."
                )
            self._write_image(archive, index, array, scaling_factor)
        self._write_contours(archive)

    def _write_image(self, archive: InputZip, index: int, array: np.ndarray, scaling_factor: list[int]) -> None:
        grid = _read_grid(self.images[index].getSpace(), f"Image {index + 1}")
        stem = f"tmp_{index:04d}"
        archive.add_volume(f"{stem}.nii.gz", array, grid)
        older = {"scaling_factor": scaling_factor, "spacing": grid.spacing}
        if index == 0:
            archive.add_json("meta.json", older)
        archive.add_json(f"{stem}.meta.json", {**older, "origin": grid.origin, "direction": grid.direction})
        if self.export_dicom_info:
            archive.add_json(f"{stem}.dicom_info.json", _read_dicom_info(self.images[index]))

    def _write_contours(self, archive: InputZip) -> None:
        for index, contour in enumerate(self._wanted_contours()):
            # Numbered, not named: a name may hold a patient's, two may be equal, and none need be a file name.
            stem = f"contour_{index:04d}"
            grid = _read_grid(contour.getSpace(), "A contour")
            mask = np.asarray(contour.getData().copyToNPArray()) != 0
            archive.add_volume(f"{stem}.nii.gz", mask, grid)
            archive.add_json(f"{stem}.json", _describe(contour, grid))

    def _wanted_contours(self) -> list[Contour]:
        if self.contour_names is None:
            return []
        contours = list(self.images[0].getContours())
        if not self.contour_names:
            return contours
        known = {_name(contour) for contour in contours}
        unknown = [name for name in self.contour_names if name not in known]
        if unknown:
            raise InputError(f"Image 1 has no contour named {', '.join(map(repr, unknown))}. Check contour_names.")
        return [contour for contour in contours if _name(contour) in self.contour_names]


def read_scaling_factor(image: Image) -> list[int]:
    """Read how much finer MIM's contour grid is than an image, through a contour that is deleted again.

    Args:
        image: unchanged once this returns or raises.

    Returns:
        Three positive integers along the array's axes z, y, x.

    Raises:
        InputError: MIM gave something else.
    """
    taken = {_name(contour) for contour in image.getContours()}
    name = _TEMPORARY_NAME
    while name in taken:
        name += "_"
    contour = image.createNewContour(name)
    try:
        factors = [float(value) for value in contour.getMultiplier()]
    finally:
        contour.delete()
    if len(factors) != 3 or any(value < 1 or not value.is_integer() for value in factors):
        raise InputError("The contour grid of image 1 is not a whole multiple of its voxels.")
    return [int(value) for value in factors]


def _read_voxels(image: Image, index: int) -> np.ndarray:
    array = np.asarray(image.getRawData().copyToNPArray())
    if array.ndim != 3 or array.size == 0 or array.dtype.kind not in "biuf":
        raise InputError(f"Image {index + 1} is not a 3-D image. Select a single static series.")
    return array


def _read_grid(space: Space, what: str) -> Grid:
    return Grid(
        spacing=_numbers(space.getNoxSize(), 3, f"{what}: its voxel size"),
        origin=_numbers(space.getDicomCenter(), 3, f"{what}: its position"),
        direction=_numbers(space.getIop(), 9, f"{what}: its orientation"),
    )


def _numbers(values: Iterable[float], count: int, what: str) -> list[float]:
    numbers = [float(value) for value in values]
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise InputError(f"{what} is not {count} finite numbers.")
    return numbers


def _read_dicom_info(image: Image) -> dict[str, str]:
    info = image.getInfo().getDicomInfo()
    return {str(int(tag)): str(info.getValue(tag)) for tag in info.getTags()}


def _describe(contour: Contour, grid: Grid) -> dict[str, object]:
    return {
        "name": _name(contour),
        "dimensions": [int(value) for value in contour.getDims()],
        "multiplier": [int(value) for value in contour.getMultiplier()],
        "spacing": grid.spacing,
        "origin": grid.origin,
        "direction": grid.direction,
    }


def _name(contour: Contour) -> str:
    return str(contour.getInfo().getName())


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
