"""What a request presents to say who it comes from, and a limit on how often that may be wrong."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from flask import Request

from inference_server.errors import SignInLimited

WINDOW_S = 60.0
KNOWN_LIMIT = 10_000
"""Most addresses whose failures are remembered; the one that failed least recently goes first."""

Key = tuple[str, str]


def authorization(request: Request) -> str | None:
    """Return the token in the `Authorization` header: the one of `Bearer`, or the password of `Basic`.

    Clients that take a user alone (`https://token@host`) send the token as that, with an empty password.
    """
    given = request.authorization
    if given is None:
        return None
    if given.type == "basic":
        return given.password or given.username or None
    return given.token if given.type == "bearer" else None


def is_foreign(request: Request) -> bool:
    """Whether a page of another site made a browser send a request.

    Browsers add passwords and cookies to such requests by themselves, but no `Bearer`.
    """
    origin = request.headers.get("Origin")
    return origin is not None and origin.partition("://")[2] != request.headers.get("Host")


def is_sent_on_purpose(request: Request) -> bool:
    """Whether what a request presents was put there by whoever wrote the client, not by a browser on its own."""
    return not is_foreign(request) or (request.authorization is not None and request.authorization.type == "bearer")


class SignInLimit:
    """Counts failures by address and token, in this process alone. Safe to use from many threads.

    A token that is wrong does not keep out another one at the same address, where a whole hospital may sit behind one
    gateway; but all tokens that there never were count as one.

    Args:
        limit: failures within a minute after which no further try is looked at.
        clock: monotonic seconds.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[Key, deque[float]] = OrderedDict()

    def check(self, key: Key) -> None:
        """Refuse a try if there were too many failures.

        Raises:
            SignInLimited: with the seconds until the next try is looked at.
        """
        with self._lock:
            failures = self._failures.get(key, deque())
            if len(failures) < self._limit:
                return
            wait_s = failures[0] + WINDOW_S - self._clock()
        if wait_s > 0:
            error = SignInLimited()
            error.retry_after_s = wait_s
            raise error

    def note_failure(self, key: Key) -> None:
        """Count a failure."""
        with self._lock:
            self._failures.setdefault(key, deque(maxlen=self._limit)).append(self._clock())
            self._failures.move_to_end(key)
            if len(self._failures) > KNOWN_LIMIT:
                self._failures.popitem(last=False)


def network(address: str | None) -> str:
    """Return what failures of an address are counted under: itself, or the /64 of an IPv6 one, which is one site's."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))
