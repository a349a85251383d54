"""Every error of the server on one page.

::

    InferenceServerError                internal             500
    ├── BadRequest                      bad_request          400
    │   ├── MalformedMessage            malformed_message    400
    │   └── InvalidVolume               invalid_volume       422
    ├── TooLarge                        too_large            413
    ├── UnknownModel                    unknown_model        404
    ├── UnknownTask                     unknown_task         404
    ├── NotFinished                     not_finished         409
    ├── Conflict                        conflict             409
    ├── ResultGone                      result_gone          410
    ├── NotAuthorised                   not_authorised       401
    ├── Forbidden                       forbidden            403
    ├── SignInLimited                   sign_in_limited      429
    ├── OverQuota                       over_quota           429
    ├── QueueFull                       queue_full           503
    ├── StorageFull                     storage_full         507
    ├── StoreUnavailable                store_unavailable    503
    ├── SettingsError                   settings             500
    ├── Cancelled                       cancelled            409
    └── TaskError                       task_failed          500
        ├── ModelLoadError              model_load           500
        ├── PredictionError             prediction           500
        ├── OutOfMemory                 out_of_memory        500
        ├── DeviceFailed                device_failed        500
        ├── TimedOut                    timed_out            504
        ├── QueueTimedOut               queue_timed_out      504
        └── WorkerLost                  worker_lost          500

A message is a sentence for a clinician or an operator: what was expected, what came, what to do. It holds no path,
host name, traceback or patient data, because it is shown to clients as it is.
"""

from __future__ import annotations

from typing import ClassVar


class InferenceServerError(Exception):
    """Something went wrong inside the server.

    Attributes:
        code: stable name that programs compare.
        status: HTTP status of the native API.
        retryable: whether the same request may succeed later, unchanged.
        message: the sentence shown to people.
        field: name of the request's field at fault, where there is one.
        retry_after_s: when it may succeed, where that is known.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        self.message = message or " ".join((type(self).__doc__ or "").split("\n\n")[0].split())
        self.field = field
        self.retry_after_s: float | None = None
        super().__init__(self.message)


class BadRequest(InferenceServerError):
    """The request is not one that the server understands."""

    code = "bad_request"
    status = 400


class MalformedMessage(BadRequest):
    """The bytes that arrived are not what the protocol says."""

    code = "malformed_message"


class InvalidVolume(BadRequest):
    """An image cannot be used: its shape, type or geometry is not a valid one."""

    code = "invalid_volume"
    status = 422


class TooLarge(InferenceServerError):
    """What was sent is larger than this server takes."""

    code = "too_large"
    status = 413


class UnknownModel(InferenceServerError):
    """The server does not know this model."""

    code = "unknown_model"
    status = 404


class UnknownTask(InferenceServerError):
    """The server does not know this task."""

    code = "unknown_task"
    status = 404


class NotFinished(InferenceServerError):
    """The task has not finished yet."""

    code = "not_finished"
    status = 409
    retryable = True


class Conflict(InferenceServerError):
    """The task is not in a state that allows this."""

    code = "conflict"
    status = 409


class ResultGone(InferenceServerError):
    """The task finished, but its result has been removed from the server."""

    code = "result_gone"
    status = 410


class NotAuthorised(InferenceServerError):
    """This needs a valid access token."""

    code = "not_authorised"
    status = 401


class Forbidden(InferenceServerError):
    """The access token does not allow this; ask the operator of the server for one that does."""

    code = "forbidden"
    status = 403


class SignInLimited(InferenceServerError):
    """Too many access tokens that are not valid came from this address; wait before the next one."""

    code = "sign_in_limited"
    status = 429
    retryable = True


class OverQuota(InferenceServerError):
    """You have as many tasks waiting or running as the server lets one user have; try again when some have ended."""

    code = "over_quota"
    status = 429
    retryable = True


class QueueFull(InferenceServerError):
    """The server has as many waiting tasks as it takes; try again later."""

    code = "queue_full"
    status = 503
    retryable = True


class StorageFull(InferenceServerError):
    """The server's disk is nearly full; nothing was stored. Ask its operator to free space."""

    code = "storage_full"
    status = 507
    retryable = True


class StoreUnavailable(InferenceServerError):
    """The server cannot reach its records at the moment; try again."""

    code = "store_unavailable"
    status = 503
    retryable = True


class SettingsError(InferenceServerError):
    """A setting is unknown or malformed."""

    code = "settings"


class Cancelled(InferenceServerError):
    """The task was cancelled."""

    code = "cancelled"
    status = 409


class TaskError(InferenceServerError):
    """The task failed."""

    code = "task_failed"


class ModelLoadError(TaskError):
    """The model could not be loaded."""

    code = "model_load"


class PredictionError(TaskError):
    """The model failed on this case."""

    code = "prediction"


class OutOfMemory(TaskError):
    """The case needs more memory than the worker's device has."""

    code = "out_of_memory"


class DeviceFailed(TaskError):
    """The device that computed the case failed. Another try, in a fresh process, may succeed."""

    code = "device_failed"
    retryable = True


class TimedOut(TaskError):
    """The task took longer than its time limit and was stopped."""

    code = "timed_out"
    status = 504


class QueueTimedOut(TaskError):
    """The task waited longer than the server lets a task wait."""

    code = "queue_timed_out"
    status = 504
    retryable = True


class WorkerLost(TaskError):
    """The worker that computed the task ended unexpectedly, as often as the server retries."""

    code = "worker_lost"
    retryable = True


def all_errors() -> tuple[type[InferenceServerError], ...]:
    """Return the root and every class below it, parents before children."""
    found: list[type[InferenceServerError]] = [InferenceServerError]
    for error in found:
        found.extend(error.__subclasses__())
    return tuple(found)
