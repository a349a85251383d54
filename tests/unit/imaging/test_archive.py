"""Zips from outside: what is refused, with which error, and that nothing said of a size is believed."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference_server.errors import BadRequest, InferenceServerError, MalformedMessage, TooLarge
from inference_server.imaging.archive import Archive, _Bounded, open_archive

ENTRY = b"PK\x01\x02"
END = b"PK\x05\x06"


def opened(path: Path, *, members: int = 10, size_bytes: int = 10_000) -> Archive:
    return open_archive(path, member_limit=members, unpacked_limit_bytes=size_bytes)


def make(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def patched(path: Path, offset: int, value: bytes, *, signature: bytes = ENTRY) -> Path:
    """Overwrite a field of the directory's first entry."""
    content = bytearray(path.read_bytes())
    start = content.index(signature) + offset
    content[start : start + len(value)] = value
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_read_as_they_were_written(method: int, tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", ("a.bin", b"abc" * 1000), ("b ü.json", b"{}"), method=method)
    with opened(path) as archive:
        assert archive.names == ("a.bin", "b ü.json")
        assert archive.read("a.bin", 3000) == b"abc" * 1000
        with archive.open("b ü.json") as stream:
            assert stream.read(1) == b"{"
            assert stream.read() == b"}"


def test_the_file_is_closed_with_the_archive(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", ("a", b"abc"))
    with opened(path) as archive:
        pass
    with pytest.raises(MalformedMessage):
        archive.read("a", 10)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip at all", b"PK\x05\x06", b"\x1f\x8b" + bytes(100)])
def test_what_is_no_zip_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(MalformedMessage, match="not a zip"):
        opened(tmp_path / "a.zip")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_zip_is_refused(part: float, tmp_path: Path) -> None:
    content = make(tmp_path / "a.zip", ("a", bytes(500)), ("b", bytes(500))).read_bytes()
    (tmp_path / "a.zip").write_bytes(content[: int(part * len(content))])
    with pytest.raises(MalformedMessage):
        opened(tmp_path / "a.zip")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a", "a/../b", "folder/", "folder/a", "C:\\a", "..\\a", "..", ".", " ", "a\0b"]
)
def test_a_name_that_is_a_path_is_refused_without_being_repeated(name: str, tmp_path: Path) -> None:
    info = zipfile.ZipInfo("placeholder")
    info.filename = name
    with pytest.raises(BadRequest, match="flat zip") as caught:
        opened(make(tmp_path / "a.zip", (info, b"")))
    assert "passwd" not in caught.value.message


@pytest.mark.parametrize("kind", [0o120777, 0o040755, 0o010644, 0o060644])
def test_links_and_special_files_are_refused(kind: int, tmp_path: Path) -> None:
    info = zipfile.ZipInfo("a")
    info.external_attr = kind << 16
    with pytest.raises(BadRequest, match="plain files"):
        opened(make(tmp_path / "a.zip", (info, b"/etc/passwd")))


def test_duplicate_names_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", ("secret name", b"1"), ("secret namf", b"2"))
    path.write_bytes(path.read_bytes().replace(b"secret namf", b"secret name"))
    with pytest.raises(MalformedMessage, match="same name") as caught:
        opened(path)
    assert "secret" not in caught.value.message


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="encrypted"):
        opened(patched(make(tmp_path / "a.zip", ("a", b"abc")), 8, b"\x01\x00"))


def test_compressions_other_than_deflate_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="deflate"):
        opened(make(tmp_path / "a.zip", ("a", b"abc"), method=zipfile.ZIP_LZMA))


def test_more_members_than_allowed_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", *((f"{i}", b"") for i in range(11)))
    with pytest.raises(TooLarge, match="11 members"):
        opened(path)
    opened(path, members=11).close()


def test_a_directory_of_very_many_entries_is_refused_before_it_is_read(tmp_path: Path) -> None:
    entry = struct.pack("<4s6H3I5H2I", ENTRY, 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    count = 200_000
    end = struct.pack("<4s4H2IH", END, 0, 0, 65_535, 65_535, count * len(entry), 0, 0)
    path = tmp_path / "a.zip"
    with path.open("wb") as file:
        for _ in range(100):
            file.write(entry * (count // 100))
        file.write(end)
    tracemalloc.start()
    with pytest.raises(TooLarge, match="more members"):
        opened(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_members_that_declare_more_than_the_limit_together_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", ("a", bytes(600)), ("b", bytes(600)), method=zipfile.ZIP_DEFLATED)
    with pytest.raises(TooLarge, match="1199 bytes"):
        opened(path, size_bytes=1199)
    opened(path, size_bytes=1200).close()


def test_a_member_that_declares_less_than_it_holds_gives_no_more_than_it_declares(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", ("a", bytes(10**7)), method=zipfile.ZIP_DEFLATED)
    with opened(patched(path, 24, struct.pack("<I", 100))) as archive, pytest.raises(MalformedMessage):
        archive.read("a", 10**6)


def test_bytes_beyond_the_declared_size_are_refused_whatever_the_decoder_gives() -> None:
    class Liar(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return b"x" * (size or 0)

    with pytest.raises(MalformedMessage, match="larger than the zip declares"):
        _Bounded(Liar(), 100).readinto(bytearray(101))


def test_a_member_larger_than_its_kind_may_be_is_refused(tmp_path: Path) -> None:
    with opened(make(tmp_path / "a.zip", ("a", bytes(11)))) as archive:
        assert archive.read("a", 11) == bytes(11)
        with pytest.raises(TooLarge, match="more than 10 bytes"):
            archive.read("a", 10)


def test_damage_within_a_member_is_refused_by_its_checksum(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", ("a", b"abcdefgh"))
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"abcdefgx"))
    with opened(path) as archive, pytest.raises(MalformedMessage):
        archive.read("a", 100)


def test_an_error_does_not_carry_names_in_its_cause_or_context(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", ("Jane Doe", b"abcdefgh"))
    path.write_bytes(path.read_bytes().replace(b"Jane Doe", b"Jane Dot", 1))
    with opened(path) as archive, pytest.raises(MalformedMessage) as caught:
        archive.read("Jane Doe", 100)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_missing_file_is_not_called_a_bad_zip(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        opened(tmp_path / "none.zip")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_gives_the_members_or_one_of_our_errors(data: Any, tmp_path: Path) -> None:
    method = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    path = make(tmp_path / "a.zip", ("a", b"abc" * 20), ("b.json", b"{}"), method=method)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: len(content) - data.draw(st.integers(0, len(content)))])
    try:
        with opened(path) as archive:
            total = sum(len(archive.read(name, 10_000)) for name in archive.names)
    except InferenceServerError:
        return
    assert total <= 10_000
