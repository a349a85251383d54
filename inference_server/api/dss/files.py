"""Files of tickets, as they are stored, and attachments at their public addresses."""

from __future__ import annotations

from flask import Blueprint, Response

from inference_server.api.access import open_to_all
from inference_server.api.download import send_stored
from inference_server.api.dss.desk import desk
from inference_server.api.dss.forms import UNKNOWN_TYPE

POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a provider attached may be shown by a browser, and do nothing there."""

blueprint = Blueprint("files", __name__)


@blueprint.get("/blobs/<link>")
@open_to_all
def get_attachment(link: str) -> Response:
    """Answer with an attachment: whoever has its address may see it, until its ticket is deleted."""
    found = desk().tickets.attachment_at(link)
    answer = send_blob(found.blob, mime_type=found.mime_type)
    answer.headers["Content-Security-Policy"] = POLICY
    return answer


def send_blob(key: str, *, name: str | None = None, mime_type: str = UNKNOWN_TYPE) -> Response:
    """Answer with a blob.

    Args:
        key: of the blob.
        name: the file's, for clients that save it; None shows it in a browser.
        mime_type: its type.

    Raises:
        ResultGone: it has been removed.
    """
    return send_stored(desk().tickets.blobs.open(key), key=key, name=name, mime_type=mime_type)
