"""The routes of the native API."""

from __future__ import annotations

import time

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel

from inference_server.api.access import caller, needs
from inference_server.api.context import Context, context
from inference_server.api.download import send_result
from inference_server.api.health import SERVER
from inference_server.api.native.describe import NOTHING, RESULT, submit_body
from inference_server.api.native.limits import LimitRecord
from inference_server.api.native.models import (
    CallerRecord,
    EventList,
    EventsQuery,
    ListQuery,
    ModelList,
    ModelPath,
    ModelRecord,
    SubmitHeader,
    TaskPage,
    TaskPath,
    TaskRecord,
    TaskSummary,
    WaitQuery,
    event_record,
    task_record,
    task_summary,
)
from inference_server.api.native.submit import submit
from inference_server.api.native.workers import WorkerList, worker_record
from inference_server.api.problems import PROBLEMS
from inference_server.tasks.caller import READING, STEERING, Scope
from inference_server.tasks.record import Status, Task
from inference_server.tasks.results import without_findings
from inference_server.tasks.service import Served
from inference_server.tasks.store import TaskFilter
from inference_server.tasks.workers import Workers

PREFIX = "/api/v1"

SECURITY: list[dict[str, list[str]]] = [{"bearer": []}, {"basic": []}]
TASKS = Tag(name="tasks", description="Submit a case, follow its task, fetch its result")

blueprint = APIBlueprint("native", __name__, url_prefix=PREFIX, abp_responses=PROBLEMS, abp_security=SECURITY)


@blueprint.post(
    "/tasks",
    tags=[TASKS],
    responses={"202": TaskRecord, "200": TaskRecord},
    openapi_extensions={"requestBody": submit_body()},
)
@needs(Scope.SUBMIT)
def submit_task(header: SubmitHeader) -> Response:
    """Submit a case
    Accepted means stored: the task is computed even if the server restarts. 200: the idempotency key is known.
    """
    task, created = submit(context(), request, caller(), idempotency_key=header.idempotency_key)
    answer = _answer(_record(context(), task), 202 if created else 200)
    answer.headers["Location"] = f"{_base_url()}/tasks/{task.uid}"
    return answer


@blueprint.get("/tasks", tags=[TASKS], responses={"200": TaskPage})
@needs(*READING)
def list_tasks(query: ListQuery) -> Response:
    """List tasks, newest first"""
    chosen = TaskFilter(status=query.status, model=query.model, dialect=query.dialect)
    page = context().tasks.page(chosen, caller(), query.cursor, query.limit)
    summaries = [TaskSummary(**task_summary(task, base_url=_base_url())) for task in page.tasks]
    return _answer(TaskPage(tasks=summaries, next_cursor=page.next_cursor))


@blueprint.get("/tasks/<uid>", tags=[TASKS], responses={"200": TaskRecord})
@needs(*READING)
def get_task(path: TaskPath, query: WaitQuery) -> Response:
    """Follow a task
    With `wait`, the answer comes the moment the task changes.
    """
    here = context()
    task = here.tasks.get(path.uid, caller())
    return _answer(_record(here, here.waits.changed(task, revision=query.revision, wait_s=query.wait)))


@blueprint.get("/tasks/<uid>/result", tags=[TASKS], responses={"200": RESULT})
@needs(Scope.READ_OWN, Scope.READ_ALL)
def get_result(path: TaskPath) -> Response:
    """Fetch a finished task's result
    Ranges are honoured, so that a broken download can go on. A failed task answers with its error.
    """
    return send_result(path.uid, context().tasks.result(path.uid, caller()))


@blueprint.get("/tasks/<uid>/events", tags=[TASKS], responses={"200": EventList})
@needs(*READING)
def get_events(path: TaskPath, query: EventsQuery) -> Response:
    """Read a task's log"""
    events = context().tasks.events(path.uid, caller(), query.since)
    return _answer(EventList(events=[event_record(event) for event in events]))


@blueprint.post("/tasks/<uid>/cancel", tags=[TASKS], responses={"200": TaskRecord})
@needs(*STEERING)
def cancel_task(path: TaskPath) -> Response:
    """Stop a task, also while it runs"""
    return _answer(_record(context(), context().tasks.cancel(path.uid, caller())))


@blueprint.post("/tasks/<uid>/retry", tags=[TASKS], responses={"200": TaskRecord})
@needs(*STEERING)
def retry_task(path: TaskPath) -> Response:
    """Queue a failed or cancelled task once more"""
    return _answer(_record(context(), context().tasks.retry(path.uid, caller())))


@blueprint.delete("/tasks/<uid>", tags=[TASKS], responses={"204": NOTHING})
@needs(*STEERING)
def delete_task(path: TaskPath) -> Response:
    """Remove a task and all its data, whatever its status"""
    context().tasks.delete(path.uid, caller())
    return Response(status=204)


@blueprint.get("/models", tags=[SERVER], responses={"200": ModelList})
@needs()
def list_models() -> Response:
    """List the models"""
    served = context().tasks.models
    models = [_model_record(model) for model in served.models()]
    return _answer(ModelList(models=models, broken={path.name: why for path, why in served.problems().items()}))


@blueprint.get("/models/<model>", tags=[SERVER], responses={"200": ModelRecord})
@needs()
def get_model(path: ModelPath) -> Response:
    """Read a model's manifest"""
    return _answer(_model_record(context().tasks.models.get(path.model)))


@blueprint.get("/whoami", tags=[SERVER], responses={"200": CallerRecord})
@needs()
def whoami() -> Response:
    """See who one's token makes one, and what it allows"""
    return _answer(CallerRecord(name=caller().name, scopes=sorted(caller().scopes)))


@blueprint.get("/workers", tags=[SERVER], responses={"200": WorkerList})
@needs(Scope.OPERATE)
def list_workers() -> Response:
    """See what the workers do"""
    found = Workers(context().tasks.store.database).all()
    return _answer(WorkerList(workers=[worker_record(worker) for worker in found]))


@blueprint.get("/limits", tags=[SERVER], responses={"200": LimitRecord})
@needs()
def get_limits() -> Response:
    """Read what the server takes"""
    return _answer(LimitRecord.model_validate(context().settings, from_attributes=True))


def _record(here: Context, task: Task) -> TaskRecord:
    queued = task.status is Status.QUEUED
    return task_record(
        task if caller().may_fetch(task) else without_findings(task),
        base_url=_base_url(),
        now=time.time(),
        position=here.tasks.position(task) if queued else None,
        expected_wait_s=here.tasks.expected_wait_s(task) if queued else None,
    )


def _model_record(model: Served) -> ModelRecord:
    return ModelRecord(**model.manifest.model_dump(), digest=model.digest)


def _base_url() -> str:
    public_url = context().settings.public_url
    return (public_url.rstrip("/") if public_url else "") + PREFIX


def _answer(body: BaseModel, status: int = 200) -> Response:
    return Response(body.model_dump_json(), status, content_type="application/json")
