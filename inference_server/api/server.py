"""The API under gunicorn: a few processes, each with many threads."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import ThreadWorker

from inference_server.api.app import create_app
from inference_server.api.context import EXTENSION
from inference_server.api.upload import PIECE_BYTES
from inference_server.errors import SettingsError
from inference_server.settings import Settings
from inference_server.tasks.database import open_database

KEEP_ALIVE_S = 15
STOP_S = 3
HEARTBEAT_S = 120
BACKLOG = 1024
MEMORY_FOLDER = Path("/dev/shm")


def run_api(settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve the API until SIGTERM or SIGINT.

    Args:
        settings: where to listen and with how many processes and threads.
        ready: called once, in the first process that can answer, with the URL.

    Raises:
        SettingsError: the address is taken or not one of this machine.
        StoreUnavailable: the records cannot be reached.
    """
    # Once, so that the processes find them migrated.
    open_database(settings.database).close()
    listener = _listener(settings.host, settings.port)
    _Server(settings, listener, ready or _quietly).run()


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as exc:
        reason = (exc.strerror or str(exc)).partition(" (")[0]
        raise SettingsError(f"The API cannot listen on {host}, port {port}: {reason}.") from exc


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _quietly(_url: str) -> None:
    pass


class _Log(Logger):  # type: ignore[misc]
    """gunicorn's messages among our own; there is no access log, since addresses belong to nobody's log."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self._access_log_enabled = False
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)


class _Worker(ThreadWorker):  # type: ignore[misc]
    """A process of the API; when told to stop it lets waiting requests go first."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        app = getattr(self, "wsgi", None)
        if isinstance(app, Flask):
            app.extensions[EXTENSION].waits.release()
        super().handle_exit(sig, frame)


class _Server(BaseApplication):  # type: ignore[misc]
    """Gunicorn, configured without files or command lines."""

    def __init__(self, settings: Settings, listener: socket.socket, ready: Callable[[str], None]) -> None:
        self._settings = settings
        self._url = _url(listener)
        self._bind = f"fd://{listener.detach()}"
        self._ready = ready
        self._ticket, ticket_office = os.pipe()
        os.write(ticket_office, b"1")
        super().__init__()

    def load_config(self) -> None:
        """Set what differs from gunicorn's own choices."""
        settings = self._settings
        chosen: dict[str, Any] = {
            "bind": [self._bind],
            "backlog": BACKLOG,
            "workers": settings.api_processes,
            "threads": max(2, settings.api_threads // settings.api_processes),
            "worker_class": _Worker,
            "keepalive": KEEP_ALIVE_S,
            "graceful_timeout": STOP_S,
            "timeout": HEARTBEAT_S,
            "logger_class": _Log,
            "control_socket_disable": True,
            "post_worker_init": self._announce,
        }
        if MEMORY_FOLDER.is_dir():
            chosen["worker_tmp_dir"] = str(MEMORY_FOLDER)
        for name, value in chosen.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Make the application; called in each process, after the fork."""
        SocketUnreader.max_body_chunk = PIECE_BYTES
        return create_app(self._settings)

    def run(self) -> None:
        """Serve until told to stop."""
        Arbiter(self).run()

    def _announce(self, _worker: Any) -> None:
        # One byte lies in the pipe; whichever process is up first takes it, and none after a restart.
        os.set_blocking(self._ticket, False)
        try:
            first = os.read(self._ticket, 1)
        except BlockingIOError:
            return
        if first:
            self._ready(self._url)
