"""How many connections there may be, from one address and in all."""

from __future__ import annotations

import resource
from collections import Counter

from inference_server.errors import SettingsError

FILES_PER_CONNECTION = 4
"""Its socket, the file that it sends, that file's lock, and the case that is made of it."""
OTHER_FILES = 128


class Places:
    """Places for connections. Not thread-safe; the event loop alone uses it."""

    def __init__(self, *, in_all: int, per_host: int) -> None:
        self._in_all = in_all
        self._per_host = per_host
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many there are."""
        return self._taken.total()

    def take(self, host: str) -> bool:
        """Take a place for a connection of an address; return False where none is left."""
        if self.taken >= self._in_all or self._taken[host] >= self._per_host:
            return False
        self._taken[host] += 1
        return True

    def free(self, host: str) -> None:
        """Give a place back."""
        self._taken[host] -= 1
        if not self._taken[host]:
            del self._taken[host]


def allow_files(connections: int) -> None:
    """Let this process open as many files as connections may need.

    Raises:
        SettingsError: the system does not let it.
    """
    needed = FILES_PER_CONNECTION * connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SettingsError(
            f"{connections} connections to the image socket need up to {needed} open files; the system allows {hard}. "
            "Lower INFERENCE_SERVER_IMAGE_SOCKET_CONNECTIONS, or raise the limit (ulimit -n)."
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
