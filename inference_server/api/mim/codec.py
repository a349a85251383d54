"""What the MIM dialect says on the wire. The fielded client cannot be changed: its status codes are its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from inference_server.errors import (
    BadRequest,
    Cancelled,
    InferenceServerError,
    NotFinished,
    ResultGone,
    StoreUnavailable,
    TaskError,
    UnknownModel,
    UnknownTask,
)
from inference_server.tasks.record import Status, Task

MODEL_FIELD = "model_human_readable_id"
FILE_FIELD = "zip_file"

SERVER_ERROR = 500
NO_SUCH_MODEL = 550
UNFINISHED = 551
FAILED = 552
RESULT_IS_GONE = 553
NO_SUCH_TASK = 554

_POLL_STATUS: Mapping[type[InferenceServerError], int] = {
    UnknownModel: NO_SUCH_MODEL,
    NotFinished: UNFINISHED,
    # The client keeps polling on this status, and the records may be there again by then.
    StoreUnavailable: UNFINISHED,
    TaskError: FAILED,
    Cancelled: FAILED,
    ResultGone: RESULT_IS_GONE,
    UnknownTask: NO_SUCH_TASK,
}


@dataclass(frozen=True)
class Answer:
    """A status and the JSON body beside it."""

    status: int
    body: bytes


def decode_model_id(query: Mapping[str, str]) -> str:
    """Return the model that a submission names.

    Raises:
        BadRequest: it names none.
    """
    if not (model_id := query.get(MODEL_FIELD, "").strip()):
        raise BadRequest(f"The address must name a model: ?{MODEL_FIELD}=<model id>.", field=MODEL_FIELD)
    return model_id


def encode_uid(uid: str) -> bytes:
    """Return the body of an accepted submission: a JSON string."""
    return json.dumps(uid).encode()


def encode_submit_error(error: InferenceServerError, status: int) -> Answer:
    """Return the answer to a refused submission. The client only looks whether the status is 2xx."""
    field = MODEL_FIELD if isinstance(error, UnknownModel) else error.field
    return Answer(status, _body(error.code, error.message, field))


def encode_poll_error(error: InferenceServerError) -> Answer:
    """Return the answer to a poll or a deletion that met an error."""
    status = next((_POLL_STATUS[kind] for kind in type(error).__mro__ if kind in _POLL_STATUS), SERVER_ERROR)
    return Answer(status, _body(error.code, error.message))


def encode_status(task: Task, *, model_known: bool, position: int | None) -> Answer | None:
    """Return the answer to a poll of a task, or None where the result itself is the answer.

    Args:
        task: the record.
        model_known: whether the server still has the task's model.
        position: how many tasks go before a queued one.
    """
    match task.status:
        case Status.QUEUED if not model_known:
            gone = f"The server does not have the model '{task.model}' any more; the task waits in vain."
            return encode_poll_error(UnknownModel(gone))
        case Status.QUEUED:
            return encode_poll_error(NotFinished(f"The task waits in the queue; {_before(position)}."))
        case Status.RUNNING:
            doing = f"{task.phase}, " if task.phase else ""
            return encode_poll_error(NotFinished(f"The task is running ({doing}{task.progress:.0%})."))
        case Status.FAILED if task.problem:
            return Answer(FAILED, _body(task.problem.code, task.problem.message))
        case Status.FAILED:
            return encode_poll_error(TaskError())
        case Status.CANCELLED:
            return encode_poll_error(Cancelled())
        case Status.EXPIRED:
            return encode_poll_error(ResultGone())
    return None


def _before(position: int | None) -> str:
    match position:
        case None | 0:
            return "it is the next one"
        case 1:
            return "1 task goes before it"
    return f"{position} tasks go before it"


def _body(code: str, message: str, field: str | None = None) -> bytes:
    content = {"code": code, "message": message, **({"field": field} if field else {})}
    return json.dumps(content, ensure_ascii=False).encode()
