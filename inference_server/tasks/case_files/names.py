"""Which member of a case's zip is what."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from inference_server.errors import BadRequest, MalformedMessage

META = "meta.json"
NEWER_META = "tmp_0000.meta.json"
POINTS = "points.json"
GRID = "grid.hdr"
"""The header of a NIfTI file, 348 bytes, on whose grid the labels are wanted."""
TRANSFORMS = "transforms"
"""The folder of the zip that they are in."""
NIFTI = ("nii.gz", "nii")
PICTURES = ("png", "jpg", "jpeg", "dcm")
_IMAGE = re.compile(r"tmp_(\d{4})\.(.+)")
_JSON = (".meta.json", ".dicom_info.json")


@dataclass(frozen=True)
class Members:
    """What each member is.

    The images in the order of the channels, the contours (names without and with their ending), the transforms, and
    whether there are points.
    """

    images: tuple[str, ...]
    contours: tuple[tuple[str, str], ...]
    transforms: tuple[str, ...]
    has_points: bool
    names: frozenset[str]


def image_stem(name: str) -> str:
    """Return `tmp_0000` for `tmp_0000.nii.gz`."""
    return name.partition(".")[0]


def is_picture(name: str) -> bool:
    """Whether an image member is a 2-D picture format and no NIfTI file."""
    return name.partition(".")[2] in PICTURES


def sort_members(names: Iterable[str], *, needs_image: bool = True) -> Members:
    """Sort a case's members by what they are; members of no known kind are left out.

    Raises:
        BadRequest: there is no image although one is needed, or one of an unknown format.
        MalformedMessage: an image is missing or there twice, or a label volume has no description beside it.
    """
    names = tuple(names)
    top = tuple(name for name in names if "/" not in name)
    transforms = tuple(name for name in names if name.startswith(f"{TRANSFORMS}/"))
    contours = _contours(top)
    has_points = POINTS in top and POINTS.removesuffix(".json") not in (stem for stem, _ in contours)
    return Members(_images(top, needs_image=needs_image), contours, transforms, has_points, frozenset(names))


def _images(names: tuple[str, ...], *, needs_image: bool) -> tuple[str, ...]:
    images: dict[int, str] = {}
    for name in names:
        match = _IMAGE.fullmatch(name)
        if match is None or name.endswith(_JSON):
            continue
        if match[2] not in NIFTI + PICTURES:
            raise BadRequest(
                f"The image {match[1]} has an unknown format; .nii.gz or .nii was expected.", field=f"tmp_{match[1]}"
            )
        if int(match[1]) in images:
            raise MalformedMessage(f"The zip has two images tmp_{match[1]}; one was expected.", field=name)
        images[int(match[1])] = name
    return _in_order(images) if images or needs_image else ()


def _in_order(images: dict[int, str]) -> tuple[str, ...]:
    if not images:
        raise BadRequest(
            "The zip has no image. Images are named tmp_0000.nii.gz, tmp_0001.nii.gz and so on.",
            field="tmp_0000.nii.gz",
        )
    for number in range(len(images)):
        if number not in images:
            field = f"tmp_{number:04d}.nii.gz"
            raise MalformedMessage(f"The image {field} is missing; images are numbered without gaps.", field=field)
    return tuple(images[number] for number in range(len(images)))


def _contours(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    contours = []
    for name in names:
        ending = next((ending for ending in NIFTI if name.endswith("." + ending)), None)
        if ending is None or _IMAGE.fullmatch(name):
            continue
        stem = name.removesuffix("." + ending)
        if f"{stem}.json" not in names:
            raise MalformedMessage(
                "The zip has a NIfTI file that is neither an image (tmp_0000.nii.gz, …) nor a contour with its .json.",
                field="contour",
            )
        contours.append((stem, name))
    return tuple(contours)
