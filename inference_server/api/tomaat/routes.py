"""The routes of the TOMAAT dialect: a service per model, and one of them at the root of the server if so configured."""

from __future__ import annotations

import json
from contextlib import suppress

from flask import Blueprint, Response, request

from inference_server.api.access import caller, needs
from inference_server.api.context import Context, context
from inference_server.api.problems import Refusal, problem_response
from inference_server.api.tomaat import first
from inference_server.api.tomaat.answer import JSON, answer, json_response, streamed
from inference_server.api.tomaat.elements import encode_delay, encode_error
from inference_server.api.tomaat.form import Sent, parameters_of, parts_of, write_sent_case
from inference_server.api.tomaat.interface import Interface, interface_of, own_interface
from inference_server.api.upload import Upload, body, received, staging
from inference_server.errors import BadRequest, NotFinished, StoreUnavailable
from inference_server.models.manifest import Manifest
from inference_server.tasks.caller import Scope
from inference_server.tasks.record import Task
from inference_server.tasks.submission import Submission

DIALECT = "tomaat"
PREFIX = "/tomaat"
OUTPUTS = ("meshes", "volumes")
REQUEST_ID = "request_id"
FORM_LIMIT_BYTES = 64 * 1024

READ = (Scope.READ_OWN, Scope.READ_ALL)


@needs()
def get_interface(model: str | None = None) -> Response:
    """Answer what the model takes; pages of any site may read it."""
    found = json_response(json.dumps(interface_of(_manifest(context(), model)).elements).encode())
    found.headers["Access-Control-Allow-Origin"] = "*"
    return found


@needs()
def get_announce_point(model: str | None = None) -> Response:
    """Answer where the model is announced."""
    here = context()
    model_id = _manifest(here, model).id
    return json_response(json.dumps({"announced_at": here.announcers.first_with(model_id)}).encode())


@needs(Scope.SUBMIT)
def predict(model: str | None = None) -> Response:
    """Run the model on what was sent; answer with the result, or that it is not ready yet."""
    here = context()
    manifest = _manifest(here, model)
    interface, sent = interface_of(manifest), Sent()
    limit_bytes = here.settings.upload_limit_bytes
    with received(request, here.tasks, parts_of(interface, sent), limit_bytes=limit_bytes) as upload:
        sent.take(upload)
        task = _submitted(here, manifest, interface, sent, upload)
    with suppress(StoreUnavailable):  # the case is accepted: its client asks again
        task = here.waits.ended(task, wait_s=here.settings.tomaat_patience_s)
    return answer(here, task, caller())


@needs(*READ)
def get_responses(model: str | None = None) -> Response:
    """Answer with the result that was asked for earlier, or that it is not ready yet."""
    request.max_content_length = FORM_LIMIT_BYTES
    uid = request.form.get(REQUEST_ID, "").strip()
    if not uid:
        raise BadRequest(f"The field '{REQUEST_ID}' is missing.", field=REQUEST_ID)
    here = context()
    try:
        task = here.tasks.get(uid, caller())
    except StoreUnavailable:
        return json_response(encode_delay(uid))
    return answer(here, task, caller())


@needs(Scope.SUBMIT)
def predict_as_json(model: str | None = None) -> Response:
    """Run the model on what a client of the first generation sent, and answer with the labels."""
    here = context()
    manifest = _manifest(here, model)
    interface = interface_of(manifest)
    first.refuse_unfit(manifest, interface)
    with staging(here.tasks) as upload:
        pieces = body(request, here.tasks, limit_bytes=here.settings.upload_limit_bytes)
        sent = first.receive(pieces, upload, interface)
        task = _submitted(here, manifest, interface, sent, upload)
    task = _ended(here, task)
    result = here.tasks.result(task.uid, caller())
    labels, time_ms = first.only_labels(task.report), _time_ms(task)
    return streamed(result, lambda opened: first.encode_result(labels, opened, time_ms=time_ms))


def answer_error(refused: Refusal) -> Response:
    """Answer with an error in the words of whichever generation asked; these clients look at no status but 200."""
    if request.method != "POST":
        return problem_response(refused)
    as_json = request.path.rstrip("/").rpartition("/")[2] not in ("predict", "responses")
    encode = first.encode_failure if as_json else encode_error
    return Response(encode(refused.error.message), 200, refused.headers, content_type=JSON)


def _blueprint(name: str, prefix: str | None, at: str) -> Blueprint:
    made = Blueprint(name, __name__, url_prefix=prefix)
    made.get(f"{at}/interface")(get_interface)
    made.get(f"{at}/announcePoint")(get_announce_point)
    made.post(f"{at}/predict")(predict)
    made.post(f"{at}/responses")(get_responses)
    made.post(at or "/", strict_slashes=False)(predict_as_json)
    return made


blueprint = _blueprint(DIALECT, PREFIX, "/<model>")
root = _blueprint("tomaat_root", None, "")
"""The same for the model that the setting `tomaat_root` names; registered only where it names one."""
ROOT_PATHS = ("/interface", "/announcePoint", "/predict", "/responses", "/")


def _manifest(here: Context, model: str | None) -> Manifest:
    return here.tasks.models.get(model or here.settings.tomaat_root or "").manifest


def _submitted(here: Context, manifest: Manifest, interface: Interface, sent: Sent, upload: Upload) -> Task:
    staged = upload.stage()
    write_sent_case(staged, sent, upload, interface, manifest, here.settings)
    submission = Submission(
        model=manifest.id,
        staged=staged,
        dialect=DIALECT,
        token=caller().name,
        parameters=parameters_of(interface, manifest, sent.texts),
        outputs=() if own_interface(manifest, "outputs") is not None else OUTPUTS,
    )
    return here.tasks.submit(submission)[0]


def _ended(here: Context, task: Task) -> Task:
    """Wait for a task as long as one may take; a client that cannot ask again is of no use to it afterwards."""
    task = here.waits.ended(task, wait_s=here.settings.task_time_limit_s)
    if not task.status.ended:
        here.tasks.cancel(task.uid, caller())
        raise NotFinished("The server could not finish the case while this client waited. Please try again later.")
    return task


def _time_ms(task: Task) -> int:
    return round(1000 * ((task.ended_at or 0.0) - (task.started_at or 0.0)))
