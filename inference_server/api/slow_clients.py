"""Clients that are slow to say what they want: how long they may keep a thread of the API, and what ends them."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress

from gunicorn.workers.gthread import TConn


class Connection(TConn):  # type: ignore[misc]
    """A connection that is closed once, by the thread that served it.

    Closing well means waiting up to two seconds for the client to close too, which the thread that all others depend
    on must not do.
    """

    def close(self, graceful: bool = False) -> None:
        """Close it unless that was done before."""
        if self.sock.fileno() >= 0:
            super().close(graceful)


class HeadWatch:
    """Ends connections whose clients take too long over the TLS handshake and the head of a request.

    A thread reads both and is blocked meanwhile. A time limit on every read would not do: a byte now and then keeps
    it. So another thread shuts the connection down, which the reader takes for its end.

    Args:
        limit_s: how long both may take together.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._watched: dict[TConn, tuple[float, socket.socket]] = {}

    def begin(self, connection: TConn) -> None:
        """Watch a connection, from now on."""
        shared = connection.sock
        # TLS wraps the socket and takes its descriptor away, so that this one has to be another.
        own = socket.socket(shared.family, shared.type, fileno=os.dup(shared.fileno()))
        with self._lock:
            self._watched[connection] = (time.monotonic() + self._limit_s, own)

    def end(self, connection: TConn) -> None:
        """Watch it no longer."""
        with self._lock:
            if found := self._watched.pop(connection, None):
                found[1].close()

    def sweep(self) -> None:
        """Shut down those whose time is over."""
        now = time.monotonic()
        with self._lock:
            for deadline, own in self._watched.values():
                if deadline <= now:
                    with suppress(OSError):  # the client was faster
                        own.shutdown(socket.SHUT_RDWR)
