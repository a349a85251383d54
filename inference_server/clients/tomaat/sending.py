"""What is sent of files: their bytes as base64, encoded while they are read, however large they are."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from typing import BinaryIO

from inference_server.clients.tomaat.progress import Sent

MODULE_VERSION = "inference-server"
"""What services are told of the client."""

_LINE_RAW, _LINE_SENT = 57, 77
"""Bytes of a file in one line of base64; characters of that line, its end included."""
_STEP_BYTES = 1 << 20


class Base64Lines:
    """A file's base64 in lines of 76 characters, as a stream that an HTTP client reads and asks for its length.

    Args:
        file: open for reading; read from its beginning.
        prefix: comes before the base64.
        sent: called with how many bytes were read from here.
    """

    def __init__(self, file: BinaryIO, *, prefix: bytes = b"", sent: Sent | None = None) -> None:
        self._file, self._prefix, self._sent = file, prefix, sent
        size = os.fstat(file.fileno()).st_size
        self._length = len(prefix) + lines_length(size)
        self._at_end = self._begun = False

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to the beginning, or to the end for its position; nobody asks for more."""
        if offset:
            raise io.UnsupportedOperation("only the beginning and the end can be found")
        self._at_end, self._begun = whence == io.SEEK_END, False
        self._file.seek(0)
        return self.tell()

    def tell(self) -> int:
        """Return the position: the beginning, or the stream's length."""
        return self._length if self._at_end else 0

    def read(self, size: int) -> bytes:
        """Return the next lines, at most `size` bytes (and one line at least); none at the end."""
        prefix, self._begun = (b"" if self._begun else self._prefix), True
        raw = self._file.read(max((size - len(prefix)) // _LINE_SENT, 1) * _LINE_RAW)
        lines = prefix + base64.encodebytes(raw)
        if self._sent:
            self._sent(len(lines))
        return lines


def lines_length(size: int) -> int:
    """Return how many characters the base64 of so many bytes has, in lines of 76."""
    whole, rest = divmod(size, _LINE_RAW)
    return whole * _LINE_SENT + (base64_length(rest) + 1 if rest else 0)


def base64_length(size: int) -> int:
    """Return how many characters the base64 of so many bytes has, on a single line."""
    return 4 * -(-size // 3)


def base64_blocks(file: BinaryIO, sent: Sent) -> Iterator[bytes]:
    """Yield a file's base64 on a single line."""
    while raw := file.read(_STEP_BYTES * 3):
        yield (block := base64.b64encode(raw))
        sent(len(block))
