"""MHA files against SimpleITK, in both directions, and what is refused of them."""

from __future__ import annotations

import io
import tracemalloc
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nifti_files import oblique

from inference_server.errors import InferenceServerError, InvalidVolume, MalformedMessage, TooLarge
from inference_server.imaging.mha import mha_to_nifti, nifti_to_mha, read_mha_header
from inference_server.imaging.nifti import read_volume, write_labels
from inference_server.imaging.volume import Geometry, Volume

PIXELS = {
    "u1": sitk.sitkUInt8, "i1": sitk.sitkInt8, "u2": sitk.sitkUInt16, "i2": sitk.sitkInt16, "u4": sitk.sitkUInt32,
    "i4": sitk.sitkInt32, "u8": sitk.sitkUInt64, "i8": sitk.sitkInt64, "f4": sitk.sitkFloat32, "f8": sitk.sitkFloat64,
}  # fmt: skip
LIMIT = 10**6
ARRAY = np.arange(24, dtype="<i2").reshape(4, 3, 2)
HEADER = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "0 0 0",
    "ElementSpacing": "1 1 1",
    "DimSize": "2 3 4",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}


def mha(voxels: bytes = ARRAY.tobytes(), *, without: str = "", **said: str) -> bytes:
    """An MHA file, written by hand; what is said more stands before the line that ends the header."""
    last = {"ElementDataFile": said.pop("ElementDataFile", HEADER["ElementDataFile"])}
    whole = {**{key: value for key, value in HEADER.items() if key not in last}, **said, **last}
    return "".join(f"{key} = {value}\n" for key, value in whole.items() if key != without).encode("latin-1") + voxels


def placed(seed: int, array: np.ndarray) -> sitk.Image:
    """An oblique, anisotropic image, left-handed for odd seeds, whose numbers need all of float64."""
    image = sitk.GetImageFromArray(array)
    image.SetDirection((oblique(seed)[:3, :3] / [0.7, 1.3, 2.9]).ravel().tolist())
    image.SetSpacing((0.1 + 0.2, 1 / 3, np.pi))
    image.SetOrigin((-101.30000000000001, 1e-17, 2 / 3))
    return image


def grid(image: sitk.Image) -> Geometry:
    x, y, z = image.GetSize()
    return Geometry((z, y, x), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def converted(content: bytes, **options: Any) -> tuple[Geometry, bytes]:
    target = io.BytesIO()
    geometry = mha_to_nifti(io.BytesIO(content), target, **{"limit_bytes": LIMIT, **options})
    return geometry, target.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", PIXELS)
def test_every_scalar_type_comes_from_simpleitk_to_the_bit(name: str, compressed: bool, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(name)
    for seed in range(4):
        image = sitk.Cast(placed(seed, array), PIXELS[name])
        sitk.WriteImage(image, str(tmp_path / "a.mha"), compressed)
        geometry, nifti = converted((tmp_path / "a.mha").read_bytes())
        assert geometry == grid(image)
        assert nifti[352:] == array.tobytes()
        volume = read_volume(io.BytesIO(nifti), max_bytes=LIMIT)
        assert np.allclose(volume.geometry.affine, geometry.affine, atol=1e-4)
        assert volume.array.dtype == np.dtype(name)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("seed", range(4))
def test_labels_go_to_simpleitk_to_the_bit(seed: int, dtype: str, tmp_path: Path) -> None:
    image = placed(seed, np.random.default_rng(seed).integers(0, 200, (5, 4, 3)).astype(dtype))
    labels = Volume(sitk.GetArrayFromImage(image), grid(image))
    write_labels(tmp_path / "labels.nii.gz", labels)
    nifti_to_mha(tmp_path / "labels.nii.gz", tmp_path / "labels.mha", labels.geometry)
    back = sitk.ReadImage(str(tmp_path / "labels.mha"))
    assert grid(back) == labels.geometry
    assert np.array_equal(sitk.GetArrayFromImage(back), labels.array)
    assert back.GetPixelID() == PIXELS[dtype]
    assert b"CompressedData = True" in (tmp_path / "labels.mha").read_bytes()


def test_there_and_back_is_the_same_file_to_the_bit_and_streams_need_not_be_files(tmp_path: Path) -> None:
    image = placed(1, np.arange(60, dtype=np.uint8).reshape(5, 4, 3))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    geometry, nifti = converted((tmp_path / "a.mha").read_bytes())
    target = io.BytesIO()
    nifti_to_mha(io.BytesIO(nifti), target, geometry)
    assert converted(target.getvalue()) == (geometry, nifti)


@pytest.mark.parametrize("compressed", [False, True])
def test_big_endian_voxels_stay_as_they_are(compressed: bool, tmp_path: Path) -> None:
    voxels = ARRAY.astype(">i2").tobytes()
    stored = zlib.compress(voxels) if compressed else voxels
    said = {"CompressedData": str(compressed), "CompressedDataSize": str(len(stored))}
    content = mha(stored, BinaryDataByteOrderMSB="True", Offset="1.1 2.2 3.3", **said)
    geometry, nifti = converted(content)
    assert nifti[352:] == voxels
    volume = read_volume(io.BytesIO(nifti), max_bytes=LIMIT)
    assert np.array_equal(volume.array, ARRAY)
    assert np.allclose(volume.geometry.origin_mm, geometry.origin_mm, atol=1e-6)
    (tmp_path / "a.mha").write_bytes(content)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.mha"))), ARRAY)


@pytest.mark.parametrize("met", ["MET_LONG", "MET_ULONG", "MET_LONG_LONG"])
def test_types_of_the_older_names_have_the_size_that_itk_gives_them(met: str, tmp_path: Path) -> None:
    header = read_mha_header(io.BytesIO(mha(ElementType=met)))
    (tmp_path / "a.mha").write_bytes(mha(bytes(header.array_bytes), ElementType=met))
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.mha"))).dtype
    assert (found.kind, found.itemsize) == (header.dtype.kind, header.dtype.itemsize)


def test_an_intensity_scale_is_left_alone_as_itk_does(tmp_path: Path) -> None:
    content = mha(ElementToIntensityFunctionSlope="2", ElementToIntensityFunctionOffset="7")
    (tmp_path / "a.mha").write_bytes(content)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.mha"))), ARRAY)
    assert converted(content)[1][352:] == ARRAY.tobytes()


def test_other_names_of_a_key_and_lines_that_mean_nothing_here_are_read() -> None:
    said = {"Position": "4 5 6", "Orientation": "0 1 0 -1 0 0 0 0 1", "Comment": "a = b", "Modality": "MET_MOD_CT"}
    content = mha(**said).replace(b"Offset = 0 0 0\n", b"").replace(b"TransformMatrix = 1 0 0 0 1 0 0 0 1\n", b"")
    geometry, _ = converted(content.replace(b"\n", b"\r\n", 3))
    assert geometry.origin_mm == (4, 5, 6)
    assert geometry.direction == (0, -1, 0, 1, 0, 0, 0, 0, 1)


def test_where_it_says_no_direction_the_axes_are_the_patients_as_in_itk(tmp_path: Path) -> None:
    content = mha(without="TransformMatrix")
    (tmp_path / "a.mha").write_bytes(content)
    assert converted(content)[0] == grid(sitk.ReadImage(str(tmp_path / "a.mha")))


@pytest.mark.parametrize(
    ("size", "axes"), [({"NDims": "2", "DimSize": "3 2"}, 2), ({"NDims": "3", "DimSize": "3 2 1"}, 3)]
)
def test_a_picture_is_taken_where_one_is_asked_for(size: dict[str, str], axes: int) -> None:
    said = {"TransformMatrix": "0 1 -1 0" if axes == 2 else "0 1 0 -1 0 0 0 0 1", "Offset": "7 8 9"[: 2 * axes - 1]}
    content = mha(bytes(12), **size, **said, ElementSpacing="2 3 4"[: 2 * axes - 1])
    geometry, _ = converted(content, dimensions=2)
    assert geometry.shape == (1, 2, 3)
    assert geometry.direction == (0, -1, 0, 1, 0, 0, 0, 0, 1)
    assert geometry.spacing_mm[:2] == (2, 3)
    assert geometry.origin_mm[:2] == (7, 8)


def test_a_stream_stands_at_the_first_voxel_after_its_header() -> None:
    stream = io.BytesIO(mha())
    assert read_mha_header(stream).array_bytes == 48
    assert stream.read() == ARRAY.tobytes()


REFUSED: list[tuple[bytes, type[InferenceServerError], str]] = [
    (b"", MalformedMessage, "not an MHA"),
    (b"\x1f\x8b" + bytes(400), MalformedMessage, "not an MHA"),
    (b"a = b\n" * 200_000, MalformedMessage, "not an MHA"),
    (b"a" * 10**6, MalformedMessage, "not an MHA"),
    (mha()[:60], MalformedMessage, "not an MHA"),
    (mha(without="NDims"), MalformedMessage, "not an MHA"),
    (mha(ObjectType="Tube"), MalformedMessage, "not an MHA"),
    (mha(without="DimSize"), MalformedMessage, "DimSize"),
    (mha(without="ElementType"), MalformedMessage, "ElementType"),
    (mha(without="ElementSpacing"), InvalidVolume, "how large its voxels are"),
    (mha(DimSize="2 3"), MalformedMessage, "2 numbers as DimSize; 3"),
    (mha(DimSize="2 3 x"), MalformedMessage, "finite number as DimSize"),
    (mha(DimSize="2 3 1.5"), MalformedMessage, "whole numbers"),
    (mha(DimSize="2 3 0"), InvalidVolume, "at least one voxel"),
    (mha(DimSize="2 3 -4"), InvalidVolume, "at least one voxel"),
    (mha(DimSize="2 3 40000"), InvalidVolume, "longer than a NIfTI"),
    (mha(Offset="0 0 nan"), MalformedMessage, "finite number as Offset"),
    (mha(Position="0 0 1"), MalformedMessage, "'Offset' twice"),
    (mha(ElementSpacing="1 0 1"), InvalidVolume, "positive"),
    (mha(ElementSpacing="1 1 1e999"), MalformedMessage, "ElementSpacing"),
    (mha(TransformMatrix="1 0 0 0 1 0 0 0 0"), InvalidVolume, "degenerate"),
    (mha(TransformMatrix="1 0 0 0.1 1 0 0 0 1"), InvalidVolume, "sheared"),
    (mha(TransformMatrix="2 0 0 0 1 0 0 0 1"), InvalidVolume, "length 1"),
    (mha(CompressedData="perhaps"), MalformedMessage, "neither True nor False as CompressedData"),
    (mha(BinaryData="False"), MalformedMessage, "written as text"),
    (mha(HeaderSize="12"), MalformedMessage, "HeaderSize"),
    (mha(ElementDataFile="other.raw"), MalformedMessage, "in another file"),
    (mha(ElementDataFile="LIST"), MalformedMessage, "in another file"),
    (mha(ElementNumberOfChannels="3"), InvalidVolume, "several"),
    (mha(ElementType="MET_SHORT_ARRAY"), InvalidVolume, "one whole or decimal number"),
    (mha(NDims="4", DimSize="2 3 4 1"), InvalidVolume, "this one is 4-D"),
    (mha(NDims="2", DimSize="2 3"), InvalidVolume, "this one is 2-D"),
    (mha(ARRAY.tobytes()[:-1]), MalformedMessage, "cut off"),
    (mha(zlib.compress(ARRAY.tobytes())[:-1], CompressedData="True"), MalformedMessage, "cut off"),
    (mha(zlib.compress(ARRAY.tobytes()[:-1]), CompressedData="True"), MalformedMessage, "cut off"),
    (mha(zlib.compress(bytes(10**7)), CompressedData="True"), MalformedMessage, "more voxels"),
    (mha(zlib.compress(ARRAY.tobytes())[:-4] + bytes(4), CompressedData="True"), MalformedMessage, "damaged"),
    (mha(ARRAY.tobytes(), CompressedData="True"), MalformedMessage, "damaged"),
    (mha(DimSize="30000 30000 30000"), TooLarge, "30000 x 30000 x 30000"),
]


@pytest.mark.parametrize(("content", "error", "words"), REFUSED, ids=[words for _, _, words in REFUSED])
def test_what_is_no_usable_volume_is_refused_with_a_sentence(
    content: bytes, error: type[InferenceServerError], words: str
) -> None:
    with pytest.raises(error) as caught:
        converted(content)
    assert type(caught.value) is error
    assert words in caught.value.message


def test_a_volume_of_several_slices_is_no_picture() -> None:
    with pytest.raises(InvalidVolume, match="has 4 slices"):
        converted(mha(), dimensions=2)


def test_labels_of_another_shape_than_their_geometry_are_refused(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.nii.gz", Volume(np.zeros((2, 2, 2), np.uint8), Geometry((2, 2, 2))))
    with pytest.raises(InvalidVolume, match="shape"):
        nifti_to_mha(tmp_path / "a.nii.gz", tmp_path / "a.mha", Geometry((2, 2, 3)))


class Zeros(io.RawIOBase):
    """An endless stream of zeros after a beginning."""

    def __init__(self, beginning: bytes) -> None:
        self._rest = io.BytesIO(beginning)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        piece = self._rest.read(len(buffer)) or bytes(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


class Sink(io.RawIOBase):
    """Takes bytes and counts them."""

    taken = 0

    def writable(self) -> bool:
        return True

    def write(self, piece: Any, /) -> int:
        self.taken += len(piece)
        return len(piece)


@pytest.mark.parametrize("compressed", [False, True])
def test_memory_does_not_grow_with_the_volume(compressed: bool) -> None:
    size_bytes = 256 * 256 * 500 * 2
    packed = zlib.compress(bytes(size_bytes), 1) if compressed else b""
    source: Any = io.BufferedReader(Zeros(mha(packed, DimSize="256 256 500", CompressedData=str(compressed))))
    target: BinaryIO = Sink()  # type: ignore[assignment]
    tracemalloc.start()
    try:
        mha_to_nifti(source, target, limit_bytes=10**9)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert target.taken == 352 + size_bytes  # type: ignore[attr-defined]
    assert peak < 8 * 1024**2
