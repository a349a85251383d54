"""Result files, served as they are stored."""

from __future__ import annotations

from flask import Response, send_file

from inference_server.tasks.results import ResultFile

ZIP_TYPE = "application/zip"


def send_result(uid: str, result: ResultFile) -> Response:
    """Answer with a result zip: by the kernel's sendfile where the whole of it is asked for; ranges are honoured."""
    with result.as_file() as path:
        # The file is open before the block ends, which is all that the answer needs.
        answer = send_file(path, mimetype=ZIP_TYPE, as_attachment=True, download_name=f"{uid}.zip", etag=result.key)
    answer.headers["Cache-Control"] = "no-store"
    return answer
