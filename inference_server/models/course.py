"""The course of one run: its phases and their times, and what was degraded on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from inference_server.errors import Cancelled
from inference_server.models.hooks import Hooks

Prepared = TypeVar("Prepared")


@dataclass
class Course:
    """Times the phases of a run and announces them; collects sentences for its report."""

    hooks: Hooks
    timings_s: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    prepared: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase; one that comes again is added up.

        Raises:
            Cancelled: the hooks say so, before it begins.
        """
        if self.hooks.cancelled():
            raise Cancelled
        self.hooks.phase(name)
        started = time.perf_counter()
        try:
            yield
        finally:
            spent_s = self.timings_s.get(name, 0.0) + time.perf_counter() - started
            self.timings_s[name] = round(spent_s, 4)

    def note(self, sentence: str) -> None:
        """Have the report and the task's log say what was degraded and why."""
        if sentence not in self.notes:
            self.notes.append(sentence)
            self.hooks.event("warning", sentence)

    def part(self, number: int, count: int) -> Course:
        """Return the same course for one of several models that a run asks one after the other."""
        tell = self.hooks.progress
        hooks = replace(self.hooks, progress=lambda done: tell((number + done) / count))
        return Course(hooks, self.timings_s, self.notes, self.prepared)

    def once(self, way: str | None, prepare: Callable[[], Prepared]) -> Prepared:
        """Return the case prepared in a way; models that one run asks one after the other share it.

        Args:
            way: names it; of None nothing is kept.
            prepare: does it.
        """
        if way is None:
            return prepare()
        if way not in self.prepared:
            self.prepared.clear()  # only the last one is kept
            self.prepared[way] = prepare()
        found: Prepared = self.prepared[way]
        return found
