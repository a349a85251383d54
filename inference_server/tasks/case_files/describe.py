"""What a case's zip holds, from its headers and JSON alone, and whether it fits a model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from inference_server.errors import BadRequest, InferenceServerError, InvalidVolume, MalformedMessage
from inference_server.imaging import jpeg
from inference_server.imaging.archive import Archive
from inference_server.imaging.directions import perpendicular
from inference_server.imaging.jpeg import GreyJpeg
from inference_server.imaging.nifti import NiftiHeader, read_header
from inference_server.imaging.picture import read_picture_header
from inference_server.imaging.volume import IDENTITY, Geometry, ScalingFactor
from inference_server.models.manifest import Manifest
from inference_server.settings import Settings
from inference_server.tasks.case_files.meta import ImageMeta, decode_contour_name, decode_dicom_tags, decode_meta
from inference_server.tasks.case_files.named import Points, TransformFile, named_points, named_transforms
from inference_server.tasks.case_files.names import (
    GRID,
    META,
    NEWER_META,
    Members,
    image_stem,
    is_picture,
    sort_members,
)
from inference_server.tasks.case_files.sizes import check_image, check_labels, check_sum

JSON_LIMIT_BYTES = 1024**2
DICOM_TAGS_LIMIT_BYTES = 2 * 1024**2
"""JSON can take thirty times its size in memory."""

ORIENTATION_ASSUMED = (
    "The orientation of the image was not sent; its axes were taken to run to the patient's left, back and head."
)
SPACING_DIFFERS = "The voxel size in meta.json is not the one in the image; the image's own was used."
GRIDS_DIFFER = "The images do not lie at the same place; they were taken to match voxel by voxel."


@dataclass(frozen=True)
class ImageFile:
    """One channel's member: its geometry as the model sees it, and what its array takes in memory.

    `sent` is the same to the last digit, before axes that are slightly oblique were made perpendicular. `oriented`
    tells whether the file or its own meta says where the patient's left is.
    """

    name: str
    geometry: Geometry
    array_bytes: int
    oriented: bool
    sent: Geometry
    meta: ImageMeta | None = None


@dataclass(frozen=True)
class ContourFile:
    """One exported contour: its name, its member and what its array takes in memory."""

    name: str
    member: str
    array_bytes: int


@dataclass(frozen=True)
class CaseFiles:
    """What `describe` found; `dicom_tags` has one entry per image.

    `labels_grid` is the header of the file whose grid the labels are wanted on, None for that of the first image.
    """

    points: Points
    transforms: tuple[TransformFile, ...]
    images: tuple[ImageFile, ...] = ()
    contours: tuple[ContourFile, ...] = ()
    dicom_tags: tuple[Mapping[int, str], ...] = ()
    scaling_factor: ScalingFactor = (1, 1, 1)
    labels_grid: NiftiHeader | None = None
    assumed: tuple[str, ...] = ()


def describe(archive: Archive, manifest: Manifest, limits: Settings) -> CaseFiles:
    """Read the headers and the JSON of a case and check them against the model and the limits.

    Raises:
        BadRequest: the images, points or transforms are not those that the model takes, or the scaling factor is not
            one.
        MalformedMessage: a member is not what its name says.
        InvalidVolume: an image's shape, type or geometry is not a valid one, or its shape is not the first one's where
            it must be.
        TooLarge: an image, all of them, or the labels would exceed a limit.
    """
    members = sort_members(archive.names, needs_image=bool(manifest.channels))
    _check_count(members.images, manifest)
    points = named_points(archive, members, manifest)
    transforms = named_transforms(archive, members, manifest, limits)
    if not manifest.channels:
        return CaseFiles(points=points, transforms=transforms)
    images = tuple(_image(archive, members, name, manifest) for name in members.images)
    _check_images(images, manifest, limits)
    older = _meta(archive, members, META)
    factor = _scaling_factor(images[0].meta, older)
    with at_field(f"{META if older and older.scaling_factor else NEWER_META}: scaling_factor"):
        check_labels(images[0].geometry, factor, limits)
    return CaseFiles(
        images=images,
        contours=_contours(archive, members, images, images[0].geometry.refined(factor), limits),
        dicom_tags=tuple(_dicom_tags(archive, members, image.name) for image in images),
        points=points,
        transforms=transforms,
        scaling_factor=factor,
        labels_grid=_labels_grid(archive, members, limits),
        assumed=tuple(_assumed(images, older, manifest)),
    )


@contextmanager
def at_field(field: str) -> Iterator[None]:
    """Name the field at fault in errors that name none."""
    try:
        yield
    except InferenceServerError as exc:
        exc.field = exc.field or field
        raise


@contextmanager
def as_file(archive: Archive, name: str) -> Iterator[Path]:
    """Give a member as a file, for readers that take nothing else.

    The file has no name in any folder, so that the kernel removes it however this process ends.
    """
    with tempfile.TemporaryFile() as file:
        with archive.open(name) as member:
            shutil.copyfileobj(member, file, 1024**2)
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")


def grey_jpeg(archive: Archive, name: str) -> GreyJpeg | None:
    """Return a member that is a JPEG without colours, nothing for any other."""
    is_small_jpeg = name.endswith((".jpg", ".jpeg")) and archive.size_bytes(name) <= jpeg.LIMIT_BYTES
    return jpeg.open_grey_jpeg(archive.read(name, jpeg.LIMIT_BYTES)) if is_small_jpeg else None


def _check_count(images: tuple[str, ...], manifest: Manifest) -> None:
    least, most = manifest.required_channels, len(manifest.channels)
    if least <= len(images) <= most:
        return
    channels = ", ".join(channel.name for channel in manifest.channels)
    takes = f"{most} image{'s' if most > 1 else ''}" if least == most else f"{least} to {most} images"
    takes = f"{takes} ({channels})" if most else "no image"
    field = images[most] if len(images) > most else f"tmp_{len(images):04d}.nii.gz"
    raise BadRequest(f"The model '{manifest.id}' takes {takes}; {len(images)} came.", field=field)


def _image(archive: Archive, members: Members, name: str, manifest: Manifest) -> ImageFile:
    with at_field(name):
        image = _picture(archive, name, manifest) if is_picture(name) else _nifti(archive, name, manifest)
    meta_name = image_stem(name) + ".meta.json"
    meta = _meta(archive, members, meta_name)
    if meta is None:
        return image
    with at_field(meta_name):
        sent = meta.applied(image.geometry)
        geometry = replace(sent, direction=perpendicular(sent.direction))
    # One that tells where the image lies, but not its direction, comes from a client whose header has none either.
    in_header = image.oriented if meta.places_nothing else image.geometry.direction != IDENTITY
    oriented = meta.direction is not None or in_header
    return replace(image, geometry=geometry, oriented=oriented, sent=sent, meta=meta)


def _nifti(archive: Archive, name: str, manifest: Manifest) -> ImageFile:
    with archive.open(name) as stream:
        header = read_header(stream)
    if manifest.dimensions == 3 and header.ndim == 2:
        raise InvalidVolume(f"The model '{manifest.id}' takes 3-D images; this one is 2-D.")
    if manifest.dimensions == 2 and header.geometry.shape[0] != 1:
        raise InvalidVolume(f"The model '{manifest.id}' takes 2-D images; this one is 3-D.")
    return ImageFile(name, header.geometry, header.array_bytes, header.oriented, header.geometry)


def _picture(archive: Archive, name: str, manifest: Manifest) -> ImageFile:
    if manifest.dimensions == 3:
        raise BadRequest(f"The model '{manifest.id}' takes 3-D images as .nii.gz or .nii; this one is a 2-D picture.")
    if found := grey_jpeg(archive, name):
        geometry, array_bytes = found.geometry, found.array_bytes
    else:
        with as_file(archive, name) as path:
            geometry, array_bytes = read_picture_header(path)
    return ImageFile(name, geometry, array_bytes, oriented=False, sent=geometry)


def _meta(archive: Archive, members: Members, name: str) -> ImageMeta | None:
    if name not in members.names:
        return None
    with at_field(name):
        return decode_meta(archive.read(name, JSON_LIMIT_BYTES), field=name)


def _check_images(images: tuple[ImageFile, ...], manifest: Manifest, limits: Settings) -> None:
    first = images[0].geometry.shape
    for image in images:
        with at_field(image.name):
            check_image(image.array_bytes, limits)
            if manifest.same_grid and image.geometry.shape != first:
                raise InvalidVolume(
                    f"All images must have one shape; this one has {image.geometry.shape} voxels (z, y, x), "
                    f"the first one {first}."
                )
    with at_field(images[-1].name):
        check_sum([image.array_bytes for image in images], limits)


def _scaling_factor(newer: ImageMeta | None, older: ImageMeta | None) -> ScalingFactor:
    said = [meta.scaling_factor for meta in (newer, older) if meta is not None and meta.scaling_factor is not None]
    if len(set(said)) > 1:
        raise MalformedMessage(
            f"One scaling factor was expected; {META} and {NEWER_META} differ in it.",
            field=f"{META}: scaling_factor",
        )
    return said[0] if said else (1, 1, 1)


def _labels_grid(archive: Archive, members: Members, limits: Settings) -> NiftiHeader | None:
    if GRID not in members.names:
        return None
    with at_field(GRID):
        with archive.open(GRID) as stream:
            header = read_header(stream)
        check_labels(header.geometry, (1, 1, 1), limits)
    return header


def _assumed(images: tuple[ImageFile, ...], older: ImageMeta | None, manifest: Manifest) -> Iterator[str]:
    first = images[0]
    # A client that sends meta.json leaves the direction in the header at identity, whatever the patient's was.
    unsaid = older is not None and first.meta is None and first.geometry.direction == IDENTITY
    if manifest.dimensions == 3 and (unsaid or not first.oriented):
        yield ORIENTATION_ASSUMED
    spacing_mm = None if older is None or first.meta is not None else older.spacing_mm
    if spacing_mm is not None and not np.allclose(spacing_mm, first.geometry.spacing_mm, rtol=1e-2):
        yield SPACING_DIFFERS
    if manifest.same_grid and not all(_same_place(image.geometry, first.geometry) for image in images[1:]):
        yield GRIDS_DIFFER


def _contours(
    archive: Archive, members: Members, images: tuple[ImageFile, ...], grid: Geometry, limits: Settings
) -> tuple[ContourFile, ...]:
    with at_field("contour"):
        contours = tuple(_contour(archive, stem, member, grid) for stem, member in members.contours)
        check_sum([*(image.array_bytes for image in images), *(contour.array_bytes for contour in contours)], limits)
        if len({contour.name for contour in contours}) < len(contours):
            raise MalformedMessage("Two contours have the same name.")
    return contours


def _contour(archive: Archive, stem: str, member: str, grid: Geometry) -> ContourFile:
    with archive.open(member) as stream:
        header = read_header(stream)
    if header.geometry.shape != grid.shape:
        raise InvalidVolume(
            f"A contour has {header.geometry.shape} voxels (z, y, x); image and scaling factor make it {grid.shape}."
        )
    name = decode_contour_name(archive.read(f"{stem}.json", JSON_LIMIT_BYTES), field="contour")
    return ContourFile(name, member, header.array_bytes)


def _dicom_tags(archive: Archive, members: Members, image: str) -> Mapping[int, str]:
    name = image_stem(image) + ".dicom_info.json"
    if name not in members.names:
        return {}
    with at_field(name):
        return decode_dicom_tags(archive.read(name, DICOM_TAGS_LIMIT_BYTES), field=name)


def _same_place(a: Geometry, b: Geometry) -> bool:
    """Whether the corners of two grids of one shape are within half a voxel of each other."""
    z, y, x = a.shape
    corners = np.array([(i, j, k, 1) for i in (0, x) for j in (0, y) for k in (0, z)]).T
    return bool(np.abs((a.affine - b.affine) @ corners).max() <= min(a.spacing_mm) / 2)
