"""The life of a task as a table: which verb leads from which status to which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from inference_server.tasks.record import Status


class Verb(StrEnum):
    """Everything that changes a task's status."""

    CLAIM = "claim"
    FINISH = "finish"
    FAIL = "fail"
    HAND_BACK = "hand back"
    LOSE = "lose"
    """Its worker died, and there are attempts left."""
    GIVE_UP = "give up"
    """Its worker died, and there is no attempt left."""
    CANCEL = "cancel"
    RETRY = "retry"
    TIME_OUT = "time out"
    """It waited too long in its queue."""
    WITHDRAW = "withdraw"
    """Its model is no longer served."""
    EXPIRE = "expire"


@dataclass(frozen=True)
class Transition:
    """Where a verb is allowed, where it leads, and what a task's log says of it."""

    sources: tuple[Status, ...]
    target: Status
    level: str
    text: str


TRANSITIONS: Mapping[Verb, Transition] = {
    Verb.CLAIM: Transition((Status.QUEUED,), Status.RUNNING, "info", "A worker started."),
    Verb.FINISH: Transition((Status.RUNNING,), Status.FINISHED, "info", "Finished."),
    Verb.FAIL: Transition((Status.RUNNING,), Status.FAILED, "error", "Failed."),
    Verb.HAND_BACK: Transition((Status.RUNNING,), Status.QUEUED, "info", "The worker stopped; back in the queue."),
    Verb.LOSE: Transition(
        (Status.RUNNING,), Status.QUEUED, "warning", "The worker ended unexpectedly; back in the queue."
    ),
    Verb.GIVE_UP: Transition((Status.RUNNING,), Status.FAILED, "error", "The worker ended unexpectedly; given up."),
    Verb.CANCEL: Transition((Status.QUEUED, Status.RUNNING), Status.CANCELLED, "info", "Cancelled."),
    Verb.RETRY: Transition((Status.FAILED, Status.CANCELLED), Status.QUEUED, "info", "Tried again on request."),
    Verb.TIME_OUT: Transition((Status.QUEUED,), Status.FAILED, "error", "Waited too long for a worker."),
    Verb.WITHDRAW: Transition((Status.QUEUED,), Status.FAILED, "error", "Its model is no longer served."),
    Verb.EXPIRE: Transition(
        (Status.FINISHED, Status.FAILED, Status.CANCELLED), Status.EXPIRED, "info", "Case and result were removed."
    ),
}
"""Deleting is not here: it is allowed always and leaves no task."""
