"""The presence of a worker: what its parent says of it in the records, with what its children tell the parent."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace

from inference_server.models.device_use import DeviceUse
from inference_server.models.warmth import Warmth
from inference_server.tasks.figures import Figure, Kind
from inference_server.tasks.workers import Worker, Workers, WorkerState

HIT, LOAD = "hit", "load"
"""What a child tells of a model that it wanted: how often it was loaded already, and how often it was not."""
HAS, DROPPED = "has", "dropped"
"""What it tells of models that it keeps loaded."""

Told = tuple[str, str, int]


class WarmNews:
    """What changed in a child's warm models since it was last asked. Used in the child."""

    def __init__(self) -> None:
        self._before = Warmth()

    def is_of_models(self, now: Warmth) -> bool:
        """Whether other models are loaded than those that were told of: that should be known at once."""
        return now.models != self._before.models

    def since_last(self, now: Warmth) -> Iterator[Told]:
        """Yield what to tell the parent: a verb, a model and a number."""
        before, self._before = self._before, now
        yield from ((HAS, model, 1) for model in now.models if model not in before.models)
        yield from ((DROPPED, model, 1) for model in before.models if model not in now.models)
        yield from _risen(HIT, before.hits, now.hits)
        yield from _risen(LOAD, before.loads, now.loads)


def _risen(verb: str, before: Mapping[str, int], now: Mapping[str, int]) -> Iterator[Told]:
    for model, number in now.items():
        if number > before.get(model, 0):
            yield verb, model, number - before.get(model, 0)


class Presence:
    """Says in the records how a worker is. Used by the guardian's thread, in the parent.

    Args:
        workers: their records, for this thread alone.
        worker: what is known of it at its start.
        every_s: how often it is said.
        look: how the device is used; None where it does not say.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        workers: Workers,
        worker: Worker,
        *,
        every_s: float,
        look: Callable[[], DeviceUse | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers = workers
        self._worker = worker
        self._every_s = every_s
        self._look = look
        self._clock = clock
        self._next = clock()
        self._warm: dict[int, set[str]] = {}
        self._counted: Counter[tuple[str, str]] = Counter()

    def heard(self, pid: int, told: Told) -> None:
        """Take note of what a child says of its models."""
        verb, model, number = told
        match verb:
            case "has":
                self._warm.setdefault(pid, set()).add(model)
            case "dropped":
                self._warm.get(pid, set()).discard(model)
            case _:
                self._counted[verb, model] += number

    def lost(self, pids: Collection[int]) -> None:
        """Take note of children that have ended, and their models with them."""
        for pid in pids:
            self._warm.pop(pid, None)

    def enter(self, state: WorkerState) -> None:
        """Have the next beat, which is due at once, say another state."""
        if state is not self._worker.state:
            self._worker = replace(self._worker, state=state)
            self._next = self._clock()

    def beat(self) -> None:
        """Say how the worker is, if it is time to.

        Raises:
            StoreUnavailable: the records cannot be reached; what was counted is said with the next beat.
        """
        if self._clock() < self._next:
            return
        self._next = self._clock() + self._every_s
        self._workers.beat(self._now(), [_figure(*key, number) for key, number in self._counted.items()])
        self._counted.clear()

    def leave(self) -> None:
        """Say that the worker has ended in order.

        Raises:
            StoreUnavailable: the records cannot be reached; it is listed as silent for a while.
        """
        self._workers.leave(self._worker.name)

    def _now(self) -> Worker:
        use = self._look()
        return replace(
            self._worker,
            beat_at=self._workers.clock(),
            models=tuple(sorted(set().union(*self._warm.values()))),
            memory_used_bytes=use.memory_bytes if use else None,
            utilisation=use.utilisation if use else None,
        )


def _figure(verb: str, model: str, number: int) -> Figure:
    return Figure(Kind.WARM, model, verb, counted=number)
