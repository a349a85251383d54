"""Files, served as they are stored, wherever that is."""

from __future__ import annotations

import os
from typing import BinaryIO

from flask import Response, request, send_file
from werkzeug.exceptions import RequestedRangeNotSatisfiable

from inference_server.tasks.results import ResultFile

ZIP_TYPE = "application/zip"


def send_result(uid: str, result: ResultFile) -> Response:
    """Answer with a result zip; ranges are honoured."""
    return send_stored(result.open(), key=result.key, name=f"{uid}.zip", mime_type=ZIP_TYPE)


def send_stored(file: BinaryIO, *, key: str, name: str | None, mime_type: str) -> Response:
    """Answer with an open blob as it is read, a file of this machine by the kernel's sendfile; ranges are honoured.

    Args:
        file: closed when the answer has been given.
        key: of the blob, which tells it from others.
        name: the file's, for clients that save it; None shows it in a browser.
        mime_type: its type.
    """
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    answer = send_file(
        file, mimetype=mime_type, as_attachment=name is not None, download_name=name or key, etag=key, conditional=False
    )
    answer.content_length = size_bytes
    answer.headers["Cache-Control"] = "no-store"
    try:
        answer.make_conditional(request.environ, accept_ranges=True, complete_length=size_bytes)
    except RequestedRangeNotSatisfiable:
        file.close()
        raise
    return answer
