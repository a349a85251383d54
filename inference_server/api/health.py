"""Whether the server is alive, and whether it can take tasks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Annotated

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, Field

from inference_server.api.access import open_to_all
from inference_server.api.problems import PROBLEMS
from inference_server.errors import InferenceServerError
from inference_server.tasks.service import Tasks

BROKER_CHECK_S = 5.0


SERVER = Tag(name="server", description="What the server offers and takes, and how it is")


class Liveness(BaseModel):
    """That the server is alive."""

    live: bool


class Check(BaseModel):
    """One thing that was looked at."""

    ok: bool
    detail: Annotated[str, Field(description="what is wrong and what it means, in a sentence")] = ""


class HealthReport(BaseModel):
    """Whether the server can take tasks, and what was looked at."""

    ready: bool
    checks: dict[str, Check]


class Health:
    """Looks after what the API needs. Safe to use from many threads."""

    def __init__(self, tasks: Tasks, *, queue: str) -> None:
        self._tasks = tasks
        self._queue = queue
        self._lock = threading.Lock()
        self._broker = Check(ok=True)
        self._broker_due = 0.0

    def report(self) -> HealthReport:
        """Look at the records, the disk and the broker.

        Without the broker tasks are still accepted and are computed later, so it does not make the server unready.
        """
        needed = {
            "records": _tried(lambda: self._tasks.store.states(())),
            "disk": _tried(lambda: self._tasks.ensure_room(0)),
        }
        ready = all(check.ok for check in needed.values())
        return HealthReport(ready=ready, checks={**needed, "broker": self._broker_check()})

    def _broker_check(self) -> Check:
        # A broker that does not answer costs a second; one thread asks, the others take the last answer.
        if time.monotonic() >= self._broker_due and self._lock.acquire(blocking=False):
            try:
                self._broker = self._asked_broker()
                self._broker_due = time.monotonic() + BROKER_CHECK_S
            finally:
                self._lock.release()
        return self._broker

    def _asked_broker(self) -> Check:
        if self._tasks.turns.ready(self._queue) is not None:
            return Check(ok=True)
        return Check(ok=False, detail="The broker does not answer. Tasks are accepted, and computed once it does.")


def _tried(look: Callable[[], object]) -> Check:
    try:
        look()
    except InferenceServerError as error:
        return Check(ok=False, detail=error.message)
    return Check(ok=True)


def health_blueprint(health: Callable[[], Health]) -> APIBlueprint:
    """Return the routes `/healthz/live` and `/healthz/ready`."""
    blueprint = APIBlueprint("health", __name__, url_prefix="/healthz", abp_tags=[SERVER], abp_responses=PROBLEMS)

    @blueprint.get("/live", responses={"200": Liveness})
    @open_to_all
    def live() -> Response:
        """See whether the server is alive"""
        return Response('{"live":true}', content_type="application/json")

    @blueprint.get("/ready", responses={"200": HealthReport, "503": HealthReport})
    @open_to_all
    def ready() -> Response:
        """See whether the server can take tasks
        503: the records or the disk are not well. A broker that is away leaves it ready.
        """
        report = health().report()
        body = report.model_dump_json()
        return Response(body, 200 if report.ready else 503, content_type="application/json")

    return blueprint
