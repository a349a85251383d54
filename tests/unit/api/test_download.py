from __future__ import annotations

import io
from typing import Any

import pytest
from flask import Flask, Response
from werkzeug.exceptions import RequestedRangeNotSatisfiable

from inference_server.api.download import ZIP_TYPE, send_stored

SIZE_BYTES = 10 * 1024**3
"""More than any test could hold in memory."""


class Far(io.RawIOBase):
    """A huge file elsewhere, which counts what is read of it. Each of its bytes is the number of its MiB."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 0
        self.given = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: SIZE_BYTES}[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), SIZE_BYTES - self.at)
        buffer[:count] = bytes((place >> 20) % 256 for place in range(self.at, self.at + count))
        self.at += count
        self.given += count
        return count


def _answer(far: Far, **headers: str) -> Response:
    with Flask("test").test_request_context(headers=headers):
        return send_stored(far, key="0" * 32, name="result.zip", mime_type=ZIP_TYPE)  # type: ignore[arg-type]


def test_what_is_sent_is_read_as_it_is_sent() -> None:
    far = Far()
    answer = _answer(far)
    assert (answer.status_code, answer.content_length, far.given) == (200, SIZE_BYTES, 0)
    assert next(iter(answer.response))[:1] == b"\0"  # type: ignore[arg-type]
    assert 0 < far.given < 1024**2
    answer.close()
    assert far.closed


def test_a_range_at_the_end_reads_nothing_of_what_is_before_it() -> None:
    far = Far()
    answer = _answer(far, Range="bytes=5242878-5242881")
    assert (answer.status_code, answer.content_length) == (206, 4)
    assert b"".join(answer.response) == bytes([4, 4, 5, 5])  # type: ignore[arg-type]
    assert far.given < 1024**2


def test_a_range_that_is_not_there_leaves_no_file_open() -> None:
    far = Far()
    with pytest.raises(RequestedRangeNotSatisfiable):
        _answer(far, Range=f"bytes={SIZE_BYTES}-")
    assert far.closed
