"""The case that a worker is at, for the steps of an app that want to know more than their data."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from pathlib import Path

from inference_server.models.app import Context
from inference_server.models.case import Case

_CURRENT: ContextVar[Context | None] = ContextVar("tomaat_context", default=None)


def context() -> Context:
    """Return how to speak with the server: `progress(0.5)`, `log("…")`, `cancelled()`, `device`.

    Where an app is called without a server, nobody listens and the device is the processor.
    """
    return _CURRENT.get() or Context(Case({}), Path.cwd(), "cpu")


@contextmanager
def working_on(current: Context | None) -> Iterator[None]:
    """Have `context()` give this one; what is printed goes to standard error, where a worker's messages go."""
    before = _CURRENT.set(current)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _CURRENT.reset(before)
