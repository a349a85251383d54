"""Traces: the way of one task, from submit to result, for OpenTelemetry. Without a setting for them there are none.

A trace's id is the task's UID, so that nothing has to be carried beside the record: whoever has the record, on whatever
machine, adds to the same trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from inference_server.errors import SettingsError
from inference_server.settings import PREFIX, Settings
from inference_server.tasks.record import Task

Course = Sequence[tuple[str, float]]
"""The phases of a run with the moment at which each began, in seconds since the epoch."""


class Traces(Protocol):
    """Where the way of a task is told. No method raises or waits for the network."""

    def submitted(self, task: Task, began: float, ended: float) -> None:
        """Tell that a task was accepted, and from when to when that took."""

    def ran(self, task: Task, course: Course, ended: float, problem: str | None) -> None:
        """Tell how a worker's child ran a task: its phases, when it ended, and the error code if it failed."""

    def fetched(self, task: Task, at: float) -> None:
        """Tell that somebody is given a task's result."""


class NoTraces:
    """Tells nobody."""

    def submitted(self, task: Task, began: float, ended: float) -> None:
        """Do nothing."""

    def ran(self, task: Task, course: Course, ended: float, problem: str | None) -> None:
        """Do nothing."""

    def fetched(self, task: Task, at: float) -> None:
        """Do nothing."""


NO_TRACES = NoTraces()


def open_traces(settings: Settings) -> Traces:
    """Return where the settings want traces. Call it after a fork: it may start a thread.

    Raises:
        SettingsError: they want some, and the packages for that are not installed.
    """
    if settings.traces_url is None:
        return NO_TRACES
    try:
        from inference_server.tasks.spans import spans_to
    except ImportError as exc:
        raise SettingsError(
            f"{PREFIX}TRACES_URL needs packages that are not installed: pip install 'inference-server[traces]'."
        ) from exc
    return spans_to(settings.traces_url)
