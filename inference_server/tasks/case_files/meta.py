"""The JSON members of a case's zip, decoded and checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from inference_server.errors import BadRequest, InvalidVolume, MalformedMessage
from inference_server.imaging.volume import Direction, Geometry, ScalingFactor, Vector

_LARGEST = 1e300
"""Beyond any length or count; NaN and infinity do not compare with it, and what does can be a float."""


@dataclass(frozen=True)
class ImageMeta:
    """What a client says of an image beside it; None where it says nothing.

    `scaling_factor` is in (z, y, x), the others in (x, y, z), LPS mm.
    """

    scaling_factor: ScalingFactor | None = None
    spacing_mm: Vector | None = None
    origin_mm: Vector | None = None
    direction: Direction | None = None

    @property
    def places_nothing(self) -> bool:
        """Whether it leaves the whole geometry to the image's own header."""
        return self.spacing_mm is None and self.origin_mm is None and self.direction is None

    def applied(self, geometry: Geometry) -> Geometry:
        """Return the geometry with what is said here in place of what the image's own header says.

        Raises:
            InvalidVolume: together they are no valid geometry.
        """
        said = {"spacing_mm": self.spacing_mm, "origin_mm": self.origin_mm, "direction": self.direction}
        return replace(geometry, **{name: value for name, value in said.items() if value is not None})  # type: ignore[arg-type]

    def encoded(self) -> dict[str, Any]:
        """Return what is said here as `decode_meta` takes it; every float comes back as it is."""
        said = {
            "scaling_factor": self.scaling_factor,
            "spacing": self.spacing_mm,
            "origin": self.origin_mm,
            "direction": self.direction,
        }
        return {name: list(value) for name, value in said.items() if value is not None}


def meta_of(geometry: Geometry) -> ImageMeta:
    """Return what says of an image that it lies so, exactly."""
    return ImageMeta(None, geometry.spacing_mm, geometry.origin_mm, geometry.direction)


def decode_meta(content: bytes, *, field: str) -> ImageMeta:
    """Decode `meta.json` or `tmp_000N.meta.json`; keys of other meaning are left alone.

    Raises:
        MalformedMessage: it is not a JSON object.
        BadRequest: the scaling factor is not three positive whole numbers.
        InvalidVolume: spacing, origin or direction are not as many finite numbers as they must be, or a spacing is
            not positive.
    """
    said = decode_object(content, field=field)

    def get(key: str, decode: Callable[..., Any]) -> Any:
        return None if said.get(key) is None else decode(said[key], field=f"{field}: {key}")

    return ImageMeta(
        scaling_factor=get("scaling_factor", _scaling_factor),
        spacing_mm=get("spacing", _spacing),
        origin_mm=get("origin", _origin),
        direction=get("direction", _direction),
    )


def decode_dicom_tags(content: bytes, *, field: str) -> Mapping[int, str]:
    """Decode `tmp_000N.dicom_info.json`: decimal tags and their values as text.

    Raises:
        MalformedMessage: it is not a JSON object, or a key is not a whole number.
    """
    said = decode_object(content, field=field)
    if not all(key.isascii() and key.isdigit() and len(key) <= 10 for key in said):
        raise MalformedMessage("DICOM tags written as decimal whole numbers were expected as keys.", field=field)
    return {int(key): str(value) for key, value in said.items()}


def decode_contour_name(content: bytes, *, field: str) -> str:
    """Decode the description of an exported contour and return its name.

    Raises:
        MalformedMessage: it is not a JSON object with a name.
    """
    name = decode_object(content, field=field).get("name")
    if not isinstance(name, str) or not name.strip():
        raise MalformedMessage("The description of a contour must be a JSON object with its name.", field=field)
    return name


def decode_object(content: bytes, *, field: str) -> dict[str, Any]:
    """Decode a JSON object.

    Raises:
        MalformedMessage: the bytes are something else. Its cause is left out, because it quotes them.
    """
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        raise MalformedMessage("A JSON object was expected; this is not JSON.", field=field) from None
    if not isinstance(said, dict):
        raise MalformedMessage("A JSON object was expected; this is other JSON.", field=field)
    return said


def _scaling_factor(value: Any, *, field: str) -> ScalingFactor:
    if not isinstance(value, list) or len(value) != 3 or not all(_is_positive_whole(item) for item in value):
        raise BadRequest("The scaling factor must be three positive whole numbers (z, y, x).", field=field)
    z, y, x = (int(item) for item in value)
    return z, y, x


def _is_positive_whole(item: Any) -> bool:
    return is_number(item) and item >= 1 and item == int(item)


def is_number(item: Any) -> bool:
    """Whether what JSON gave is a finite number."""
    return isinstance(item, int | float) and not isinstance(item, bool) and abs(item) <= _LARGEST


def _spacing(value: Any, *, field: str) -> Vector:
    spacing = _vector(value, field=field)
    if min(spacing) <= 0:
        raise InvalidVolume("The spacing must be positive along every axis.", field=field)
    return spacing


def _origin(value: Any, *, field: str) -> Vector:
    return _vector(value, field=field)


def _vector(value: Any, *, field: str) -> Vector:
    x, y, z = _numbers(value, 3, field=field)
    return x, y, z


def _direction(value: Any, *, field: str) -> Direction:
    a, b, c, d, e, f, g, h, i = _numbers(value, 9, field=field)
    return a, b, c, d, e, f, g, h, i


def _numbers(value: Any, count: int, *, field: str) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != count or not all(is_number(item) for item in value):
        raise InvalidVolume(f"A list of {count} finite numbers was expected.", field=field)
    return tuple(float(item) for item in value)
