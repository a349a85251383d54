from __future__ import annotations

import base64
import json
import math
import os
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_server.api.tomaat.json_object import MEMBER_LIMIT, NAME_LIMIT_BYTES, read_members, read_text
from inference_server.errors import InferenceServerError, MalformedMessage, TooLarge

MIB = 1024**2


def cut(content: bytes, size: int) -> Iterator[bytes]:
    return (content[at : at + size] for at in range(0, len(content), size))


def read(content: bytes, size: int = 1000) -> dict[str, Any]:
    """Return what a message says, read in pieces of a size."""
    found: dict[str, Any] = {}
    for name, value in read_members(cut(content, size)):
        found[name] = read_text(value, limit_bytes=MIB) if isinstance(value, Iterator) else value
    return found


plain = st.one_of(
    st.text(max_size=40),
    st.booleans(),
    st.none(),
    st.integers(-(10**15), 10**15),
    st.floats(allow_nan=False, allow_infinity=False),
)
objects = st.dictionaries(st.text(max_size=10), plain, max_size=6)


@settings(max_examples=150)
@given(objects, st.integers(1, 30), st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_it_reads_what_json_writes_however_it_is_cut(
    said: dict[str, Any], size: int, ascii_only: bool, indent: int | str | None
) -> None:
    written = json.dumps(said, ensure_ascii=ascii_only, indent=indent).encode()
    assert read(written, size) == said


@settings(max_examples=150)
@given(objects, st.data())
def test_what_is_cut_off_or_damaged_is_refused_or_read_as_json_reads_it(said: dict[str, Any], data: Any) -> None:
    written = bytearray(json.dumps(said).encode())
    at = data.draw(st.integers(0, len(written) - 1))
    if data.draw(st.booleans()):
        del written[at:]
    else:
        written[at] = data.draw(st.integers(0, 255))
    try:
        found = read(bytes(written), data.draw(st.integers(1, 20)))
    except InferenceServerError:
        return
    assert found == json.loads(bytes(written))


@settings(max_examples=150)
@given(st.binary(max_size=60), st.integers(1, 10))
def test_no_bytes_make_it_fail_in_another_way(noise: bytes, size: int) -> None:
    for content in (noise, b'{"a": ' + noise, b'{"a": "' + noise):
        try:
            read(content, size)
        except (MalformedMessage, TooLarge):
            continue
        assert isinstance(json.loads(content), dict)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"[]",
        b'"a"',
        b"{",
        b'{"a"}',
        b'{"a": }',
        b'{"a": 1,}',
        b'{"a": 1} {}',
        b'{"a": {"b": 1}}',
        b'{"a": [1]}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": "line\nbreak"}',
        b'{"a": "\\x41"}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": 1 2}',
        b"{1: 2}",
        b'{"a": tru}',
        b'{"a": "b" "c"}',
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_what_is_not_one_flat_object_is_refused(message: bytes, size: int) -> None:
    with pytest.raises(MalformedMessage, match="JSON object"):
        read(message, size)


def test_a_number_beyond_a_float_is_infinite_as_json_has_it() -> None:
    assert math.isinf(read(b'{"a": 1e999}')["a"])


def test_a_name_and_the_number_of_members_are_bounded() -> None:
    with pytest.raises(TooLarge):
        read(json.dumps({"a" * (NAME_LIMIT_BYTES + 1): 1}).encode())
    with pytest.raises(TooLarge):
        read(json.dumps({str(number): 1 for number in range(MEMBER_LIMIT + 1)}).encode())
    assert len(read(json.dumps({str(number): 1 for number in range(MEMBER_LIMIT)}).encode())) == MEMBER_LIMIT


def test_what_nobody_reads_of_a_text_is_passed_over() -> None:
    message = json.dumps({"a": "x" * 5000, "b": 2, "c": "y"}).encode()
    assert [name for name, _ in read_members(cut(message, 100))] == ["a", "b", "c"]


def test_memory_does_not_grow_with_a_text() -> None:
    line = json.dumps(base64.encodebytes(os.urandom(57 * 1000)).decode())[1:-1].encode()
    pieces = [b'{"content": "', *[line] * 200, b'", "threshold": 0.5}']
    tracemalloc.start()
    size = 0
    for _name, value in read_members(iter(pieces)):
        if isinstance(value, Iterator):
            size = sum(len(piece) for piece in value)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 200 * 77 * 1000
    assert peak_bytes < 2 * MIB
