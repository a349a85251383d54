"""The result of a task as a door gets it, or the reason why there is none."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from inference_server.errors import Cancelled, InferenceServerError, NotFinished, ResultGone, TaskError, all_errors
from inference_server.tasks.blobs import Blobs
from inference_server.tasks.record import Status, Task


@dataclass(frozen=True)
class ResultFile:
    """The stored output zip of a finished task."""

    task: Task
    key: str
    size_bytes: int
    blobs: Blobs

    def open(self) -> BinaryIO:
        """Open it for reading; it stays readable although the task may be deleted meanwhile.

        Raises:
            ResultGone: its bytes have been removed.
        """
        return self.blobs.open(self.key)

    def as_file(self) -> AbstractContextManager[Path]:
        """Give it as a local file for the length of a `with` block. The file must not be changed.

        Raises:
            ResultGone: its bytes have been removed.
        """
        return self.blobs.as_file(self.key)


def without_result(task: Task) -> InferenceServerError:
    """Return the error that says why a task has no result to fetch."""
    match task.status:
        case Status.QUEUED | Status.RUNNING:
            return NotFinished()
        case Status.CANCELLED:
            return Cancelled()
        case Status.FAILED if task.problem is not None:
            kinds = {kind.code: kind for kind in all_errors()}
            return kinds.get(task.problem.code, TaskError)(task.problem.message)
    return ResultGone()


FINDINGS = ("classifications", "members", "texts", "points", "volumes_cc", "contents")
"""What of a result stands in a task's report."""


def without_findings(task: Task) -> Task:
    """Return a task as those see it who may follow it, but not know what came of it."""
    return replace(task, report={name: value for name, value in task.report.items() if name not in FINDINGS})
