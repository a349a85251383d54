"""What a conversation asks of the server: who may come in, which models there are, predictions. All of it blocks."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from inference_server.api.access import Access, Need
from inference_server.api.doors import IMAGE_SOCKET
from inference_server.api.image_socket.codec import Code
from inference_server.api.image_socket.models import Choice, letter_of
from inference_server.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    InferenceServerError,
    NotAuthorised,
    SignInLimited,
    StoreUnavailable,
    TooLarge,
    UnknownModel,
    UnknownTask,
)
from inference_server.tasks.blobs.staging import disk_errors
from inference_server.tasks.caller import Caller, Scope
from inference_server.tasks.case_zip import write_case
from inference_server.tasks.record import Task
from inference_server.tasks.service import Tasks
from inference_server.tasks.submission import Submission

log = logging.getLogger(__name__)

DIALECT = IMAGE_SOCKET
NEEDS = (Need(frozenset({Scope.SUBMIT})), Need(frozenset({Scope.READ_OWN, Scope.READ_ALL})))
"""Whoever asks for a prediction submits a task, and is told what came of it."""
_CODES: Mapping[type[InferenceServerError], Code] = {
    NotAuthorised: Code.NOT_AUTHORISED,
    Forbidden: Code.NOT_AUTHORISED,
    SignInLimited: Code.NOT_AUTHORISED,
    UnknownModel: Code.INVALID_MODEL,
    BadRequest: Code.INVALID_FILE,
    TooLarge: Code.INVALID_FILE,
}


def code_of(error: InferenceServerError) -> Code:
    """Return the code that tells a client of an error."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), Code.FAILED)


class Desk:
    """The server, as all conversations see it. Safe to use from many threads.

    Args:
        tasks: their life.
        access: finds out who may come in.
        models: the choice of each code.
    """

    def __init__(self, tasks: Tasks, access: Access, models: Mapping[str, Choice]) -> None:
        self._tasks = tasks
        self._access = access
        self._models = models

    def admit(self, address: str, token: str | None) -> Caller:
        """Return who a client is.

        Raises:
            NotAuthorised, Forbidden, SignInLimited: it may not come in, or its token allows less than it takes.
        """
        return self._access.admit_peer(address, dialect=DIALECT, presented=token, needs=NEEDS)

    def choice(self, code: str) -> Choice | None:
        """Return what a code chooses, None where the server has no model for it."""
        choice = self._models.get(code)
        with suppress(UnknownModel):
            if choice and choice.fits(self._tasks.models.get(choice.model).manifest):
                return choice
        return None

    def stage(self, size_bytes: int) -> Path:
        """Return the path of a new file for an image; `discard` ends it.

        Raises:
            StorageFull: the disk has no room for it.
        """
        self._tasks.ensure_room(size_bytes)
        return self._tasks.stage()

    def discard(self, image: Path) -> None:
        """Remove an image file."""
        with suppress(StoreUnavailable):  # housekeeping finds it
            self._tasks.discard(image)

    def digest(self, image: Path | bytes) -> str:
        """Return the SHA-256 of an image file or its content."""
        with image.open("rb") if isinstance(image, Path) else io.BytesIO(image) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def submit(self, caller: Caller, choice: Choice, image: Path | bytes) -> Task:
        """Submit a task for an image file, which stays, or for its content.

        Raises:
            UnknownModel: the model has been withdrawn.
            BadRequest, TooLarge: the file is no image that the model takes.
            InferenceServerError: as `Tasks.submit`.
        """
        staged = self._tasks.stage()
        try:
            with disk_errors():
                write_case(staged, [image])
        except InferenceServerError:
            self._tasks.discard(staged)
            raise
        submission = Submission(model=choice.model, staged=staged, dialect=DIALECT, token=caller.name)
        return self._tasks.submit(submission)[0]

    def answer(self, uid: str, caller: Caller, choice: Choice) -> bytes | InferenceServerError | None:
        """Return the letter that a task's end means, or the error with which it ended; nothing before its end.

        The audit log notes that a letter was given.

        Raises:
            UnknownTask: it was deleted.
            StoreUnavailable: the records cannot be reached.
        """
        task = self._tasks.get(uid, caller)
        if not task.status.ended:
            return None
        try:
            return self._letter(task, caller, choice)
        except InferenceServerError as error:
            return error

    def _letter(self, task: Task, caller: Caller, choice: Choice) -> bytes:
        result = self._tasks.give(task, caller)
        manifest = self._tasks.models.get(choice.model).manifest
        return letter_of(result.task.report.get("classifications", {}), choice, manifest)

    def drop(self, task: Task, caller: Caller) -> None:
        """Cancel a task that nobody waits for any more."""
        try:
            self._tasks.cancel(task.uid, caller)
        except (UnknownTask, Conflict):
            pass  # it has ended, or is gone
        except InferenceServerError as error:
            log.warning("task not cancelled", extra={"task": task.uid, "code": error.code})
