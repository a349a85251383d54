"""The whole application on records and files of its own, with a task in every state at hand."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from door_support import RESULT, Doors, FakeModel, case
from werkzeug.test import EnvironBuilder, TestResponse, run_wsgi_app
from werkzeug.wrappers import Request

from fuzz.oracle import CPU_LIMIT_S, SENTENCE, UNFIT, Verdict
from inference_server.api.dss import EXTENSION
from inference_server.errors import TaskError, all_errors
from inference_server.models.manifest import Manifest
from inference_server.models.parameter import Parameter
from inference_server.tasks.caller import ALL_SCOPES, Caller
from inference_server.tasks.record import Problem, Status
from inference_server.tasks.tickets.document import decode_service
from inference_server.tasks.tokens import Tokens

STATES = ("queued", "running", "finished", "failed", "cancelled", "expired")
LIMITS = {"upload_limit_bytes": 100_000, "member_limit": 8, "unpacked_limit_bytes": 300_000,
          "image_limit_bytes": 100_000, "labels_limit_bytes": 100_000, "wait_limit_s": 0.01,
          "sign_in_limit": 1_000_000, "dss_ticket_limit": 10_000_000, "token_task_limit": 10_000_000,
          "queue_limit": 10_000_000, "model_queue_limit": 10_000_000}  # fmt: skip
GITHASH = "5f3ad0b6c1a4c6a4d54d8b4f2d1b0a9e8c7d6e5f"
SERVICE = '{"name": "fuzzed", "version": "1.0.0", "shortdesc": "an external service"}'
TOKEN = {"Authorization": "Bearer {token}"}
"""A header of a request; the application puts its token there."""
OF_THE_SERVER = {
    "",
    *(error.code for error in all_errors() if error.status >= 500 and not issubclass(error, TaskError)),
}
"""Codes that no request may lead to. A task that failed is told with its own, some of them with a status above 500."""
ALL = Manifest(
    id="all",
    parameters=(
        Parameter(name="number", type="number"),
        Parameter(name="count", type="integer", minimum=1),
        Parameter(name="flag", type="flag"),
        Parameter(name="note", type="text"),
        Parameter(name="side", type="choice", choices=("left", "right")),
    ),
)
"""A model with parameters of every type."""


@dataclass(frozen=True)
class Asked:
    """A request as it goes over the wire; `{finished}` and so on stand for the UID of a task in this state."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    def stored(self) -> bytes:
        """Return it as a file of the corpus."""
        return json.dumps({**vars(self), "body": base64.b64encode(self.body).decode()}, indent=1).encode()

    @staticmethod
    def restored(content: bytes) -> Asked:
        """Read a file of the corpus."""
        said = json.loads(content)
        return Asked(**{**said, "body": base64.b64decode(said["body"])})


class Application:
    """The application, a token for it, and tasks in every state."""

    def __init__(self, folder: Path) -> None:
        self.doors = Doors(folder, **LIMITS)
        self.doors.models.known["all"] = FakeModel(ALL)
        _, self.token = Tokens(self.doors.database).create("fuzz", ALL_SCOPES)
        self._staging = folder / "blobs" / "staging"
        self._tasks: dict[str, str] = {}
        self._make_tickets()

    def close(self) -> None:
        """Close the records."""
        self.doors.close()

    def uid(self, state: str) -> str:
        """Return the UID of a task that is in this state."""
        uid = self._tasks.get(state)
        if uid is None or not self._is(uid, state):
            uid = self._tasks[state] = self._made(state)
        return uid

    def ask(self, asked: Asked) -> TestResponse:
        """Send a request."""
        path = re.sub("{(" + "|".join(STATES) + ")}", lambda found: self.uid(found[1]), asked.path)
        headers = {name: value.replace("{token}", self.token) for name, value in asked.headers.items()}
        environ = EnvironBuilder("/", method=asked.method, data=asked.body).get_environ()
        environ.update((f"HTTP_{name.upper().replace('-', '_')}", value) for name, value in headers.items())
        # As a server gives them, which takes a path apart in no other way.
        given = {"PATH_INFO": unquote_to_bytes(path).decode("latin-1"), "QUERY_STRING": asked.query}
        kind = {"CONTENT_TYPE": headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(asked.body))}
        environ.update(given | kind)
        answer = run_wsgi_app(self.doors.app, environ, buffered=True)
        return TestResponse(*answer, Request(environ))

    def left(self) -> list[str]:
        """Return what of uploads lies about."""
        return [path.name for path in self._staging.glob("*")] if self._staging.is_dir() else []

    def _make_tickets(self) -> None:
        """Make tickets of an external service: 1 waits for its files, 2 is claimed."""
        desk, who = self.doors.app.extensions[EXTENSION], Caller("fuzz", ALL_SCOPES, "dss")
        service = decode_service(SERVICE, GITHASH)
        desk.providers.add("penn")
        desk.providers.admit("penn", "fuzz")
        desk.providers.offer("penn", service)
        for _ in range(2):
            ticket = desk.tickets.create(service, who)
            desk.tickets.add_file(ticket.id, "a.itksnap", self.doors.blobs.stage(), who)
        desk.tickets.set_ready(ticket.id, who)
        assert desk.serving.claim([GITHASH], "penn", "one", who).id == ticket.id == 2

    def _is(self, uid: str, state: str) -> bool:
        with self.doors.database.reading() as connection:
            found = connection.exec_driver_sql("SELECT status FROM tasks WHERE uid = ?", (uid,)).scalar()
        return bool(found == state)

    def _made(self, state: str) -> str:
        doors = self.doors
        uid = self._submitted()
        if state == "queued":
            return uid
        if state == "cancelled":
            self._post(f"/api/v1/tasks/{uid}/cancel")
            return uid
        claim = next(claim for claim in iter(doors.claim, None) if claim.task.uid == uid)
        if state == "running":
            doors.go_on(claim)
        elif state == "failed":
            doors.fail(claim, Problem("out_of_memory", "The case needs more memory."))
        else:
            doors.finish(claim, RESULT)
        if state == "expired":
            doors.claims.expire(-1.0, [Status.FINISHED])
        return uid

    def _submitted(self) -> str:
        body = EnvironBuilder(method="POST", data={"model": "one", "case": (io.BytesIO(case()), "c.zip")})
        made = body.get_request()
        answer = self._post("/api/v1/tasks", data=made.get_data(), content_type=made.content_type)
        assert answer.status_code == 202, answer.text
        return str(answer.json["uid"])

    def _post(self, path: str, **more: Any) -> TestResponse:
        return self.doors.client.post(path, headers={"Authorization": f"Bearer {self.token}"}, **more)


def judged(application: Application, asked: Asked, what: str) -> tuple[Verdict, TestResponse]:
    """Send a request and say what came of it.

    Args:
        application: answers.
        asked: what.
        what: the same for requests of the same kind.
    """
    began = time.process_time()
    answer = application.ask(asked)
    cpu_s = time.process_time() - began
    found = answer.get_json(silent=True) if answer.is_json else None
    said = found if isinstance(found, dict) else {}
    outcome = f"{what} {answer.status_code} {said.get('code', '')}"
    fault = _fault(answer, said)
    if left := application.left():
        fault = fault or f"left {len(left)} uploads behind"
    if cpu_s > CPU_LIMIT_S:
        fault = fault or "takes too long"
    return Verdict(outcome, answer.status_code < 400, fault and f"{outcome}: {fault}", "", cpu_s), answer


def _fault(answer: TestResponse, said: dict[str, Any]) -> str:
    told = answer.request.method != "HEAD"  # which has no body to tell more in, and comes the way of GET
    if answer.status_code >= 500 and told and said.get("code", "") in OF_THE_SERVER:
        return "an error of the server"
    text = answer.get_data(as_text=True).rstrip("\n") if answer.mimetype == "text/plain" else ""
    sentence = str(said.get("detail") or said.get("message") or text)
    if answer.status_code >= 400 and sentence and (not SENTENCE.fullmatch(sentence) or UNFIT.search(sentence)):
        return f"says what no clinician reads: {sentence[:200]}"
    if answer.status_code >= 400 and told and not sentence:
        return "says nothing"
    return ""
