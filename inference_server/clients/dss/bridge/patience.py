"""Asking again while a server is away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from inference_server.clients.dss.connection import Connection
from inference_server.clients.dss.errors import DSSRefused, DSSUnreachable
from inference_server.clients.native import ServerError

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
_PASSING = frozenset({401, 429, 502, 503, 504, 507})
"""A token may have ended, a queue or a disk be full, a server be starting: no ticket need fail of that."""

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


class StoppedError(BaseException):
    """The bridge was told to stop. Not an `Exception`: nothing but the bridge itself may catch it."""


class Patience:
    """Repeats what failed because a server was away, until it works or the bridge stops."""

    def __init__(self, connection: Connection, *, first_pause_s: float = FIRST_PAUSE_S) -> None:
        self._connection = connection
        self._stop = threading.Event()
        self._first_pause_s = first_pause_s

    @property
    def over(self) -> bool:
        """Whether the bridge was told to stop."""
        return self._stop.is_set()

    def end(self) -> None:
        """Tell everything to stop."""
        self._stop.set()

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            StoppedError: the bridge stops.
        """
        if self._stop.wait(seconds):
            raise StoppedError

    def lasting(self, ask: Callable[[], _Answer]) -> _Answer:
        """Return what `ask` returns, once it does.

        Raises:
            ServerError: a server refused.
            StoppedError: the bridge stops.
        """
        pause_s = self._first_pause_s
        while True:
            try:
                return ask()
            except ServerError as error:
                if not self.is_passing(error):
                    raise
                _log.warning("waiting for a server", extra={"reason": error.message})
            self.pause(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def is_passing(self, error: ServerError) -> bool:
        """Tell whether the same request may work later; where nobody is signed in, somebody may do so meanwhile."""
        if isinstance(error, DSSRefused):
            if error.signed_out:
                self._connection.reload_session()
            return error.signed_out or error.passing
        if isinstance(error, DSSUnreachable):
            return True
        return error.problem_code == "unreachable" or error.http_status in _PASSING
