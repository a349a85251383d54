"""Points as text. On the wire they are in RAS millimetres, inside the server in LPS."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from inference_server.errors import BadRequest

Point = tuple[float, float, float]


def decode_points(text: str, *, field: str) -> tuple[Point, ...]:
    """Return the points of `x,y,z;x,y,z;…`, RAS, in LPS; a semicolon behind the last one does no harm.

    Raises:
        BadRequest: the text is something else, or a number is not finite.
    """
    content = text.strip().removesuffix(";").strip()
    return tuple(_point(part, field) for part in content.split(";")) if content else ()


def encode_points(points: Iterable[Sequence[float]]) -> str:
    """Return points, LPS, as `x,y,z;x,y,z;…` in RAS; every float64 comes back as it is."""
    return ";".join(",".join(map(repr, (0.0 - x, 0.0 - y, float(z)))) for x, y, z in points)


def _point(text: str, field: str) -> Point:
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        raise _refusal(field) from None
    if not all(map(math.isfinite, (x, y, z))):
        raise _refusal(field)
    return 0.0 - x, 0.0 - y, z


def _refusal(field: str) -> BadRequest:
    return BadRequest(f"The points '{field[:50]}' must be sent as x,y,z;x,y,z;… in millimetres.", field=field)
