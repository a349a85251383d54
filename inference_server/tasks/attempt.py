"""An attempt: one try at a task, and what is measured on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from inference_server.models.hooks import Hooks
from inference_server.tasks.claims import Wish
from inference_server.tasks.device import DeviceLock
from inference_server.tasks.keeper import Keeper
from inference_server.tasks.record import Claim, Phase, Task


@dataclass
class Attempt:
    """One try at a task: its keeper, and what is measured on the way."""

    claim: Claim
    keeper: Keeper
    lock: DeviceLock
    wish: Callable[[], Wish | None] = lambda: None
    timings_s: dict[str, float] = field(default_factory=dict)
    waited_s: dict[str, float] = field(default_factory=dict)
    device_s: float = 0.0
    course: list[tuple[str, float]] = field(default_factory=list)
    """What it did from when on, in seconds since the epoch."""
    following: Claim | None = None
    """What was claimed when it was finished."""

    @property
    def task(self) -> Task:
        return self.claim.task

    @property
    def hooks(self) -> Hooks:
        keeper = self.keeper
        share = partial(self._hold, shared=True)
        return Hooks(self._enter, keeper.progress, keeper.cancelled, self._hold, share, keeper.event)

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        self._enter(phase)
        began = time.perf_counter()
        yield
        self.timings_s[phase] = time.perf_counter() - began

    def all_timings_s(self, of_model: Mapping[str, float]) -> dict[str, float]:
        """Return every phase without its wait for the device, which stands by itself."""
        computed = {name: max(0.0, seconds - self.waited_s.get(name, 0.0)) for name, seconds in of_model.items()}
        queued_s = max(0.0, (self.task.started_at or self.task.queued_at) - self.task.queued_at)
        timings_s = {"queued": queued_s, "device_wait": sum(self.waited_s.values()), **self.timings_s, **computed}
        return {name: round(seconds, 4) for name, seconds in timings_s.items()}

    def _enter(self, phase: str) -> None:
        self.course.append((phase, time.time()))
        self.keeper.phase(Phase(phase))

    @contextmanager
    def _hold(self, *, shared: bool = False) -> Iterator[None]:
        asked = time.perf_counter()
        with self.lock.hold(self.keeper.cancelled, shared=shared):
            began = time.perf_counter()
            phase = self.course[-1][0] if self.course else ""
            self.waited_s[phase] = self.waited_s.get(phase, 0.0) + began - asked
            try:
                yield
            finally:
                self.device_s += time.perf_counter() - began
