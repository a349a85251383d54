"""The API under gunicorn: a few processes, each with many threads."""

from __future__ import annotations

import logging
import os
import resource
import selectors
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker

from inference_server.api.app import create_app
from inference_server.api.context import EXTENSION
from inference_server.api.doors import opened_dialects
from inference_server.api.slow_clients import Connection, HeadWatch
from inference_server.api.upload import PIECE_BYTES
from inference_server.errors import SettingsError
from inference_server.settings import Settings
from inference_server.tasks.database import open_database

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 15
STOP_S = 3
HEARTBEAT_S = 120
BACKLOG = 1024
CONNECTIONS = 1000
"""Open connections per process; more wait to be accepted."""
FILES = 2 * CONNECTIONS
"""Files that a process may have open. Were these fewer than its connections, it would end by accepting too many."""
MEMORY_FOLDER = Path("/dev/shm")


def run_api(settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve the API until SIGTERM or SIGINT.

    Args:
        settings: where to listen and with how many processes and threads.
        ready: called once, in the first process that can answer, with the URL; with that of HTTPS after it, if any.

    Raises:
        SettingsError: an address is taken or not one of this machine, the certificate cannot be used, or a dialect
            is to be opened that cannot be.
        StoreUnavailable: the records cannot be reached.
    """
    if opened := opened_dialects(settings.opened):
        log.warning("dialects are open to clients without a token", extra={"dialects": sorted(opened)})
    if settings.no_auth:
        log.warning("access is not controlled: whoever reaches the server may do everything")
    serve(settings, create_app, ready=ready)


def serve(
    settings: Settings, make_app: Callable[[Settings], Flask], *, ready: Callable[[str], None] | None = None
) -> None:
    """Serve an application until SIGTERM or SIGINT.

    Args:
        settings: where to listen and with how many processes and threads.
        make_app: makes the application; called in each process.
        ready: as `run_api` has it.

    Raises:
        SettingsError: an address is taken or not one of this machine, or the certificate cannot be used.
        StoreUnavailable: the records cannot be reached.
    """
    _allow_files()
    # Once, so that the processes find them migrated.
    open_database(settings.database).close()
    listeners = [_listener(settings.host, settings.port)]
    context = tls_context(settings) if settings.tls else None
    if context:
        listeners.append(_listener(settings.tls_host or settings.host, settings.tls_port))
    _Server(settings, make_app, listeners, context, ready or _quietly).run()


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Return the server's side of TLS, 1.2 or newer.

    Raises:
        SettingsError: the certificate or its key cannot be read, or do not belong together.
    """
    certificate, key = settings.certificate, settings.certificate_key
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except FileNotFoundError as exc:
        raise SettingsError(
            f"HTTPS needs a certificate and its key: {certificate} and {key}. Make them with `inference-server certs`, "
            "or name yours (INFERENCE_SERVER_TLS_CERTIFICATE, INFERENCE_SERVER_TLS_KEY)."
        ) from exc
    except OSError as exc:  # SSLError is one
        raise SettingsError(
            f"The certificate {certificate} cannot be used with the key {key}: {exc.strerror}."
        ) from exc
    return context


def _allow_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as exc:
        reason = (exc.strerror or str(exc)).partition(" (")[0]
        raise SettingsError(f"The API cannot listen on {host}, port {port}: {reason}.") from exc


def _url(listener: socket.socket, scheme: str) -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


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
    """A process of the API; when told to stop it lets waiting requests go first.

    gunicorn speaks TLS on all listeners or on none. Here those connections do that came through the listener of HTTPS:
    they are given a configuration of their own before anything of them is read.

    A process whose threads are all busy leaves new connections to the others; gunicorn would accept and keep them.

    A connection gets a thread once its client has said something, and loses it when handshake and head of a request
    take too long, or when reading or writing stalls afterwards.
    """

    _busy = 0

    def init_process(self) -> None:
        self._heads = HeadWatch(self.app.settings.head_limit_s)
        super().init_process()

    def accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionAbortedError):
            client, address = listener.accept()
            self.nr_conns += 1
            self._await_first_bytes(Connection(self.cfg, client, address, listener.getsockname()))

    def handle(self, conn: TConn) -> Any:
        self._heads.begin(conn)
        try:
            kept = super().handle(conn)
        finally:
            self._heads.end(conn)
        if not kept:
            conn.close(graceful=True)
        return kept

    def handle_request(self, req: Any, conn: TConn) -> Any:
        self._heads.end(conn)
        conn.sock.settimeout(self.app.settings.stall_limit_s)
        try:
            return super().handle_request(req, conn)
        except TimeoutError:
            log.info("a client did not read its answer")
            conn.close()
            return False

    def murder_pending(self) -> None:
        super().murder_pending()
        self._heads.sweep()

    def _await_first_bytes(self, conn: TConn) -> None:
        conn.set_timeout()
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        app = getattr(self, "wsgi", None)
        if isinstance(app, Flask) and EXTENSION in app.extensions:
            app.extensions[EXTENSION].waits.release()
        super().handle_exit(sig, frame)

    def enqueue_req(self, conn: TConn) -> None:
        if conn.server == self.app.tls_address:
            conn.cfg = self.app.tls_config
        self._busy += 1
        self.set_accept_enabled(self.alive)
        super().enqueue_req(conn)

    def finish_request(self, conn: TConn, fs: Future[Any]) -> None:
        self._busy -= 1
        super().finish_request(conn, fs)

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled and self._busy < self.cfg.threads)


class _Server(BaseApplication):  # type: ignore[misc]
    """Gunicorn, configured without files or command lines."""

    def __init__(
        self,
        settings: Settings,
        make_app: Callable[[Settings], Flask],
        listeners: Sequence[socket.socket],
        context: ssl.SSLContext | None,
        ready: Callable[[str], None],
    ) -> None:
        """Take listeners: the one of HTTP, and with a context that of HTTPS."""
        self.settings = settings
        self._make_app = make_app
        schemes = ("http", "https")
        self._urls = " ".join(_url(listener, scheme) for listener, scheme in zip(listeners, schemes, strict=False))
        self._context = context
        self.tls_address = listeners[-1].getsockname() if context else None
        self._binds = [f"fd://{listener.detach()}" for listener in listeners]
        self._ready = ready
        self._ticket, ticket_office = os.pipe()
        os.write(ticket_office, b"1")
        super().__init__()

    def load_config(self) -> None:
        """Set what differs from gunicorn's own choices."""
        settings = self.settings
        chosen: dict[str, Any] = {
            "bind": self._binds,
            "backlog": BACKLOG,
            "workers": settings.api_processes,
            "worker_connections": CONNECTIONS,
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
        self.tls_config = self._tls_config(chosen)

    def _tls_config(self, chosen: Mapping[str, Any]) -> Config:
        config = Config()
        for name, value in chosen.items():
            config.set(name, value)
        config.set("certfile", str(self.settings.certificate))  # says that it is TLS; the context holds the rest
        config.set("ssl_context", lambda _config, _default: self._context)
        return config

    def load(self) -> Flask:
        """Make the application; called in each process, after the fork."""
        SocketUnreader.max_body_chunk = PIECE_BYTES
        return self._make_app(self.settings)

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
            self._ready(self._urls)
