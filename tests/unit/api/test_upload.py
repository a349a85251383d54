from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from door_support import BOUNDARY, Doors, form, part
from flask import Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from inference_server.api.upload import PART_LIMIT, PIECE_BYTES, TEXT_LIMIT_BYTES, Parts, received
from inference_server.errors import BadRequest, InferenceServerError, MalformedMessage, StorageFull, TooLarge

PARTS = Parts(files=frozenset({"zip_file"}), texts=frozenset({"model", "note"}))
MIB = 1024**2


def request(body: bytes, content_type: str | None = None, **environ: Any) -> Request:
    kind = content_type or f"multipart/form-data; boundary={BOUNDARY}"
    builder = EnvironBuilder("/", method="POST", input_stream=io.BytesIO(body), content_type=kind)
    return Request({**builder.get_environ(), "CONTENT_LENGTH": str(len(body)), **environ})


def chunked(stream: Any) -> Request:
    return request(b"", **{"wsgi.input": stream, "wsgi.input_terminated": True, "CONTENT_LENGTH": ""})


def sent(*parts: bytes) -> Request:
    return request(form(*parts)["data"])


def refused(doors: Doors, asked: Request, limit_bytes: int = 10 * MIB) -> InferenceServerError:
    """Return the error of a refused upload, after which nothing of it is left on the disk."""
    with pytest.raises(InferenceServerError) as caught, received(asked, doors.tasks, PARTS, limit_bytes=limit_bytes):
        pytest.fail("was accepted")
    assert doors.blob_files() == []
    return caught.value


def test_a_file_goes_to_the_disk_and_a_text_to_memory(doors: Doors) -> None:
    content = os.urandom(3 * PIECE_BYTES + 17)
    asked = sent(part("model", "ct-body"), part("zip_file", content, "any name.zip"))
    with received(asked, doors.tasks, PARTS, limit_bytes=MIB) as upload:
        assert upload.texts == {"model": "ct-body"}
        assert [path.read_bytes() for path in upload.files["zip_file"]] == [content]
        assert doors.blob_files() == upload.files["zip_file"]


def test_a_file_without_a_file_name_is_still_a_file(doors: Doors) -> None:
    content = b"PK\x03\x04\xff\xfe\r\n--not the end"
    with received(sent(part("zip_file", content)), doors.tasks, PARTS, limit_bytes=MIB) as upload:
        assert upload.files["zip_file"][0].read_bytes() == content


def test_a_text_with_a_file_name_is_still_a_text(doors: Doors) -> None:
    asked = sent(part("model", "ct-body", "model.txt"))
    with received(asked, doors.tasks, PARTS, limit_bytes=MIB) as upload:
        assert upload.texts == {"model": "ct-body"}


def test_what_nobody_takes_is_removed_also_after_an_error(doors: Doors) -> None:
    def use() -> None:
        with received(sent(part("zip_file", b"x", "")), doors.tasks, PARTS, limit_bytes=MIB) as upload:
            upload.stage().write_bytes(b"more")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert doors.blob_files() == []


def test_what_is_stored_meanwhile_stays(doors: Doors) -> None:
    with received(sent(part("zip_file", b"x", "")), doors.tasks, PARTS, limit_bytes=MIB) as upload:
        key = doors.blobs.put(upload.files["zip_file"][0])
    with doors.blobs.open(key) as file:
        assert file.read() == b"x"


@pytest.mark.parametrize("content_type", ["application/zip", "multipart/form-data", "multipart/form-data; boundary=ü"])
def test_another_content_type_is_refused(doors: Doors, content_type: str) -> None:
    error = refused(doors, request(b"PK", content_type))
    assert isinstance(error, MalformedMessage)
    assert "multipart/form-data" in error.message


def test_a_body_that_announces_too_much_is_refused_unread(doors: Doors) -> None:
    body = io.BytesIO(b"never read")
    error = refused(doors, request(b"", CONTENT_LENGTH=str(2 * MIB), **{"wsgi.input": body}), limit_bytes=MIB)
    assert isinstance(error, TooLarge)
    assert error.message == "The upload is larger than the 1 MiB that this server takes."
    assert body.tell() == 0


class Endless(io.RawIOBase):
    """A body that never ends, as a client may send in chunks."""

    def __init__(self) -> None:
        self.given = 0
        self._head: bytes | None = part("zip_file", b"", "a")[:-2]

    def read(self, size: int = -1) -> bytes:
        piece, self._head = self._head or bytes(size), None
        self.given += len(piece)
        return piece


def test_a_body_of_unknown_length_is_stopped_at_the_limit(doors: Doors) -> None:
    stream = Endless()
    assert isinstance(refused(doors, chunked(stream), limit_bytes=MIB), TooLarge)
    assert MIB <= stream.given <= MIB + 2 * PIECE_BYTES


def test_a_disk_without_room_for_the_upload_refuses_it_unread(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors.blobs, "free_bytes", lambda: MIB)
    body = io.BytesIO(b"never read")
    error = refused(doors, request(b"", CONTENT_LENGTH=str(2 * MIB), **{"wsgi.input": body}))
    assert isinstance(error, StorageFull)
    assert body.tell() == 0


def test_a_disk_that_fills_up_meanwhile_ends_the_upload(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    free: Iterator[int] = iter([MIB, 0])
    monkeypatch.setattr("inference_server.api.upload.ROOM_STEP_BYTES", PIECE_BYTES)
    monkeypatch.setattr(doors.tasks, "ensure_room", lambda size: _no_room(next(free)))
    assert isinstance(refused(doors, sent(part("zip_file", bytes(5 * PIECE_BYTES), "a"))), StorageFull)


def _no_room(free_bytes: int) -> None:
    if not free_bytes:
        raise StorageFull


def test_a_full_disk_is_told_as_such(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors.tasks, "stage", lambda: Path("/dev/full"))
    monkeypatch.setattr(doors.tasks, "discard", lambda path: None)
    assert isinstance(refused(doors, sent(part("zip_file", bytes(MIB), "a"))), StorageFull)


class Broken(io.RawIOBase):
    """A connection that breaks after the first piece."""

    def __init__(self) -> None:
        self._pieces = iter([part("zip_file", b"half", "a")])

    def read(self, size: int = -1) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            raise ConnectionResetError from None


def test_a_connection_that_breaks_leaves_nothing(doors: Doors) -> None:
    error = refused(doors, chunked(Broken()))
    assert isinstance(error, MalformedMessage)
    assert error.message == "The connection ended before the upload was complete."


@pytest.mark.parametrize("cut", [3, 5, len(BOUNDARY) + 6, 50, 120])
def test_a_truncated_form_is_refused(doors: Doors, cut: int) -> None:
    whole = form(part("zip_file", b"0123456789" * 10, "a"))["data"]
    error = refused(doors, request(whole[:-cut]))
    assert isinstance(error, MalformedMessage)


def test_an_endless_header_is_refused_before_it_fills_the_memory(doors: Doors) -> None:
    body = f"--{BOUNDARY}\r\nX: ".encode() + b"a" * (20 * PIECE_BYTES)
    assert isinstance(refused(doors, request(body)), MalformedMessage)


def test_a_text_that_is_too_long_is_refused(doors: Doors) -> None:
    error = refused(doors, sent(part("note", "a" * (TEXT_LIMIT_BYTES + 1))))
    assert isinstance(error, TooLarge)
    assert error.field == "note"


def test_too_many_parts_are_refused(doors: Doors) -> None:
    error = refused(doors, sent(*[part("zip_file", b"x", "a")] * (PART_LIMIT + 1)))
    assert isinstance(error, TooLarge)


def test_a_text_given_twice_is_refused(doors: Doors) -> None:
    error = refused(doors, sent(part("model", "a"), part("model", "b")))
    assert isinstance(error, BadRequest)
    assert error.field == "model"


def test_a_text_that_is_no_utf8_is_refused(doors: Doors) -> None:
    assert refused(doors, sent(part("model", b"\xff\xfe"))).field == "model"


def test_an_unknown_part_is_refused_by_its_name_and_never_by_its_file_name(doors: Doors) -> None:
    error = refused(doors, sent(part("zip", b"PK", "Doe^John.zip")))
    assert error.message == "The form has a part 'zip' that is not known here. Its parts: model, note, zip_file."
    assert "Doe" not in error.message


def test_a_part_without_a_name_is_refused(doors: Doors) -> None:
    body = f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode()
    assert isinstance(refused(doors, request(body)), BadRequest)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([b"\r\n", b"--", BOUNDARY.encode(), b"\n", b"\r", b"abc", b'"', b"\0"]), max_size=40))
def test_any_content_arrives_as_it_was_or_the_form_is_refused(doors: Doors, pieces: list[bytes]) -> None:
    content = b"".join(pieces)
    try:
        with received(sent(part("zip_file", content, "a")), doors.tasks, PARTS, limit_bytes=MIB) as upload:
            arrived = upload.files["zip_file"][0].read_bytes()
    except InferenceServerError:
        arrived = content
        assert f"--{BOUNDARY}".encode() in content
    assert arrived == content or f"--{BOUNDARY}".encode() in content
    assert doors.blob_files() == []


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_make_it_fail_in_another_way(doors: Doors, noise: bytes, as_head: bool) -> None:
    body = f"--{BOUNDARY}\r\n".encode() + noise if as_head else noise
    with suppress(BadRequest, TooLarge), received(request(body), doors.tasks, PARTS, limit_bytes=MIB):
        pass
    assert doors.blob_files() == []


def test_parts_of_other_names_are_passed_over_where_a_route_says_so(doors: Doors) -> None:
    parts = Parts(files=frozenset({"zip_file"}), texts=frozenset({"note"}), others_pass=True)
    asked = sent(
        part("x", os.urandom(PIECE_BYTES * 3)), part("zip_file", b"content"), part("y", "z"), part("note", "n")
    )
    with received(asked, doors.tasks, parts, limit_bytes=MIB) as upload:
        assert (list(upload.files), upload.texts) == (["zip_file"], {"note": "n"})
        assert len(doors.blob_files()) == 1
    twice = sent(part("note", "a"), part("note", "b"))
    with pytest.raises(BadRequest, match="more than one 'note'"), received(twice, doors.tasks, parts, limit_bytes=MIB):
        pytest.fail("was accepted")


def test_a_file_is_decoded_on_its_way_to_the_disk(doors: Doors) -> None:
    def upper(name: str, data: Iterator[bytes]) -> Iterator[bytes]:
        yield name.encode()
        yield from (piece.upper() for piece in data)

    parts = Parts(files=frozenset({"zip_file"}), decode=upper)
    with received(sent(part("zip_file", b"abc")), doors.tasks, parts, limit_bytes=MIB) as upload:
        assert upload.files["zip_file"][0].read_bytes() == b"zip_fileABC"


def test_the_number_of_parts_is_the_routes(doors: Doors) -> None:
    parts = Parts(files=frozenset(), others_pass=True, limit=2)
    for count in (2, 3):
        asked = sent(*[part("x", "y")] * count)
        try:
            with received(asked, doors.tasks, parts, limit_bytes=MIB):
                assert count == 2
        except TooLarge:
            assert count == 3
