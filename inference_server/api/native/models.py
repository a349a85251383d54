"""The messages of the native API."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from inference_server.models.manifest import Manifest
from inference_server.tasks.caller import Scope
from inference_server.tasks.record import Event, Phase, Priority, Status, Task
from inference_server.tasks.store import PAGE_LIMIT
from inference_server.tasks.submission import Output

OUTPUTS = f"a JSON list of any of these was expected: {', '.join(Output)}"
POINTS = "a JSON object of names and lists of points [x, y, z] was expected"
THREE_FACTORS = "three whole numbers from 1 as a JSON list [z, y, x] were expected"
Factor = Annotated[int, Field(ge=1)]
PriorityName = Literal["urgent", "normal", "batch"]
Coordinate = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0)]


def _in_words(expected: str) -> WrapValidator:
    """Say in one sentence what was expected, in place of what is wrong with a part of it."""

    def checked(value: object, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            return check(value)
        except ValidationError:
            raise ValueError(expected) from None

    return WrapValidator(checked)


class Strict(BaseModel):
    """What clients send: a misspelt name is an error."""

    model_config = ConfigDict(extra="forbid")


class TaskPath(Strict):
    uid: str = Field(description="the task's UID, as submitting it returned it")


class ModelPath(Strict):
    model: str = Field(description="the model's id")


class WaitQuery(Strict):
    wait: Seconds = Field(
        0.0, allow_inf_nan=False, description="wait up to this many seconds for a change; the server's limit holds"
    )
    revision: int | None = Field(
        None,
        description="the `revision` that you have: the answer comes once it is another one (status, phase or progress "
        "changed). Without it, the answer comes once the status changes",
    )


class ListQuery(Strict):
    status: Status | None = Field(None, description="only tasks with this status")
    model: str | None = Field(None, description="only tasks of this model")
    dialect: str | None = Field(None, description="only tasks that came through this door (`native`, `mim`, `tomaat`)")
    limit: int = Field(50, ge=1, le=PAGE_LIMIT, description="most tasks of one answer")
    cursor: str | None = Field(None, description="`next_cursor` of the answer before")


class EventsQuery(Strict):
    since: int = Field(0, ge=0, le=2**63 - 1, description="only events whose `seq` is greater")


class SubmitHeader(BaseModel):
    idempotency_key: str | None = Field(
        None,
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="any text of your own: the same key with the same request gives the same task back",
    )


class SubmitForm(Strict):
    """The texts of a submitted form."""

    model: str = Field(description="the model's id", min_length=1, max_length=100)
    parameters: Json[dict[str, Any]] = Field(
        "{}", validate_default=True, description="JSON object: values for what the model declares"
    )
    priority: PriorityName = Field(
        "normal", description="who goes first in a queue; `urgent` needs a token with that scope"
    )
    scaling_factor: Annotated[Json[tuple[Factor, Factor, Factor]], _in_words(THREE_FACTORS)] | None = Field(
        None,
        description="JSON list `[z, y, x]` of positive integers, for `image` parts: the contours come on a grid "
        "that is so many times finer. A zipped case says it in its own `meta.json`",
    )
    points: Annotated[Json[dict[str, list[tuple[Coordinate, Coordinate, Coordinate]]]], _in_words(POINTS)] | None = (
        Field(
            None,
            description="JSON object, for `image` parts: the points that the model takes, by name, each of them a list "
            "of `[x, y, z]` in LPS mm. A zipped case has them in its own `points.json`",
        )
    )
    outputs: Annotated[Json[tuple[Output, ...]], _in_words(OUTPUTS)] = Field(
        "[]",
        validate_default=True,
        description="JSON list of what is made beyond what the model gives: `meshes`, the surface of each label; "
        "`volumes`, the volume of each label",
    )


class ProblemRecord(BaseModel):
    """Why a task has no result."""

    code: str = Field(description="stable name of the error, for programs to compare")
    message: str = Field(description="what happened and what to do, in a sentence")


class Links(BaseModel):
    """Where to go on from here."""

    self: str
    result: str
    events: str
    cancel: str
    retry: str


class TaskSummary(BaseModel):
    """A task."""

    uid: str
    model: str = Field(description="the model's id")
    version: str = Field(description="version of the model, settled when the task was submitted")
    digest: str = Field(description="digest of the model's files")
    dialect: str = Field(description="the door that it came through")
    status: Status
    revision: int = Field(description="rises whenever status, phase or progress change")
    priority: PriorityName
    parameters: dict[str, Any]
    outputs: list[str] = Field(description="what was asked for beyond what the model gives")
    phase: Phase | None = Field(description="what a running task is doing")
    progress: float = Field(description="how much of the computation is done, 0 to 1")
    attempts: int = Field(description="how many workers died over it")
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    ended_at: AwareDatetime | None
    problem: ProblemRecord | None = Field(description="why it has no result")
    links: Links


class TaskRecord(TaskSummary):
    """A task, with what is known of its way through the queue and of its computation."""

    queue_position: int | None = Field(description="how many tasks go before it (0: it is next); null unless queued")
    expected_wait_s: float | None = Field(description="estimated seconds until it starts; null if unknown or started")
    timings: dict[str, float] = Field(
        description="seconds: `queued` and `running`, and while or after it ran what each phase took"
    )
    case_size_bytes: int
    result_size_bytes: int | None
    report: dict[str, Any] = Field(
        description="how the result came about: device, precision, software, notes, its `grid`; and what it is: "
        "`classifications` (of an ensemble also its `members`'), `texts`, `points`, `volumes_cc`, `contents`"
    )


class TaskPage(BaseModel):
    """Tasks, newest first."""

    tasks: list[TaskSummary]
    next_cursor: str | None = Field(description="pass it as `cursor` to get the next ones; null at the end")


class EventRecord(BaseModel):
    """A line of a task's log."""

    seq: int = Field(description="rises over all events of the server")
    time: AwareDatetime
    level: str
    text: str


class EventList(BaseModel):
    """A task's log, oldest line first."""

    events: list[EventRecord]


class ModelRecord(Manifest):
    """A model: its manifest, and a digest of its files."""

    digest: str


class ModelList(BaseModel):
    """The models that this server runs: all versions, the highest first. A task gets the highest."""

    models: list[ModelRecord]
    broken: dict[str, str] = Field(description="model folders that cannot be served, and why; for the operator")


class CallerRecord(BaseModel):
    """Who makes a request."""

    name: str = Field(description="the token's name; `local` or `no-auth` where none is needed")
    scopes: list[Scope] = Field(description="what it allows")


_PLAIN = ("uid", "model", "version", "digest", "dialect", "status", "revision", "phase", "progress", "attempts")
_MOMENTS = ("created_at", "started_at", "ended_at")


def task_summary(task: Task, *, base_url: str) -> dict[str, Any]:
    """Return the fields of a `TaskSummary`."""
    return {
        **{name: getattr(task, name) for name in _PLAIN},
        **{name: _moment(getattr(task, name)) for name in _MOMENTS},
        "parameters": dict(task.parameters),
        "outputs": list(task.outputs),
        "priority": Priority(task.priority).name.lower(),
        "problem": ProblemRecord(code=task.problem.code, message=task.problem.message) if task.problem else None,
        "links": _links(f"{base_url}/tasks/{task.uid}"),
    }


def task_record(
    task: Task, *, base_url: str, now: float, position: int | None = None, expected_wait_s: float | None = None
) -> TaskRecord:
    """Return a task as clients see it.

    Args:
        task: the record.
        base_url: what the links begin with.
        now: seconds since the epoch, up to which a time that goes on is counted.
        position: how many tasks go before it; None unless it is queued.
        expected_wait_s: estimated time until it starts.
    """
    report = dict(task.report)
    phases = report.pop("timings_s", {})
    return TaskRecord(
        **task_summary(task, base_url=base_url),
        queue_position=position,
        expected_wait_s=expected_wait_s,
        timings={**_timings(task, now), **phases},
        case_size_bytes=task.case_size_bytes,
        result_size_bytes=task.result_size_bytes,
        report=report,
    )


def event_record(event: Event) -> EventRecord:
    """Return a line of a task's log as clients see it."""
    moment = datetime.fromtimestamp(event.time, UTC)
    return EventRecord(seq=event.seq, time=moment, level=event.level, text=event.text)


def _timings(task: Task, now: float) -> Mapping[str, float]:
    end = now if task.ended_at is None else task.ended_at
    if task.started_at is None:
        return {"queued": round(end - task.queued_at, 3)}
    return {"queued": round(task.started_at - task.queued_at, 3), "running": round(end - task.started_at, 3)}


def _links(self: str) -> Links:
    verbs = {name: f"{self}/{name}" for name in ("result", "events", "cancel", "retry")}
    return Links(self=self, **verbs)


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
