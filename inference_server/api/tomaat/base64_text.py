"""Base64 as it goes over the wire, in pieces of any size and in flat memory."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from inference_server.errors import MalformedMessage

_WHITE = b" \t\r\n\v\f"
_HEAD_BYTES = 64
_MHA_KEY = re.compile(rb"\s*[A-Za-z]\w*[ \t]*=[ \t]*[\w-]")
"""How an MHA file begins. Base64 never reads so: nothing but another `=` comes after its `=`."""


def decode_base64(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes that a base64 text stands for; white space anywhere in it means nothing.

    Raises:
        MalformedMessage: it is no base64 text, or is cut off.
    """
    rest, is_padded = b"", False
    for piece in pieces:
        text = rest + piece.translate(None, _WHITE)
        if text and is_padded:
            raise _malformed()
        whole = len(text) // 4 * 4
        rest = text[whole:]
        is_padded = text[:whole].endswith(b"=")
        yield _decoded(text[:whole])
    if rest:
        raise _malformed()


def decode_volume(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes of an MHA file that was sent as base64 or, by older clients, as it is.

    Raises:
        MalformedMessage: it is neither.
    """
    iterator = iter(pieces)
    head = b""
    for piece in iterator:
        head += piece
        if len(head) >= _HEAD_BYTES:
            break
    rest = chain((head,), iterator)
    return rest if _MHA_KEY.match(head) else decode_base64(rest)


def encode_base64(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the base64 text of some bytes, in one line."""
    rest = b""
    for piece in pieces:
        content = rest + piece
        whole = len(content) // 3 * 3
        rest = content[whole:]
        yield binascii.b2a_base64(content[:whole], newline=False)
    yield binascii.b2a_base64(rest, newline=False)


def _decoded(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise _malformed() from None


def _malformed() -> MalformedMessage:
    return MalformedMessage("The file that was sent is damaged: it is not base64 text, or is cut off.")
