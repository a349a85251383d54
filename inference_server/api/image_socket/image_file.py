"""The file that a client sent last."""

from __future__ import annotations

import io
import logging
from pathlib import Path

from inference_server.api.image_socket.codec import Code
from inference_server.api.image_socket.wire import STEP_BYTES
from inference_server.errors import InferenceServerError
from inference_server.tasks.blobs.staging import disk_errors

log = logging.getLogger(__name__)


class ImageFile:
    """A file that is being received or is complete.

    `doubt` is what a prediction is answered in place of a letter: success where nothing speaks against the file.

    Args:
        size_bytes: as announced.
        path: of the staged file that holds it; None keeps it in memory.
    """

    def __init__(self, size_bytes: int, path: Path | None = None) -> None:
        self.size_bytes = size_bytes
        self.path = path
        self.doubt = Code.SUCCESS
        self._content = io.BytesIO()
        self._stream = path.open("wb", buffering=STEP_BYTES) if path else self._content

    @property
    def source(self) -> Path | bytes:
        """Where a complete file is, or what is in it."""
        return self.path or self._content.getvalue()

    def write(self, piece: bytes) -> None:
        """Add a piece. Once the disk refuses one, the rest is dropped: the protocol has no answer here."""
        if self.doubt is Code.SUCCESS:
            try:
                with disk_errors():
                    self._stream.write(piece)
            except InferenceServerError as error:
                self._refuse(error)

    def close(self) -> None:
        """End the writing; nothing happens the second time."""
        if self.path is None:
            return
        try:
            with disk_errors():
                self._stream.close()
        except InferenceServerError as error:
            self._refuse(error)

    def compare(self, *, equal: bool) -> None:
        """Note whether the check sum was right; only that of a complete file means anything."""
        if self.doubt is not Code.FAILED:
            self.doubt = Code.SUCCESS if equal else Code.MISMATCH

    def _refuse(self, error: InferenceServerError) -> None:
        log.error("file not kept", extra={"code": error.code})
        self.doubt = Code.FAILED
