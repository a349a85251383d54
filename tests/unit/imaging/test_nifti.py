"""What a NIfTI reader takes, what it refuses and with which error, and what it never does."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nifti_files import nifti, packed

from inference_server.errors import InferenceServerError, InvalidVolume, MalformedMessage, TooLarge
from inference_server.imaging.nifti import read_header, read_volume, write_labels
from inference_server.imaging.volume import Geometry, Volume

ARRAY = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
PLAIN = nifti(ARRAY, np.eye(4))
LIMIT = 10_000


def read(content: bytes, max_bytes: int = LIMIT) -> Volume:
    return read_volume(io.BytesIO(content), max_bytes=max_bytes)


class Endless(io.RawIOBase):
    """A file that begins as given and goes on with zeros for ever; it counts what was taken."""

    def __init__(self, beginning: bytes) -> None:
        self._beginning = io.BytesIO(beginning)
        self.taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._beginning.read(len(buffer)) or bytes(len(buffer))
        buffer[: len(part)] = part
        self.taken += len(part)
        return len(part)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_every_number_type_reads_in_native_order_and_as_zyx(dtype: str, big_endian: bool) -> None:
    array = (ARRAY * 3).astype(dtype)
    volume = read(packed(nifti(array, np.eye(4), big_endian=big_endian)))
    assert volume.array.dtype == np.dtype(dtype)
    assert volume.array.dtype.isnative
    assert volume.array.flags.c_contiguous
    assert volume.array.flags.writeable
    assert np.array_equal(volume.array, array.transpose())


def test_plain_and_gzipped_files_read_alike_from_paths_and_streams(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(PLAIN)
    (tmp_path / "a.nii.gz").write_bytes(packed(PLAIN))
    for source in (tmp_path / "a.nii", tmp_path / "a.nii.gz", io.BytesIO(PLAIN), io.BytesIO(packed(PLAIN))):
        assert np.array_equal(read_volume(source, max_bytes=LIMIT).array, ARRAY.transpose())


def test_a_stream_passed_in_stays_open() -> None:
    stream = io.BytesIO(PLAIN)
    read_header(stream)
    stream.seek(0)
    assert np.array_equal(read_volume(stream, max_bytes=LIMIT).array, ARRAY.transpose())


def test_a_gzip_of_several_parts_reads_whole() -> None:
    assert np.array_equal(read(gzip.compress(PLAIN[:400]) + gzip.compress(PLAIN[400:])).array, ARRAY.transpose())


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"), [(2, -1024, 2 * ARRAY - 1024), (0, 5, ARRAY), (np.nan, 0, ARRAY)]
)
def test_slope_and_intercept_are_applied_unless_the_slope_is_zero_or_unset(
    slope: float, intercept: float, expected: np.ndarray
) -> None:
    volume = read(nifti(ARRAY, np.eye(4), scl_slope=slope, scl_inter=intercept))
    assert np.array_equal(volume.array, expected.transpose())
    assert volume.array.dtype == (np.float32 if slope == 2 else np.int16)


def test_a_file_with_one_time_point_is_three_dimensional() -> None:
    assert read(nifti(ARRAY[..., None], np.eye(4))).array.shape == (4, 3, 2)


def test_a_flat_file_is_one_slice_and_says_that_it_has_two_axes() -> None:
    flat = nifti(ARRAY[..., 0])
    assert read(flat).array.shape == (1, 3, 2)
    assert read_header(io.BytesIO(flat)).ndim == 2


def test_header_extensions_before_the_voxels_are_passed_over() -> None:
    content = nifti(ARRAY, np.eye(4), vox_offset=352 + 32)
    assert np.array_equal(read(content[:352] + bytes(range(32)) + content[352:]).array, ARRAY.transpose())


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"", MalformedMessage, "not a NIfTI"),
        (b"x" * 500, MalformedMessage, "not a NIfTI"),
        (PLAIN[:200], MalformedMessage, "not a NIfTI"),
        (PLAIN[:-1], MalformedMessage, "cut off"),
        (packed(PLAIN)[:-20], MalformedMessage, "cut off"),
        (b"\x1f\x8b" + bytes(20), MalformedMessage, "damaged"),
        (nifti(ARRAY, magic=b"ni1"), MalformedMessage, "single-file"),
        (b"\x1c\x02\0\0" + bytes(540), MalformedMessage, "NIfTI-2"),
        (nifti(ARRAY, vox_offset=np.inf), MalformedMessage, "voxels begin"),
        (nifti(ARRAY, datatype=32), InvalidVolume, "number per voxel"),
        (nifti(ARRAY, datatype=128), InvalidVolume, "number per voxel"),
        (nifti(np.zeros((2, 2, 2, 5), "u1")), InvalidVolume, "time point"),
        (nifti(np.zeros(5, "u1")), InvalidVolume, "two or three axes"),
        (nifti(ARRAY, dim=[3, 2, 0, 4, 1, 1, 1, 1]), InvalidVolume, "without voxels"),
        (nifti(ARRAY, dim=[3, 2, -3, 4, 1, 1, 1, 1]), InvalidVolume, "without voxels"),
        (nifti(ARRAY, np.eye(4), pixdim=[1, 1, 0, 1, 1, 1, 1, 1]), InvalidVolume, "spacing"),
        (nifti(ARRAY, np.eye(4), pixdim=[1, 1, -1, 1, 1, 1, 1, 1]), InvalidVolume, "spacing"),
        (nifti(ARRAY, np.eye(4), pixdim=[1, 1, np.nan, 1, 1, 1, 1, 1]), InvalidVolume, "spacing"),
        (nifti(ARRAY, np.eye(4), srow_x=[1, 0, 0, np.nan]), InvalidVolume, "finite"),
        (nifti(ARRAY, np.eye(4), qoffset_y=np.inf, sform_code=0), InvalidVolume, "finite"),
        (nifti(ARRAY, np.eye(4), srow_x=[0, 0, 0, 0], qform_code=0), InvalidVolume, "axis has length 0"),
        (nifti(ARRAY, np.eye(4), srow_x=[1, 1, 0, 0], srow_y=[1, 1, 0, 0], qform_code=0), InvalidVolume, "degenerate"),
        (nifti(ARRAY, np.eye(4), scl_slope=np.inf), InvalidVolume, "intensity scale"),
    ],
)
def test_what_is_no_usable_image_is_refused_with_a_sentence(
    content: bytes, error: type[InferenceServerError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        read(content)
    assert type(caught.value) is error
    assert caught.value.message.endswith(".")


def test_a_damaged_gzip_is_refused_by_its_checksum() -> None:
    content = bytearray(packed(PLAIN))
    content[-6] ^= 1
    with pytest.raises(MalformedMessage, match="damaged"):
        read(bytes(content))


def test_an_image_larger_than_the_limit_is_refused_before_its_voxels_are_read() -> None:
    with pytest.raises(TooLarge, match="4 x 3 x 2 voxels, 48 bytes"):
        read(PLAIN[:352], max_bytes=47)
    assert read(PLAIN, max_bytes=48).array.size == 24


def test_the_limit_counts_what_the_scaled_array_takes() -> None:
    with pytest.raises(TooLarge, match="96 bytes"):
        read(nifti(ARRAY.astype("u1"), np.eye(4), scl_slope=2), max_bytes=95)


def test_the_reader_stops_where_the_header_says_that_the_array_ends() -> None:
    endless = Endless(PLAIN)
    volume = read_volume(io.BufferedReader(endless), max_bytes=LIMIT)
    assert np.array_equal(volume.array, ARRAY.transpose())
    assert endless.taken < 100_000


def test_of_a_gzip_bomb_only_the_first_kilobytes_are_unpacked() -> None:
    bomb = gzip.compress(
        nifti(np.zeros((1, 1, 1), "u1"), np.eye(4), dim=[3, 2000, 2000, 2000, 1, 1, 1, 1]) + bytes(10**7)
    )
    assert read_header(io.BytesIO(bomb)).array_bytes == 8 * 10**9
    with pytest.raises(TooLarge):
        read(bomb)


@pytest.mark.parametrize("dtype", ["u1", "u2", "?"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_labels_come_back_as_they_were_written(dtype: str, name: str, tmp_path: Path) -> None:
    labels = (np.arange(24).reshape(4, 3, 2) % 2 * (300 if dtype == "u2" else 1)).astype(dtype)
    write_labels(tmp_path / name, Volume(labels, Geometry((4, 3, 2))))
    back = read_volume(tmp_path / name, max_bytes=LIMIT).array
    assert np.array_equal(back, labels)
    assert back.dtype == (np.uint8 if dtype == "?" else dtype)
    assert ((tmp_path / name).read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")


def test_16_bit_labels_like_a_big_endian_input_come_back_as_they_were_written() -> None:
    volume = read(nifti(ARRAY, np.eye(4), big_endian=True))
    labels = (volume.array.astype(np.uint16) + 256).transpose(0, 1, 2)
    stream = io.BytesIO()
    write_labels(stream, Volume(labels, volume.geometry, volume.nifti_header))
    assert np.array_equal(read(stream.getvalue()).array, labels)


def test_labels_in_any_memory_order_come_back_as_they_were_written() -> None:
    labels = np.asfortranarray(np.arange(24, dtype=np.uint8).reshape(4, 3, 2))
    stream = io.BytesIO()
    write_labels(stream, Volume(labels[::-1], Geometry((4, 3, 2))))
    assert np.array_equal(read(stream.getvalue()).array, labels[::-1])


def test_the_same_labels_give_the_same_bytes() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    for stream in (first, second):
        write_labels(stream, Volume(np.ones((4, 3, 2), np.uint8), Geometry((4, 3, 2))))
    assert first.getvalue() == second.getvalue()


@pytest.mark.parametrize("dtype", ["i2", "f4", "u4"])
def test_labels_of_another_type_are_refused(dtype: str) -> None:
    with pytest.raises(InvalidVolume, match="uint8 or uint16"):
        write_labels(io.BytesIO(), Volume(np.zeros((1, 1, 1), dtype), Geometry((1, 1, 1))))


def test_labels_longer_than_the_format_can_say_are_refused() -> None:
    with pytest.raises(InvalidVolume, match="32768"):
        write_labels(io.BytesIO(), Volume(np.zeros((1, 1, 32_768), np.uint8), Geometry((1, 1, 32_768))))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_damage_gives_an_image_or_one_of_our_errors(data: st.DataObject) -> None:
    content = bytearray(nifti(ARRAY, np.eye(4), big_endian=data.draw(st.booleans())))
    if data.draw(st.booleans()):
        content = bytearray(packed(bytes(content)))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, min(len(content), 360) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        volume = read(bytes(content))
    except InferenceServerError:
        return
    assert volume.array.nbytes <= LIMIT
    assert np.isfinite(volume.geometry.affine).all()
