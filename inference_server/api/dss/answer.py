"""Answers of the DSS dialect: 200 and a text for everything that went well, a sentence for everything else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flask import Response, request

from inference_server.api.context import Context
from inference_server.api.dss.codec import Row, encode_rows, encode_table
from inference_server.api.problems import Refusal
from inference_server.errors import NotAuthorised, OverQuota

TEXT = "text/plain; charset=utf-8"
CSV = "text/csv; charset=utf-8"
JSON = "application/json"
NOT_SIGNED_IN = (
    "You are not signed in, or your session or access token has ended. "
    "Sign in again: the page /token of this server gives a token for that."
)
_BAD = (404, 409, 410, 422)
"""Clients of this dialect know 400 and 401."""


def text(said: object) -> Response:
    """Return an answer that is a bare text."""
    return Response(str(said), content_type=TEXT)


def table(fields: Sequence[str], rows: Iterable[Row]) -> Response:
    """Return an answer with rows, as comma-separated values or as the JSON that `format=json` asks for."""
    if wants_json():
        return json_text(encode_table(fields, rows))
    return Response(encode_rows(rows), content_type=CSV)


def json_text(said: str) -> Response:
    """Return an answer that is JSON."""
    return Response(said, content_type=JSON)


def wants_json() -> bool:
    """Whether the client asks for JSON."""
    return request.args.get("format") == "json"


def blobs_url(here: Context) -> str:
    """Return what the addresses of attachments begin with."""
    base = here.settings.public_url or request.host_url
    return f"{base.rstrip('/')}/blobs/"


def answer_error(refused: Refusal) -> Response:
    """Answer with a sentence, which clients print."""
    error, status = refused.error, refused.status
    said = NOT_SIGNED_IN if isinstance(error, NotAuthorised) and not _signs_in() else error.message
    if request.url_rule is not None and (status in _BAD or isinstance(error, OverQuota)):
        status = 400
    return Response(said, status, refused.headers, content_type=TEXT)


def _signs_in() -> bool:
    return request.method == "POST" and request.path in ("/api/login", "/token")
