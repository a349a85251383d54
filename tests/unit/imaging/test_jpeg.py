"""Grey JPEGs are read as ITK reads them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from inference_server.errors import MalformedMessage
from inference_server.imaging import jpeg
from inference_server.imaging.jpeg import open_grey_jpeg

JFIF_UNIT = 13
"""Where a JPEG says in what it counts its pixels."""


def noise(mode: str = "L", size: tuple[int, int] = (50, 30)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def content(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def of_itk(path: Path) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("JPEGImageIO")
    reader.SetFileName(str(path))
    return reader.Execute()


@pytest.mark.parametrize("unit", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"dpi": (254, 127)}, {"progressive": True, "quality": 95}])
def test_pixels_and_spacing_are_those_of_itk(options: dict[str, Any], unit: int, tmp_path: Path) -> None:
    written = bytearray(content(noise(), **options))
    assert written[6:10] == b"JFIF"
    written[JFIF_UNIT] = unit
    path = tmp_path / "a.jpg"
    path.write_bytes(written)
    read, expected = open_grey_jpeg(bytes(written)), of_itk(path)
    assert read is not None
    assert read.geometry.shape == (1, 30, 50)
    assert read.geometry.spacing_mm[:2] == pytest.approx(expected.GetSpacing(), rel=1e-12)
    assert read.array_bytes == 4 * 30 * 50
    volume = read.volume()
    assert volume.array.dtype == np.uint8
    assert (volume.array[0] == sitk.GetArrayViewFromImage(expected)).all()


def test_what_is_not_a_grey_jpeg_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    png = io.BytesIO()
    noise().save(png, "PNG")
    grey = content(noise())
    others = [content(noise("RGB")), content(noise("CMYK")), png.getvalue(), b"", grey[:4], grey[:30]]
    assert [open_grey_jpeg(one) for one in others] == [None] * len(others)
    monkeypatch.setattr(jpeg, "PIXEL_LIMIT", 30 * 50 - 1)
    assert open_grey_jpeg(grey) is None


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_one_that_declares_more_pixels_than_can_be_is_left_to_others() -> None:
    grey = content(noise())
    place = grey.index(b"\xff\xc0") + 5  # height and width, of 16 bits each
    for sides in (b"\x40\x00\x40\x00", b"\xff\xff\xff\xff"):
        assert open_grey_jpeg(grey[:place] + sides + grey[place + 4 :]) is None


def test_one_that_is_cut_off_is_refused() -> None:
    whole = content(noise())
    read = open_grey_jpeg(whole[: len(whole) // 2])
    assert read is not None
    with pytest.raises(MalformedMessage, match="cut off") as caught:
        read.volume()
    assert caught.value.__suppress_context__
