from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from pictures import save_picture

from inference_server.errors import InvalidVolume, MalformedMessage, TooLarge
from inference_server.imaging.picture import read_picture, read_picture_header


def saved(path: Path, pixels: np.ndarray, *, colour: bool = False) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=colour), str(path))
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_grey_png_reads_as_one_slice(dtype: type, tmp_path: Path) -> None:
    pixels = (np.arange(12).reshape(3, 4) * 20).astype(dtype)
    path = saved(tmp_path / "a.png", pixels)
    volume = read_picture(path, max_bytes=1000)
    assert np.array_equal(volume.array, pixels[None])
    assert volume.array.dtype == dtype
    assert read_picture_header(path) == (volume.geometry, 48)


def test_a_jpeg_reads_as_one_slice(tmp_path: Path) -> None:
    volume = read_picture(saved(tmp_path / "a.jpg", np.full((8, 16), 100, np.uint8)), max_bytes=1000)
    assert volume.array.shape == (1, 8, 16)
    assert np.abs(volume.array.astype(int) - 100).max() <= 2


def test_colours_become_their_luminance(tmp_path: Path) -> None:
    pixels = np.zeros((1, 3, 3), np.uint8)
    pixels[0] = [[100, 100, 100], [255, 0, 0], [0, 255, 0]]
    grey = read_picture(saved(tmp_path / "a.png", pixels, colour=True), max_bytes=1000).array
    assert grey[0, 0] == pytest.approx([100, 0.299 * 255, 0.587 * 255], abs=1e-3)


def test_a_damaged_picture_is_refused_without_its_path(tmp_path: Path) -> None:
    path = saved(tmp_path / "Jane.jpg", np.zeros((30, 40), np.uint8))
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(MalformedMessage, match="cannot be read") as caught:
        read_picture(path, max_bytes=10_000)
    assert caught.value.__suppress_context__
    assert "Jane" not in caught.value.message


def test_a_picture_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match="4800 bytes"):
        read_picture(saved(tmp_path / "a.png", np.zeros((30, 40), np.uint8)), max_bytes=4799)


def test_several_slices_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.dcm", np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(InvalidVolume, match="One 2-D picture"):
        read_picture_header(path)


@pytest.mark.parametrize("ending", ["nii", "tif", "bmp", "mha", "nrrd", "hdf5"])
def test_other_formats_are_refused_whatever_the_name(ending: str, tmp_path: Path) -> None:
    other = saved(tmp_path / f"a.{ending}", np.zeros((3, 4), np.uint8))
    with pytest.raises(MalformedMessage, match="of another format"):
        read_picture_header(other)
    with pytest.raises(MalformedMessage, match="of another format"):
        read_picture_header(other.rename(tmp_path / "a.png"))


def test_a_chunk_larger_than_its_file_is_refused_before_there_is_room_made_for_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.zeros((30, 40), np.uint8))
    whole = path.read_bytes()
    header_end = 33  # signature and the first chunk
    path.write_bytes(whole[:header_end] + (2**30).to_bytes(4, "big") + b"sCAL" + whole[header_end:])
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_kb()
    with pytest.raises(MalformedMessage, match="cut off"):
        read_picture_header(path)
    assert peak_kb() - before < 50_000


def peak_kb() -> int:
    """Return the most memory that this process has had since it last forgot."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def test_a_real_x_ray_reads(real_data: Path) -> None:
    volume = read_picture(real_data / "dicom" / "chest_xray_nih_test2.dcm", max_bytes=2**24)
    assert volume.array.shape == (1, 1024, 1024)
    assert volume.array.max() > 100


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("inverse", [False, True])
def test_in_every_dicom_picture_more_is_brighter(inverse: bool, kind: str, tmp_path: Path) -> None:
    pixels = np.array([[0, 10, 20], [30, 40, 100]], kind)
    found = read_picture(save_picture(tmp_path / "a.dcm", pixels, inverse=inverse), max_bytes=1000).array
    lowest, highest = np.iinfo(kind).min, np.iinfo(kind).max
    np.testing.assert_array_equal(found[0], lowest + highest - pixels.astype(int) if inverse else pixels)
    assert found.dtype == kind


def test_an_inverted_dicom_picture_keeps_the_range_of_its_scale(tmp_path: Path) -> None:
    """Stored are 0 and 255 of int16, which stand for -100 and 410."""
    tags = {"0028|1052": "-100", "0028|1053": "2"}
    path = save_picture(tmp_path / "a.dcm", np.array([[-100, 410]], np.int16), tags, inverse=True)
    found = read_picture(path, max_bytes=1000).array
    np.testing.assert_array_equal(found, [[[2 * -1 - 100, 2 * -256 - 100]]])
