"""A JSON object read as a stream: its texts may be larger than the memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import NoReturn

from inference_server.errors import MalformedMessage, TooLarge

Plain = float | int | bool | None
NAME_LIMIT_BYTES = 1024
MEMBER_LIMIT = 100

_ESCAPE_BYTES = 12
"""The longest unit of a text: a pair of surrogates, both escaped."""
_NUMBER_BYTES = 64
_WHITE = re.compile(rb"[ \t\r\n]*")
_TEXT = re.compile(
    rb"""(?:[ !\x23-\x5b\x5d-\x7f]++
    | \\["\\/bfnrt]
    | \\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}
    | \\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}
    | [\xc2-\xdf][\x80-\xbf]
    | [\xe0-\xef][\x80-\xbf]{2}
    | [\xf0-\xf4][\x80-\xbf]{3})*+""",
    re.VERBOSE,
)
_PLAIN = re.compile(rb"[-+.\w]*")


def read_members(pieces: Iterable[bytes]) -> Iterator[tuple[str, Iterator[bytes] | Plain]]:
    """Yield the members of the one JSON object that a stream holds.

    A text comes as an iterator of its bytes in UTF-8, which is good until the next member is asked for. Objects and
    lists inside are not expected.

    Raises:
        MalformedMessage: the stream is something else, or is cut off; also while a text is read.
        TooLarge: a name is longer than 1 KiB, or there are more than 100 members.
    """
    source = _Source(pieces)
    source.expect(b"{")
    more = source.next_sign() != b"}"
    for count in range(MEMBER_LIMIT + 1):
        if not more:
            return source.finish()
        if count == MEMBER_LIMIT:
            break
        name = read_text(source.text(), limit_bytes=NAME_LIMIT_BYTES)
        source.expect(b":")
        value = source.value()
        yield name, value
        if isinstance(value, Iterator):
            source.exhaust(value)
        more = source.comma()
    raise TooLarge(f"The message has more than {MEMBER_LIMIT} members.")


def read_text(pieces: Iterable[bytes], *, limit_bytes: int) -> str:
    """Return a text whole.

    Raises:
        TooLarge: it has more than `limit_bytes`.
    """
    collected = bytearray()
    for piece in pieces:
        collected += piece
        if len(collected) > limit_bytes:
            raise TooLarge(f"A text of the message is longer than {limit_bytes} bytes.")
    return collected.decode()


class _Source:
    """The bytes of a stream, one after the other."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._buffer = b""

    def next_sign(self) -> bytes:
        """Return the next byte that is not white space, without taking it; none at the end."""
        while True:
            self._take(_WHITE.match(self._buffer))
            if self._buffer or not self._fill():
                return self._buffer[:1]

    def expect(self, sign: bytes) -> None:
        if self.next_sign() != sign:
            _refuse()
        self._buffer = self._buffer[1:]

    def comma(self) -> bool:
        """Take the comma after a member; return False where the object ends instead."""
        if self.next_sign() == b"}":
            return False
        self.expect(b",")
        return True

    def finish(self) -> None:
        self.expect(b"}")
        if self.next_sign():
            _refuse()

    def value(self) -> Iterator[bytes] | Plain:
        return self.text() if self.next_sign() == b'"' else self._plain()

    def text(self) -> Iterator[bytes]:
        """Yield a text, from its first quotation mark to its last."""
        self.expect(b'"')
        while not self._buffer.startswith(b'"'):
            if found := self._take(_TEXT.match(self._buffer)):
                yield _unescaped(found)
            elif len(self._buffer) >= _ESCAPE_BYTES or not self._fill():
                _refuse()
        self.expect(b'"')

    @staticmethod
    def exhaust(text: Iterator[bytes]) -> None:
        """Pass over what nobody read of a text."""
        for _ in text:
            pass

    def _plain(self) -> Plain:
        while len(self._buffer) < _NUMBER_BYTES and self._fill():
            pass
        try:
            found: Plain = json.loads(self._take(_PLAIN.match(self._buffer[:_NUMBER_BYTES])), parse_constant=_refuse)
        except ValueError:
            _refuse()
        return found

    def _take(self, match: re.Match[bytes] | None) -> bytes:
        found = match[0] if match else b""
        self._buffer = self._buffer[len(found) :]
        return found

    def _fill(self) -> bool:
        piece = next(self._pieces, None)
        self._buffer += piece or b""
        return piece is not None


def _unescaped(text: bytes) -> bytes:
    try:
        return str(json.loads(f'"{text.decode()}"')).encode()
    except UnicodeError:
        _refuse()


def _refuse(_found: str = "") -> NoReturn:
    raise MalformedMessage("A JSON object of texts, numbers and flags was expected; the message is none, or cut off.")
