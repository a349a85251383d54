"""Tickets on models of this server: each becomes one task, whose progress, events and result become the ticket's.

A ticket is brought up to date wherever somebody looks at it, and by housekeeping: whichever process ends in between,
the next look goes on from there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

from inference_server.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    QueueTimedOut,
    ResultGone,
    StorageFull,
    StoreUnavailable,
    UnknownModel,
    UnknownTask,
)
from inference_server.imaging.workspace import Workspace
from inference_server.models.manifest import LabelName
from inference_server.tasks.caller import SERVER, Caller
from inference_server.tasks.record import Status, Task
from inference_server.tasks.results import without_result
from inference_server.tasks.service import Tasks
from inference_server.tasks.submission import Submission
from inference_server.tasks.tickets.inputs import (
    Sent,
    read_sent,
    read_sent_workspace,
    workspace_name,
    write_sent_case,
)
from inference_server.tasks.tickets.links import IN_PROGRESS, Line, Links
from inference_server.tasks.tickets.outputs import Stored, drop_results, shared_images, store_results
from inference_server.tasks.tickets.record import Category, Service, Ticket, TicketFile, TicketStatus
from inference_server.tasks.tickets.services import model_services
from inference_server.tasks.tickets.summary import summary
from inference_server.tasks.tickets.tickets import Tickets

log = logging.getLogger(__name__)

DIALECT = "dss"
_AS_SERVER = replace(SERVER, dialect=DIALECT)
_AGAIN = (TicketStatus.FAILED, TicketStatus.TIMEOUT)
_GOES_ON = (Status.QUEUED, Status.RUNNING, Status.FINISHED)
_REMOVED = "The task of this ticket was removed from the server before it had results. Please send it again."


class Linked:
    """The tasks of tickets on models. Every method raises `StoreUnavailable` if records or files cannot be reached.

    Args:
        tasks: where cases are submitted.
        tickets: as their owners see them.
    """

    def __init__(self, tasks: Tasks, tickets: Tickets) -> None:
        self._tasks = tasks
        self._tickets = tickets
        self._links = Links(tickets.database, clock=tickets.clock)
        self._storing: set[int] = set()
        self._lock = threading.Lock()

    def services(self) -> tuple[Service, ...]:
        """Return the models that tickets can be made for, sorted by name, the highest version first."""
        return model_services(self._tasks.models)

    def start(self, ticket: Ticket, caller: Caller) -> Ticket:
        """Submit the case of a ticket whose files have all arrived, and return the ticket as it is then.

        A ticket has one task at most, however often this is tried. If anything is raised, it stays as it was.

        Raises:
            BadRequest: the files are not what the model takes, or the ticket is not a fresh one; so do its subclasses
                and `TooLarge`.
            UnknownModel: this state of the model is no longer served.
            QueueFull, OverQuota, StorageFull: the server has no room for it.
            UnknownTask, Forbidden: the caller may not steer it.
        """
        _require_steering(ticket, caller)
        if ticket.status is not TicketStatus.INIT:
            raise BadRequest(f"The ticket is {ticket.status}; only a fresh one can be made ready.")
        task = self._submitted(ticket, key=f"dss-ticket-{ticket.id}")
        try:
            return self._tickets.set_ready(ticket.id, caller, task_uid=task.uid)
        except (BadRequest, UnknownTask):
            # Somebody was quicker: with the same task, or by deleting the ticket.
            if self._links.now(ticket).task_uid != task.uid:
                self._remove(task.uid, caller)
            raise

    def restart(self, ticket: Ticket, caller: Caller) -> Ticket:
        """Run a ticket again that failed; its former results go.

        Raises:
            Conflict: it did not fail.
            UnknownModel, QueueFull, OverQuota, StorageFull, UnknownTask, Forbidden: as `start`.
        """
        _require_steering(ticket, caller)
        if ticket.status not in _AGAIN:
            raise Conflict(f"The ticket is {ticket.status}; only a failed or timed-out one can be tried again.")
        uid = self._task_again(ticket, caller)
        return self._tickets.retry(ticket.id, caller, task_uid=uid)

    def refreshed(self, ticket: Ticket) -> Ticket:
        """Bring a ticket up to date with its task, and return it as it is then."""
        if ticket.task_uid is None or ticket.status not in IN_PROGRESS:
            return ticket
        task = self._task(ticket)
        if task is None or task.status is Status.EXPIRED:
            self._fail(ticket, _REMOVED)
            return self._links.now(ticket)
        self._links.catch_up(ticket, task, self._tasks.store.events(task.uid, ticket.event_seq))
        if task.status is Status.FINISHED:
            self._finish(ticket, task)
        elif task.status.ended:
            error = without_result(task)
            self._fail(ticket, error.message, timed_out=isinstance(error, QueueTimedOut))
        return self._links.now(ticket)

    def dropped(self, ticket: Ticket, caller: Caller) -> None:
        """Stop the task of a deleted ticket, and remove all that it has."""
        if ticket.task_uid is not None:
            self._remove(ticket.task_uid, caller)
            self._links.unlink(ticket)

    def sweep(self) -> None:
        """Bring all tickets up to date whose tasks run or have ended, and finish what was begun with deleted ones.

        One that cannot be is left to the next sweep, and the others are gone on with.
        """
        for ticket in self._links.followed():
            _apart(ticket, self.refreshed)
        for ticket in self._links.forgotten():
            _apart(ticket, lambda each: self.dropped(each, _AS_SERVER))

    def _task(self, ticket: Ticket) -> Task | None:
        try:
            return self._tasks.store.get(ticket.task_uid or "")
        except UnknownTask:
            return None

    def _remove(self, uid: str, caller: Caller) -> None:
        with suppress(UnknownTask):
            self._tasks.delete(uid, caller)

    def _submitted(self, ticket: Ticket, *, key: str) -> Task:
        model = self._model(ticket)
        staged = self._tasks.stage()
        try:
            with self._sent(ticket) as sent:
                parameters = write_sent_case(staged, sent, self._tasks.models.get(model).manifest)
            submission = Submission(
                model=model,
                staged=staged,
                dialect=DIALECT,
                token=ticket.token,
                parameters=parameters,
                idempotency_key=key,
            )
            return self._tasks.submit(submission)[0]
        finally:
            self._tasks.discard(staged)

    def _model(self, ticket: Ticket) -> str:
        """Return the id and version of a ticket's model, in the state in which the ticket was made for it."""
        for service in self.services():
            if service.githash == ticket.githash and service.model is not None:
                return service.model
        raise UnknownModel(f"The service '{ticket.service}' was changed or is no longer offered. Make a new ticket.")

    def _task_again(self, ticket: Ticket, caller: Caller) -> str:
        """Return the UID of the task that a failed ticket gets: its own, as long as its case is there."""
        task = self._task(ticket)
        if task is not None and task.status in _GOES_ON:
            return task.uid
        if task is not None:
            with suppress(Conflict):
                return self._tasks.retry(task.uid, caller).uid
        return self._submitted(ticket, key=f"dss-ticket-{ticket.id}-{ticket.task_uid}").uid

    @contextmanager
    def _sent(self, ticket: Ticket) -> Iterator[Sent]:
        with ExitStack() as stack:
            files = self._links.inputs(ticket)
            yield read_sent({file.name: stack.enter_context(self._tasks.blobs.as_file(file.blob)) for file in files})

    def _fail(self, ticket: Ticket, message: str, *, timed_out: bool = False) -> None:
        status = TicketStatus.TIMEOUT if timed_out else TicketStatus.FAILED
        self._links.end(ticket, status, [Line(Category.ERROR, message)])

    def _finish(self, ticket: Ticket, task: Task) -> None:
        """End a ticket whose task has a result, unless another thread of this process is about to."""
        with self._alone(ticket) as alone:
            if not alone:
                return
            try:
                results = self._results(ticket, task)
            except StorageFull:
                log.warning("results of a ticket wait for room on the disk", extra={"ticket": ticket.id})
            except (BadRequest, ResultGone, UnknownTask) as error:
                self._fail(ticket, error.message)
            else:
                self._commit(ticket, task, results)

    def _commit(self, ticket: Ticket, task: Task, results: tuple[Stored, ...]) -> None:
        done = False
        try:
            done = self._links.end(ticket, TicketStatus.SUCCESS, summary(task), results)
        finally:
            if not done:
                drop_results(self._tasks.blobs, results)
        if done:
            log.info("ticket served", extra={"ticket": ticket.id, "task": task.uid, "model": task.model})

    def _results(self, ticket: Ticket, task: Task) -> tuple[Stored, ...]:
        result = self._tasks.result(task.uid, _AS_SERVER)
        contents, files = task.report.get("contents", ()), self._links.inputs(ticket)
        workspace, blobs = self._workspace(files), self._tasks.blobs
        with result.as_file() as path:
            made = store_results(blobs, ticket.id, workspace, path, contents, self._labels(task))
        return (*made, *shared_images(workspace, files))

    def _workspace(self, files: Iterable[TicketFile]) -> Workspace:
        keys = {file.name: file.blob for file in files}
        with self._tasks.blobs.as_file(keys[workspace_name(keys)]) as path:
            return read_sent_workspace(path, keys)

    def _labels(self, task: Task) -> Mapping[int, LabelName]:
        try:
            return self._tasks.models.get(f"{task.model}:{task.version}").manifest.labels
        except UnknownModel:
            return {}

    @contextmanager
    def _alone(self, ticket: Ticket) -> Iterator[bool]:
        with self._lock:
            alone = ticket.id not in self._storing
            self._storing.add(ticket.id)
        try:
            yield alone
        finally:
            if alone:
                with self._lock:
                    self._storing.discard(ticket.id)


def _apart(ticket: Ticket, do: Callable[[Ticket], object]) -> None:
    try:
        do(ticket)
    except StoreUnavailable:
        raise  # so it would be with the others
    except Exception:
        log.exception("ticket not brought up to date", extra={"ticket": ticket.id})


def _require_steering(ticket: Ticket, caller: Caller) -> None:
    """`Tickets` asks this too, but only after the task was submitted."""
    if not caller.may_steer(ticket):
        raise Forbidden("This access token does not allow changing this ticket: 'submit' does for one's own.")
