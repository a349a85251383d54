"""What a Python app gets beside its case.

An app is a function, or an object or class with methods, named by the manifest's `app`:

* `segment(case, context)`: a function alone;
* `pre(case, context)`, `infer(data, context)`, `post(data, context)`: each gets what the one before gave; `pre` and
  `post` may be missing;
* `prepare`, `predict` and `restore` are other names for these three. A class is made without arguments.

`load(device)`, where there is one, is called once, before the first case. Only it and `infer` have the device to
themselves. What the last one returns is described in `inference_server.models.answer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from inference_server.models.case import Case
from inference_server.models.hooks import NO_HOOKS, Hooks

LEVELS = ("info", "warning", "error")
LINE_LENGTH = 1000
LINE_LIMIT = 1000
LINES_LEFT_OUT = "Further lines of this model are left out."


@dataclass
class Context:
    """How an app speaks with the server while it works on one case.

    Attributes:
        case: the case. Not to be modified.
        folder: the model's folder.
        device: what to compute on, as torch names it (`cpu`, `cuda:0`).
    """

    case: Case
    folder: Path
    device: str
    _hooks: Hooks = NO_HOOKS
    _lines: int = field(default=0, init=False)

    def progress(self, fraction: float) -> None:
        """Say how much is done, 0 to 1."""
        self._hooks.progress(float(fraction))

    def log(self, text: str, level: str = "info") -> None:
        """Add a line to the task's log, which its user reads. It may name nothing of the patient.

        Args:
            text: cut after 1000 characters; after 1000 lines of a case the others are left out.
            level: `info`, `warning` or `error`; anything else is taken for `info`.
        """
        self._lines += 1
        if self._lines <= LINE_LIMIT:
            self._hooks.event(level if level in LEVELS else "info", str(text)[:LINE_LENGTH])
        elif self._lines == LINE_LIMIT + 1:
            self._hooks.event("warning", LINES_LEFT_OUT)

    def cancelled(self) -> bool:
        """Whether the task is not wanted any more, so that the app may return at once, with anything."""
        return self._hooks.cancelled()


Verb = Callable[[object, Context], object]
