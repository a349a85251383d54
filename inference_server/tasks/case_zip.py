"""The zip of a case, as the MIM dialect has it: checked at the door, read by the worker, written for other doors."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inference_server.errors import InvalidVolume
from inference_server.imaging.archive import Archive, open_archive
from inference_server.imaging.nifti import read_volume
from inference_server.imaging.picture import read_picture
from inference_server.imaging.volume import Geometry, ScalingFactor, Volume
from inference_server.models.case import Case
from inference_server.models.manifest import Manifest
from inference_server.settings import Settings
from inference_server.tasks.case_files.describe import ContourFile, ImageFile, as_file, at_field, describe
from inference_server.tasks.case_files.names import NEWER_META, is_picture

_MAGICS = ((b"\x1f\x8b", "nii.gz"), (b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpg"))


@dataclass(frozen=True)
class CaseSummary:
    """What the headers of a case say: each channel's geometry as the model sees it, and the factor (z, y, x)."""

    channels: tuple[Geometry, ...]
    scaling_factor: ScalingFactor


def check_case(path: Path, manifest: Manifest, limits: Settings) -> CaseSummary:
    """Check a case without reading its voxels.

    Raises:
        MalformedMessage: the zip, an image or a JSON member is damaged or not what it should be.
        BadRequest: the zip has what it must not have, the images are not those that the model takes, or the scaling
            factor is not one.
        InvalidVolume: an image's shape, type or geometry is not a valid one, or its shape is not the first one's.
        TooLarge: a limit is exceeded.
    """
    with _open(path, limits) as archive:
        files = describe(archive, manifest, limits)
    return CaseSummary(tuple(image.geometry for image in files.images), files.scaling_factor)


def read_case(path: Path, manifest: Manifest, limits: Settings, *, parameters: Mapping[str, Any]) -> Case:
    """Read a case whole.

    A channel's geometry is what its meta says, else what its header says; its `nifti_header` is always the file's.

    Args:
        path: the case's zip.
        manifest: of the model that gets the case.
        limits: the same as at the door.
        parameters: by name; those not given get their defaults.

    Raises:
        MalformedMessage, BadRequest, TooLarge: as `check_case`.
        InvalidVolume: as `check_case`, or an image holds NaN or infinity.
    """
    with _open(path, limits) as archive:
        files = describe(archive, manifest, limits)
        named = list(zip((channel.name for channel in manifest.channels), files.images, strict=False))
        channels = {name: _read_image(archive, image, limits) for name, image in named}
        grid = files.images[0].geometry.refined(files.scaling_factor)
        contours = {contour.name: _read_contour(archive, contour, grid) for contour in files.contours}
    tags = zip((name for name, _ in named), files.dicom_tags, strict=True)
    return Case(
        channels=channels,
        contours=contours,
        parameters=manifest.check_parameters(parameters),
        dicom_tags={name: tags_of_one for name, tags_of_one in tags if tags_of_one},
        scaling_factor=files.scaling_factor,
        assumed=files.assumed,
    )


def write_case(path: Path, images: Sequence[Path], *, scaling_factor: ScalingFactor | None = None) -> None:
    """Write a case from image files, byte for byte and without compressing them again.

    Args:
        path: the zip to write.
        images: in the order of the channels; what format each has is seen from its first bytes.
        scaling_factor: of the contour grid, in (z, y, x).
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, image in enumerate(images):
            member = zipfile.ZipInfo(f"tmp_{number:04d}.{_ending(image)}")
            member.file_size = image.stat().st_size
            with image.open("rb") as source, archive.open(member, "w") as target:
                shutil.copyfileobj(source, target, 1024**2)
        if scaling_factor is not None:
            archive.writestr(zipfile.ZipInfo(NEWER_META), json.dumps({"scaling_factor": scaling_factor}))


def _open(path: Path, limits: Settings) -> Archive:
    return open_archive(path, member_limit=limits.member_limit, unpacked_limit_bytes=limits.unpacked_limit_bytes)


def _read_image(archive: Archive, image: ImageFile, limits: Settings) -> Volume:
    with at_field(image.name):
        if is_picture(image.name):
            with as_file(archive, image.name) as path:
                volume = read_picture(path, max_bytes=limits.image_limit_bytes)
        else:
            with archive.open(image.name) as stream:
                volume = read_volume(stream, max_bytes=limits.image_limit_bytes)
        _require_finite(volume)
    return Volume(volume.array, image.geometry, volume.nifti_header)


def _require_finite(volume: Volume) -> None:
    """The extremes are NaN where any voxel is, and need no second array."""
    if volume.array.dtype.kind == "f":
        extremes = (volume.array.min(), volume.array.max())
        if not np.isfinite(extremes).all():
            raise InvalidVolume("The image holds voxels that are not finite numbers (NaN or infinity).")


def _read_contour(archive: Archive, contour: ContourFile, grid: Geometry) -> Volume:
    with at_field("contour"), archive.open(contour.member) as stream:
        labels = read_volume(stream, max_bytes=contour.array_bytes)
    return Volume(labels.array != 0, grid)


def _ending(image: Path) -> str:
    with image.open("rb") as file:
        head = file.read(132)
    if head[128:] == b"DICM":
        return "dcm"
    return next((ending for magic, ending in _MAGICS if head.startswith(magic)), "nii")
