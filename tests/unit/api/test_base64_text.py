from __future__ import annotations

import base64
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.api.tomaat.base64_text import decode_base64, decode_volume, encode_base64
from inference_server.errors import MalformedMessage

MHA = b"ObjectType = Image\nNDims = 3\n"


def cut(content: bytes, size: int) -> Iterator[bytes]:
    return (content[at : at + size] for at in range(0, len(content), size))


@given(st.binary(max_size=500), st.integers(1, 100))
def test_what_was_encoded_in_lines_comes_back_however_it_is_cut(content: bytes, size: int) -> None:
    assert b"".join(decode_base64(cut(base64.encodebytes(content), size))) == content
    assert b"".join(encode_base64(cut(content, size))) == base64.b64encode(content)


@pytest.mark.parametrize("text", [b"QUJD\r\nREVG", b" QUJD REVG\n", b"Q\nU\nJ\nD\tREVG", b"QUJDREVG"])
def test_white_space_means_nothing(text: bytes) -> None:
    assert b"".join(decode_base64([text])) == b"ABCDEF"


@pytest.mark.parametrize(
    "text", [b"QUJ", b"Q", b"QUJD!", b"QUI=QUJD", b"QU=J", b"====", b"QUJD=", "QUJDé".encode(), b"QU_-", b"QUI=Q"]
)
@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_what_is_not_base64_is_refused_however_it_is_cut(text: bytes, size: int) -> None:
    with pytest.raises(MalformedMessage, match="base64"):
        b"".join(decode_base64(cut(text, size)))


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("head", [MHA, b"NDims = 3\nObjectType = Image\n", b"ObjectType=Image\r\n", b" Comment = x"])
def test_an_mha_file_comes_as_it_is_or_as_base64(head: bytes, size: int) -> None:
    content = head + os.urandom(300)
    assert b"".join(decode_volume(cut(content, size))) == content
    assert b"".join(decode_volume(cut(base64.encodebytes(content), size))) == content


@given(st.binary(min_size=1, max_size=200))
def test_base64_never_looks_like_an_mha_file(content: bytes) -> None:
    assert b"".join(decode_volume([base64.b64encode(content)])) == content


def test_nothing_is_an_empty_volume() -> None:
    assert b"".join(decode_volume([])) == b""
