"""JPEGs without colours, as chest X-rays mostly are: read in memory by Pillow, in a fraction of the time ITK takes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from inference_server.errors import MalformedMessage
from inference_server.imaging.volume import Geometry, Volume

if TYPE_CHECKING:
    from PIL.Image import Image

UNREADABLE = "The picture cannot be read: it is damaged, cut off or of another format."
MAGIC = b"\xff\xd8\xff"
LIMIT_BYTES = 16 * 1024**2
"""Largest file that is read here."""
PIXEL_LIMIT = 2**26
"""Most pixels; of more than a few times as many Pillow warns."""
_UNITS_MM = {1: 25.4, 2: 10.0}
"""In what a JPEG counts its pixels: inches, centimetres."""


class GreyJpeg:
    """A JPEG without colours whose header has been read.

    Attributes:
        geometry: of shape (1, Y, X), axes assumed.
        array_bytes: what it takes in memory, at most.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self.geometry = Geometry((1, image.height, image.width), (*_spacing_mm(image), 1.0))
        self.array_bytes = 4 * self.geometry.voxels

    def volume(self) -> Volume:
        """Return the picture, uint8 ``(1, Y, X)``; may be called once.

        Raises:
            MalformedMessage: it is damaged or cut off.
        """
        try:
            with self._image as image:
                pixels = np.array(image)
        except (OSError, SyntaxError, ValueError):
            raise MalformedMessage(UNREADABLE) from None
        return Volume(pixels[None], self.geometry)


def open_grey_jpeg(content: bytes) -> GreyJpeg | None:
    """Return a JPEG, nothing for a file that is none, has colours or too many pixels, or whose header is damaged."""
    if not content.startswith(MAGIC):
        return None
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(content), formats=["JPEG"])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    return GreyJpeg(image) if image.mode == "L" and image.width * image.height <= PIXEL_LIMIT else None


def _spacing_mm(image: Image) -> tuple[float, float]:
    x, y = image.info.get("jfif_density", (0, 0))
    unit_mm = _UNITS_MM.get(image.info.get("jfif_unit", 0))
    return (unit_mm / x, unit_mm / y) if unit_mm and x > 0 and y > 0 else (1.0, 1.0)
