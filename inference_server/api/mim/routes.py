"""The routes of the MIM dialect."""

from __future__ import annotations

from flask import Blueprint, Response, request

from inference_server.api.access import caller, needs
from inference_server.api.context import Context, context
from inference_server.api.download import send_result
from inference_server.api.mim.codec import (
    FILE_FIELD,
    Answer,
    decode_model_id,
    encode_poll_error,
    encode_status,
    encode_submit_error,
    encode_uid,
)
from inference_server.api.problems import Refusal
from inference_server.api.upload import Parts, at_part, received
from inference_server.errors import BadRequest, UnknownModel
from inference_server.tasks.caller import STEERING, Scope
from inference_server.tasks.record import Status, Task
from inference_server.tasks.submission import Submission

DIALECT = "mim"
PREFIX = "/api/tasks"
PARTS = Parts(files=frozenset({FILE_FIELD}))

blueprint = Blueprint("mim", __name__, url_prefix=PREFIX)


@blueprint.post("/", strict_slashes=False)
@needs(Scope.SUBMIT)
def submit_task() -> Response:
    """Submit a zipped case; answer with the task's UID as a JSON string."""
    return _response(Answer(201, encode_uid(_submit(context()).uid)))


@blueprint.get("/<uid>/", strict_slashes=False)
@needs(Scope.READ_OWN, Scope.READ_ALL)
def get_task(uid: str) -> Response:
    """Answer with the result, or with why there is none (yet)."""
    task = context().tasks.get(uid, caller())
    if answer := _status(context(), task):
        return _response(answer)
    return send_result(uid, context().tasks.result(uid, caller()))


@blueprint.delete("/<uid>/", strict_slashes=False)
@needs(*STEERING)
def delete_task(uid: str) -> Response:
    """Remove a task and all its data."""
    context().tasks.delete(uid, caller())
    return Response(status=204)


def answer_error(refused: Refusal) -> Response:
    """Answer with an error in this dialect's words."""
    if request.method in ("GET", "HEAD", "DELETE") and request.url_rule:
        return _response(encode_poll_error(refused.error), refused.headers)
    return _response(encode_submit_error(refused.error, refused.status), refused.headers)


def _submit(here: Context) -> Task:
    # Before the upload is read: whoever names no model we know is told so at once.
    model_id = decode_model_id(request.args)
    here.tasks.models.get(model_id)
    with received(request, here.tasks, PARTS, limit_bytes=here.settings.upload_limit_bytes) as upload:
        zips = upload.files[FILE_FIELD]
        if len(zips) != 1:
            raise BadRequest(f"The form must have one file, the zipped case, as '{FILE_FIELD}'.", field=FILE_FIELD)
        submission = Submission(model=model_id, staged=zips[0], dialect=DIALECT, token=caller().name)
        with at_part(FILE_FIELD):
            task, _created = here.tasks.submit(submission)
        return task


def _status(here: Context, task: Task) -> Answer | None:
    queued = task.status is Status.QUEUED
    position = here.tasks.position(task) if queued else None
    return encode_status(task, model_known=not queued or _is_known(here, task.model), position=position)


def _is_known(here: Context, model_id: str) -> bool:
    try:
        here.tasks.models.get(model_id)
    except UnknownModel:
        return False
    return True


def _response(answer: Answer, headers: dict[str, str] | None = None) -> Response:
    return Response(answer.body, answer.status, headers, content_type="application/json")
