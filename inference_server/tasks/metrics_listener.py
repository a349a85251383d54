"""A listener of its own for the page of figures: without tokens, for an address that only the watchers reach."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from inference_server.errors import SettingsError, StoreUnavailable
from inference_server.tasks.metrics import Metrics

log = logging.getLogger(__name__)

SILENCE_S = 10.0
"""Longest wait for a request, or for a part of it."""
POLL_S = 0.1
"""How often it looks whether it is to stop."""
PATH = "/metrics"

Start = Callable[[str, list[tuple[str, str]]], Any]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _ServerOnIPv6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = SILENCE_S

    def log_message(self, *_: object) -> None:
        """Say nothing: addresses belong to nobody's log."""


@contextmanager
def metrics_listener(metrics: Metrics, host: str, port: int) -> Iterator[int]:
    """Serve the page of figures, to everybody who reaches the address, for the length of a `with` block.

    Args:
        metrics: the figures.
        host: address to listen on.
        port: TCP port; 0 takes a free one.

    Yields:
        The port.

    Raises:
        SettingsError: the address is taken, or not one of this machine.
    """
    kind = _ServerOnIPv6 if ":" in host else _Server
    try:
        server = make_server(host, port, _application(metrics), server_class=kind, handler_class=_Handler)
    except OSError as exc:
        raise SettingsError(f"The page of figures cannot be at {host}, port {port}: {exc.strerror}.") from exc
    thread = threading.Thread(target=server.serve_forever, args=(POLL_S,), name="metrics", daemon=True)
    thread.start()
    log.info("figures are told", extra={"host": host, "port": server.server_port})
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _application(metrics: Metrics) -> Callable[[dict[str, Any], Start], Iterable[bytes]]:
    def answer(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH or environ["REQUEST_METHOD"] != "GET":
            return _said(start, "404 Not Found", f"The figures are at {PATH}.\n".encode(), "text/plain")
        try:
            page, content_type = metrics.page(environ.get("HTTP_ACCEPT", ""))
        except StoreUnavailable as error:
            return _said(start, "503 Service Unavailable", f"{error.message}\n".encode(), "text/plain")
        return _said(start, "200 OK", page, content_type)

    return answer


def _said(start: Start, status: str, body: bytes, content_type: str) -> Iterable[bytes]:
    start(status, [("Content-Type", content_type), ("Content-Length", str(len(body)))])
    return [body]
