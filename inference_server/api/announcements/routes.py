"""The routes of the TOMAAT announcement service. Who announces shows a key in the message; the lists are public."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, request

from inference_server.api.access import open_to_all
from inference_server.api.announcements.codec import (
    decode_announcement,
    encode_accepted,
    encode_lists,
    encode_refused,
    encode_services,
)
from inference_server.api.problems import Refusal, problem_response
from inference_server.tasks.announcements import Announcements

EXTENSION = "announcements"
JSON = "application/json"
BODY_LIMIT_BYTES = 64 * 1024

blueprint = Blueprint("announcements", __name__)
PATHS = ("/announce", "/discover", "/discovery")


@blueprint.post("/announce")
@open_to_all
def announce() -> Response:
    """Note a service for an hour."""
    request.max_content_length = BODY_LIMIT_BYTES
    key, service = decode_announcement(request.get_data(cache=False))
    _announcements().announce(key, service)
    return Response(encode_accepted(), content_type=JSON)


@blueprint.get("/discover")
@open_to_all
def discover() -> Response:
    """List the services."""
    return Response(encode_services(_announcements().services()), content_type=JSON)


@blueprint.get("/discovery")
@open_to_all
def discover_lists() -> Response:
    """List the services for clients of the first generation."""
    return Response(encode_lists(_announcements().services()), content_type=JSON)


def answer_error(refused: Refusal) -> Response:
    """Answer with an error: who announces looks at `status` in the body alone."""
    if request.method != "POST":
        return problem_response(refused)
    return Response(encode_refused(refused.error.message), 200, refused.headers, content_type=JSON)


def _announcements() -> Announcements:
    found = current_app.extensions[EXTENSION]
    assert isinstance(found, Announcements)
    return found
