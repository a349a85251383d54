"""Errors as RFC 9457 problem documents, and foreign exceptions as errors of ours."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from flask import Response, request
from pydantic import BaseModel, Field, ValidationError
from werkzeug.exceptions import HTTPException

from inference_server.errors import BadRequest, InferenceServerError, TooLarge

PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER_S = {HTTPStatus.TOO_MANY_REQUESTS: 10, HTTPStatus.SERVICE_UNAVAILABLE: 2}
"""What is said where nothing is known, as before the first task has finished."""
RETRY_LIMIT_S = 3600
CHALLENGE = 'Bearer realm="inference-server", Basic realm="inference-server", charset="UTF-8"'
INTERNAL = "The server made an error on this request. Its log says more; ask its operator."


class Problem(BaseModel):
    """Why a request was refused or failed (RFC 9457)."""

    type: str = Field(description="URI that names the kind of error", examples=["urn:inference-server:error:too_large"])
    title: str = Field(description="the kind of error in words", examples=["Too large"])
    status: int = Field(description="HTTP status", examples=[413])
    detail: str = Field(description="what was expected, what came and what to do, in one or two sentences")
    code: str = Field(description="stable name of the error, for programs to compare", examples=["too_large"])
    field: str | None = Field(None, description="name of the request's field at fault, where there is one")
    retryable: bool = Field(description="whether the same request may succeed later, unchanged")


def _described(description: str) -> dict[str, Any]:
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": description, "content": content}


PROBLEMS: dict[str | int, Any] = {
    "422": _described("A value of the request is not valid"),
    "default": _described("Why the request was refused"),
}
"""How the OpenAPI document describes refusals."""


@dataclass(frozen=True)
class Refusal:
    """An error with the HTTP status and headers to answer it with."""

    error: InferenceServerError
    status: int
    headers: dict[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A refusal on its way out of a route, where its status is not the error's own."""

    def __init__(self, refused: Refusal) -> None:
        super().__init__(refused.error.message)
        self.refused = refused


def refusal(error: InferenceServerError) -> Refusal:
    """Return an error of ours with its own status."""
    retry_after_s = error.retry_after_s or RETRY_AFTER_S.get(HTTPStatus(error.status))
    retry = {"Retry-After": str(math.ceil(min(retry_after_s, RETRY_LIMIT_S)))} if retry_after_s else {}
    challenge = {"WWW-Authenticate": CHALLENGE} if error.status == HTTPStatus.UNAUTHORIZED else {}
    return Refusal(error, error.status, {**retry, **challenge})


def http_refusal(exc: HTTPException) -> Refusal:
    """Return what Flask or Werkzeug refused, in our words: they may quote the request, and we do not."""
    status = exc.code or 500
    answer = exc.get_response(request.environ)
    kept = {name: answer.headers[name] for name in ("Allow", "Content-Range") if name in answer.headers}
    allowed = ", ".join(sorted(kept.get("Allow", "other methods").split(", ")))
    return Refusal(_http_error(status, allowed), status, kept)


def internal_refusal() -> Refusal:
    """Return the answer to an error that nobody foresaw; it says nothing of what happened."""
    return refusal(InferenceServerError(INTERNAL))


def invalid_request(exc: ValidationError, *, noun: str = "parameter") -> Refusal:
    """Return what a pydantic model refused: one sentence, and the field at fault."""
    first = exc.errors(include_input=False, include_url=False)[0]
    name = str(first["loc"][0])[:50] if first["loc"] else ""
    reason = first["msg"].removeprefix("Value error, ").rstrip(".")
    return Refusal(BadRequest(f"The {noun} '{name}' is not valid: {reason}.", field=name or None), 422)


def problem_response(refused: Refusal) -> Response:
    """Return the problem document of an error."""
    error = refused.error
    document = Problem(
        type=f"urn:inference-server:error:{error.code}",
        title=error.code.replace("_", " ").capitalize(),
        status=refused.status,
        detail=error.message,
        code=error.code,
        field=error.field,
        retryable=error.retryable,
    )
    body = document.model_dump_json(exclude_none=True)
    return Response(body, refused.status, refused.headers, content_type=PROBLEM_TYPE)


def _http_error(status: int, allowed: str) -> InferenceServerError:
    match status:
        case HTTPStatus.NOT_FOUND:
            return BadRequest("There is nothing at this address. The addresses of this server are listed at /docs.")
        case HTTPStatus.METHOD_NOT_ALLOWED:
            return BadRequest(f"This address takes {allowed}, not {request.method}.")
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return TooLarge()
        case HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return BadRequest("The range asked for lies beyond the end of the file.", field="Range")
    if status >= 500:
        return InferenceServerError(INTERNAL)
    return BadRequest()
