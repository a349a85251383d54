"""The zip of a case, as the MIM dialect has it: checked at the door, read by the worker, written for other doors.

Beside what that dialect has there may be `points.json`, {name: [[x, y, z], …]} in LPS millimetres,
`transforms/<name>.<ending>`, and `grid.hdr`, the header of a NIfTI file on whose grid the labels are wanted.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_server.errors import InvalidVolume
from inference_server.imaging.archive import Archive, open_archive
from inference_server.imaging.nifti import read_volume
from inference_server.imaging.picture import check_size, read_picture
from inference_server.imaging.transforms import read_transform
from inference_server.imaging.volume import Geometry, ScalingFactor, Volume
from inference_server.models.case import Case
from inference_server.models.manifest import Manifest
from inference_server.settings import Settings
from inference_server.tasks.case_files.describe import (
    CaseFiles,
    ContourFile,
    ImageFile,
    as_file,
    at_field,
    describe,
    grey_jpeg,
)
from inference_server.tasks.case_files.meta import ImageMeta
from inference_server.tasks.case_files.named import MAGICS, TransformFile
from inference_server.tasks.case_files.names import GRID, POINTS, TRANSFORMS, is_picture

if TYPE_CHECKING:
    from SimpleITK import Transform

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
        MalformedMessage, BadRequest, TooLarge: as `check_case`, or a transform is not a valid one.
        InvalidVolume: as `check_case`, or an image holds NaN or infinity.
    """
    with _open(path, limits) as archive:
        files = describe(archive, manifest, limits)
        transforms = {file.name: _read_transform(archive, file, limits) for file in files.transforms}
        named = list(zip((channel.name for channel in manifest.channels), files.images, strict=False))
        channels = {name: _read_image(archive, image, limits) for name, image in named}
        contours = {contour.name: _read_contour(archive, contour, files) for contour in files.contours}
    tags = zip((name for name, _ in named), files.dicom_tags, strict=True)
    return Case(
        channels=channels,
        contours=contours,
        points=files.points,
        transforms=transforms,
        parameters=manifest.check_parameters(parameters),
        dicom_tags={name: tags_of_one for name, tags_of_one in tags if tags_of_one},
        scaling_factor=files.scaling_factor,
        labels_grid=files.labels_grid,
        assumed=files.assumed,
        sent_geometry=files.images[0].sent if files.images else None,
    )


def write_case(
    path: Path,
    images: Sequence[Path | bytes],
    *,
    scaling_factor: ScalingFactor | None = None,
    metas: Sequence[ImageMeta | None] = (),
    points: Mapping[str, Iterable[Sequence[float]]] = {},
    transforms: Mapping[str, Path] = {},
    grid: bytes | None = None,
) -> None:
    """Write a case from files, byte for byte and without compressing them again.

    Args:
        path: the zip to write.
        images: files, or their content, in the order of the channels; what format each has is seen from its first
            bytes.
        scaling_factor: of the contour grid, in (z, y, x).
        metas: what is known of each image beside its header, and wins over it; none at all for no image.
        points: by name, (x, y, z) in LPS millimetres.
        transforms: by name, files that end in `.nii.gz` (a displacement field), `.h5`, `.mat` or `.tfm`.
        grid: the header of a NIfTI file on whose grid the labels are wanted, where that is not the first image's.
    """
    said = dict(enumerate(metas))
    if scaling_factor is not None:
        said[0] = replace(said.get(0) or ImageMeta(), scaling_factor=scaling_factor)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, image in enumerate(images):
            _add_file(archive, f"tmp_{number:04d}.{_ending(image)}", image)
        for number, meta in said.items():
            if meta is not None:
                archive.writestr(zipfile.ZipInfo(f"tmp_{number:04d}.meta.json"), json.dumps(meta.encoded()))
        if points:
            lists = {name: [[float(value) for value in point] for point in found] for name, found in points.items()}
            archive.writestr(zipfile.ZipInfo(POINTS), json.dumps(lists))
        if grid is not None:
            archive.writestr(zipfile.ZipInfo(GRID), grid)
        for name, file in transforms.items():
            ending = next(ending for ending in MAGICS if file.name.endswith(f".{ending}"))
            _add_file(archive, f"{TRANSFORMS}/{name}.{ending}", file)


def _add_file(archive: zipfile.ZipFile, name: str, file: Path | bytes) -> None:
    member = zipfile.ZipInfo(name)
    if isinstance(file, bytes):
        archive.writestr(member, file)
        return
    member.file_size = file.stat().st_size
    with file.open("rb") as source, archive.open(member, "w") as target:
        shutil.copyfileobj(source, target, 1024**2)


def _open(path: Path, limits: Settings) -> Archive:
    return open_archive(
        path,
        member_limit=limits.member_limit,
        unpacked_limit_bytes=limits.unpacked_limit_bytes,
        folders=(TRANSFORMS,),
    )


def _read_image(archive: Archive, image: ImageFile, limits: Settings) -> Volume:
    with at_field(image.name):
        if is_picture(image.name):
            volume = _read_picture(archive, image.name, limits)
        else:
            with archive.open(image.name) as stream:
                volume = read_volume(stream, max_bytes=limits.image_limit_bytes)
        _require_finite(volume)
    return Volume(volume.array, image.geometry, volume.nifti_header)


def _read_picture(archive: Archive, name: str, limits: Settings) -> Volume:
    if jpeg := grey_jpeg(archive, name):
        check_size(jpeg.array_bytes, limits.image_limit_bytes)
        return jpeg.volume()
    with as_file(archive, name) as path:
        return read_picture(path, max_bytes=limits.image_limit_bytes)


def _read_transform(archive: Archive, file: TransformFile, limits: Settings) -> Transform:
    # SimpleITK chooses the reader by the ending of a name.
    with (
        at_field(f"{TRANSFORMS}: {file.name}"),
        archive.open(file.member) as stream,
        tempfile.NamedTemporaryFile(suffix=f".{file.ending}") as copy,
    ):
        shutil.copyfileobj(stream, copy, 1024**2)
        copy.flush()
        return read_transform(Path(copy.name), max_bytes=limits.image_limit_bytes)


def _require_finite(volume: Volume) -> None:
    """The extremes are NaN where any voxel is, and need no second array."""
    if volume.array.dtype.kind == "f":
        extremes = (volume.array.min(), volume.array.max())
        if not np.isfinite(extremes).all():
            raise InvalidVolume("The image holds voxels that are not finite numbers (NaN or infinity).")


def _read_contour(archive: Archive, contour: ContourFile, files: CaseFiles) -> Volume:
    with at_field("contour"), archive.open(contour.member) as stream:
        labels = read_volume(stream, max_bytes=contour.array_bytes)
    return Volume(labels.array != 0, files.images[0].geometry.refined(files.scaling_factor))


def _ending(image: Path | bytes) -> str:
    with image.open("rb") if isinstance(image, Path) else io.BytesIO(image) as file:
        head = file.read(132)
    if head[128:] == b"DICM":
        return "dcm"
    return next((ending for magic, ending in _MAGICS if head.startswith(magic)), "nii")
