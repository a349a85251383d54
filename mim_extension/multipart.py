"""A multipart body that is read from disk while it is sent."""

from __future__ import annotations

import os
from typing import BinaryIO, Iterator
from uuid import uuid4

CHUNK_BYTES = 64 * 1024


class MultipartFile:
    """A form with one file part, handed out piece by piece.

    ``requests`` needs ``__len__`` for the Content-Length and ``__iter__`` to see that it is a stream, and its
    HTTP layer calls ``read``. ``sent_bytes`` tells how far the reading went.

    Source:
        RFC 7578.
    """

    def __init__(self, file: BinaryIO, *, field: str, file_name: str, boundary: str | None = None) -> None:
        """Take an open file; its bytes from the present position to the end become the part.

        Args:
            file: read while the body is sent; closed by the caller.
            field: the name of the form's field.
            file_name: the name that the part announces.
            boundary: the separator; a random one where None.
        """
        self._boundary = boundary or uuid4().hex
        head = (
            f"--{self._boundary}\r\n"
            f'Content-Disposition: form-data; name="{field}"; filename="{file_name}"\r\n'
            "Content-Type: application/zip\r\n\r\n"
        )
        self._pending = head.encode("ascii")
        self._tail = f"\r\n--{self._boundary}--\r\n".encode("ascii")
        self._file = file
        file_bytes = os.fstat(file.fileno()).st_size - file.tell()
        self._length = len(self._pending) + file_bytes + len(self._tail)
        self.sent_bytes = 0

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self._boundary}"

    @property
    def is_sent(self) -> bool:
        return self.sent_bytes >= self._length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.read, b"")

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        """Return the next bytes, at most ``size`` of them (all pieces are bounded); ``b""`` at the end."""
        size = size if size > 0 else CHUNK_BYTES
        chunk = self._take(size) or self._file.read(size) or self._take_tail(size)
        self.sent_bytes += len(chunk)
        return chunk

    def _take(self, size: int) -> bytes:
        chunk, self._pending = self._pending[:size], self._pending[size:]
        return chunk

    def _take_tail(self, size: int) -> bytes:
        self._pending, self._tail = self._tail, b""
        return self._take(size)
