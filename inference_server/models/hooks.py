"""How a run of a model speaks with whoever started it. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass


@dataclass(frozen=True)
class Hooks:
    """How a run speaks with whoever started it.

    Attributes:
        phase: told what begins: `loading`, `preparing`, `predicting` or `restoring`.
        progress: told the fraction of the windows that are done, 0 to 1.
        cancelled: asked before each window and each phase whether to stop.
        hold: gives a context in which the device is this run's alone.
        share: gives one in which runs that ask for no more than this use the device at the same time.
        event: told a line for the task's log: its level (`info`, `warning`, `error`) and its text.
    """

    phase: Callable[[str], None] = lambda _: None
    progress: Callable[[float], None] = lambda _: None
    cancelled: Callable[[], bool] = lambda: False
    hold: Callable[[], AbstractContextManager[object]] = nullcontext
    share: Callable[[], AbstractContextManager[object]] = nullcontext
    event: Callable[[str, str], None] = lambda _level, _text: None


NO_HOOKS = Hooks()
"""Nobody listens, nobody cancels, nobody else wants the device."""
