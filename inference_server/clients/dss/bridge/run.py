"""One ticket on its way through our queue, from wherever it was left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from inference_server.clients.dss.bridge.journal import Entry, Journal
from inference_server.clients.dss.bridge.patience import Patience
from inference_server.clients.dss.bridge.work import CLASSES, Work, result_workspace, work_of, write_case
from inference_server.clients.dss.errors import GONE, DSSRefused
from inference_server.clients.dss.provider import Category, Provider
from inference_server.clients.dss.records import CLAIMED
from inference_server.clients.native import Client, ServerError
from inference_server.clients.records import RemoteTask
from inference_server.errors import InferenceServerError, TaskError

SIGN_OF_LIFE_S = 20.0
"""A provider that says nothing for long counts as lost."""
WATCH_S = 5.0

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
_CATEGORIES: Mapping[str, Category] = {"warning": "warning", "error": "error", "critical": "error"}


@dataclass(frozen=True)
class Desk:
    """What all tickets are worked on with."""

    provider: Provider
    client: Client
    journal: Journal
    patience: Patience
    model: str
    parameters: Mapping[str, Any]


class TicketRun:
    """Brings a ticket to its end. What was done before, by this process or one before it, is not done again."""

    def __init__(self, desk: Desk, entry: Entry) -> None:
        self._desk = desk
        self._entry = entry
        self._told: float = 0.0
        self._told_at = time.monotonic()

    def serve(self) -> None:
        """Run the ticket to its end and forget it.

        Raises:
            StoppedError: the bridge stops; the ticket stays in the journal.
        """
        try:
            if self._is_ours():
                self._give(self._watched(self._submitted()))
        except DSSRefused as refused:
            self._refused(refused)
        except InferenceServerError as error:
            self._fail(error.message)
        self._forget()

    def _is_ours(self) -> bool:
        """Tell whether the ticket still waits for us.

        While we were away its user may have deleted it, or queued it anew after the server gave us up.
        """
        return self._lasting(lambda: self._desk.provider.status(self._entry.ticket)) == CLAIMED

    def _submitted(self) -> str:
        """Return the UID of the ticket's task, made if there is none yet."""
        if self._entry.uid is None:
            task = self._submit(work_of(self._files(), self._model()))
            self._write(replace(self._entry, uid=task.uid))
            _log.info("submitted", extra={"ticket": self._entry.ticket, "task": task.uid})
        return str(self._entry.uid)

    def _submit(self, work: Work) -> RemoteTask:
        """Submit the images; where labels are wanted on another grid than theirs, in a zip that says so."""
        images, points = work.images, work.points
        if work.grid is not None:
            case = self._desk.journal.folder(self._entry.ticket) / "case.zip"
            write_case(work, case)
            images, points = (case,), {}
        desk, parameters = self._desk, {**self._desk.parameters, **work.parameters}
        return self._lasting(
            lambda: desk.client.submit(
                desk.model, images, parameters=parameters, points=points, idempotency_key=self._entry.key
            )
        )

    def _watched(self, uid: str) -> RemoteTask:
        """Return the task when it has ended; until then its progress and events go to the ticket."""
        task: RemoteTask | None = None
        while task is None or not task.ended:
            found = self._asked(uid, task)
            if found:
                self._pass_on(uid)
            task = found or task
            self._tell(task.progress if task else self._told)
        if task.status != "finished":
            problem = task.problem or {}
            raise TaskError(str(problem.get("message") or f"There is no result: the task is {task.status}."))
        return task

    def _asked(self, uid: str, task: RemoteTask | None) -> RemoteTask | None:
        """Return how the task is when that changed, at the latest after a while; None if our server is away."""
        self._desk.patience.pause(0)
        since = {"wait_s": WATCH_S, "revision": task.revision} if task else {}
        try:
            return self._desk.client.status(uid, **since)  # type: ignore[arg-type]
        except ServerError as error:
            if not self._desk.patience.is_passing(error):
                raise
            self._desk.patience.pause(WATCH_S)
            return None

    def _pass_on(self, uid: str) -> None:
        """Write the task's events into the ticket's log."""
        for event in self._lasting(lambda: self._desk.client.events(uid, since=self._entry.events_seen)):
            self._say(_CATEGORIES.get(event["level"], "info"), str(event["text"]))
            self._write(replace(self._entry, events_seen=int(event["seq"])))

    def _tell(self, progress: float) -> None:
        """Report progress that has risen, and from time to time that we are here."""
        due = time.monotonic() - self._told_at > SIGN_OF_LIFE_S
        if progress > self._told or due:
            self._told, self._told_at = max(progress, self._told), time.monotonic()
            self._lasting(lambda: self._desk.provider.set_progress(self._entry.ticket, self._told))

    def _give(self, task: RemoteTask) -> None:
        ticket, provider = self._entry.ticket, self._desk.provider
        folder = self._desk.journal.folder(ticket)
        result = self._lasting(lambda: self._desk.client.fetch(task.uid, folder / "result"))
        workspace = folder / "results.itksnap"
        result_workspace(self._files(), result, self._model(), workspace)
        self._note(task.raw.get("report") or {})
        for table in (path for path in result if path.name == CLASSES):
            self._attach(table)
        self._lasting(lambda: provider.upload(ticket, workspace))
        self._tell(1.0)
        self._lasting(lambda: provider.succeed(ticket))
        _log.info("finished", extra={"ticket": ticket, "task": task.uid})

    def _note(self, report: Mapping[str, Any]) -> None:
        """Write what was assumed or degraded, and the model's texts, into the ticket's log."""
        if self._entry.noted:
            return
        for note in report.get("notes", ()):
            self._say("warning", _one_line(note))
        for name, text in report.get("texts", {}).items():
            self._say("info", _one_line(f"{name}: {text}"))
        self._write(replace(self._entry, noted=True))

    def _refused(self, refused: DSSRefused) -> None:
        """A ticket that is gone is left alone; one that is still ours has failed."""
        if refused.http_status in GONE and not self._is_still_claimed():
            _log.info("taken away", extra={"ticket": self._entry.ticket})
        else:
            self._fail(f"The DSS server did not take the result: {refused.message}")

    def _is_still_claimed(self) -> bool:
        try:
            return self._is_ours()
        except DSSRefused:
            return False

    def _fail(self, message: str) -> None:
        _log.info("failed", extra={"ticket": self._entry.ticket, "reason": message})
        try:
            self._say("error", message)
            self._lasting(lambda: self._desk.provider.fail(self._entry.ticket))
        except DSSRefused as refused:
            _log.warning("not told", extra={"ticket": self._entry.ticket, "reason": refused.message})

    def _forget(self) -> None:
        """Remove what is here of the patient's: the task and its data, and the files."""
        uid = self._entry.uid
        try:
            if uid:
                self._lasting(lambda: self._desk.client.delete(uid))
        except ServerError as error:
            _log.warning("the task stays", extra={"task": uid, "reason": error.message})
        self._desk.journal.drop(self._entry.ticket)

    def _files(self) -> list[Path]:
        """Return what the ticket came with, fetched unless all of it is here."""
        folder = self._desk.journal.folder(self._entry.ticket) / "input"
        complete = folder.with_name("complete")
        if not complete.exists():
            self._lasting(lambda: self._desk.provider.download(self._entry.ticket, folder))
            complete.touch()
        return sorted(folder.iterdir())

    def _model(self) -> Mapping[str, Any]:
        return self._lasting(lambda: self._desk.client.model(self._desk.model))

    def _say(self, category: Category, message: str) -> None:
        self._lasting(lambda: self._desk.provider.log(self._entry.ticket, category, message))

    def _attach(self, table: Path) -> None:
        provider, ticket = self._desk.provider, self._entry.ticket
        self._lasting(lambda: provider.attach(ticket, "Probabilities of classes", table, "text/csv"))
        self._say("info", "The probabilities of the model's classes are attached.")

    def _write(self, entry: Entry) -> None:
        self._desk.journal.write(entry)
        self._entry = entry

    def _lasting(self, ask: Callable[[], _Answer]) -> _Answer:
        return self._desk.patience.lasting(ask)


def _one_line(text: str) -> str:
    """Return a text without line breaks, which the tables of this protocol cannot hold."""
    return " ".join(text.split())
