"""The TCP server: accepts connections within their limits, and ends when it is told to."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import uvloop

from inference_server.api.access import Access
from inference_server.api.doors import opened_dialects
from inference_server.api.image_socket.connection import Connection, House
from inference_server.api.image_socket.desk import Desk
from inference_server.api.image_socket.follower import Follower, beside
from inference_server.api.image_socket.limits import Places, allow_files
from inference_server.api.image_socket.models import parse_models
from inference_server.api.image_socket.wire import LINGER_S, STEP_BYTES, GoneError, Wire
from inference_server.api.sign_in import network
from inference_server.errors import SettingsError
from inference_server.settings import Settings
from inference_server.tasks.service import Tasks, open_tasks
from inference_server.tasks.tally import Tally
from inference_server.tasks.tokens import Tokens
from inference_server.tasks.watch import Watcher

log = logging.getLogger(__name__)

DEFAULT_PORT = 50022
BACKLOG = 1024
THREADS = 4
"""For what blocks, which takes milliseconds; more of them would only wait for each other."""
IN_MEMORY_BYTES = 256 * 1024
"""Largest file that a connection keeps in memory; all connections together, by default, 100 MiB."""
PAUSE_S = 0.5
"""Rest after a connection could not be accepted."""


def run_image_socket(settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve the image socket until SIGTERM or SIGINT.

    Args:
        settings: where to listen, limits and models.
        ready: called once it can be connected to, with its URL: `tcp://host:port`, or `tls://…`.

    Raises:
        SettingsError: the address is taken or not one of this machine, the certificate cannot be used, or a setting
            does not go with this machine.
        StoreUnavailable: the records cannot be reached.
    """
    allow_files(settings.image_socket_connections)
    context = tls_context(settings) if settings.image_socket_tls else None
    server = ImageSocket(settings, open_image_tasks(settings), context)
    uvloop.run(_until_stopped(server, ready or (lambda _: None)))


def open_image_tasks(settings: Settings) -> Tasks:
    """Return the life of tasks with the limit on images that holds here."""
    limit_bytes = min(settings.image_limit_bytes, settings.image_socket_image_limit_bytes)
    return open_tasks(settings.model_copy(update={"image_limit_bytes": limit_bytes}))


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Return the server's side of TLS; where authorities of clients are named, one that asks for their certificates.

    Raises:
        SettingsError: a file cannot be read, or is not what it should be.
    """
    from inference_server.api.server import tls_context as plain_context

    context = plain_context(settings)
    if authorities := settings.image_socket_client_ca:
        try:
            context.load_verify_locations(authorities)
        except OSError as exc:  # SSLError is one
            raise SettingsError(f"The file {authorities} holds no certificates of authorities in PEM form.") from exc
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class ImageSocket:
    """The server. `start`, then `stop`, in one event loop.

    Args:
        settings: where to listen, limits and models.
        tasks: what predictions become.
        context: the server's side of TLS, None for plain TCP.

    Raises:
        SettingsError: a code or a dialect that is to be opened does not exist.
    """

    def __init__(self, settings: Settings, tasks: Tasks, context: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._context = context
        self._places = Places(in_all=settings.image_socket_connections, per_host=settings.image_socket_host_connections)
        self._threads = ThreadPoolExecutor(THREADS, "image-socket")
        run = beside(self._threads)
        database = tasks.store.database
        tally = Tally(database)
        access = Access(settings, Tokens(database), opened_dialects(settings.opened), refused=tally.sign_in_refused)
        self._house = House(
            Desk(tasks, access, parse_models(settings.image_socket_models)),
            Follower(Watcher(tasks.store), run),
            run,
            file_limit_bytes=settings.image_socket_file_limit_bytes,
            in_memory_bytes=IN_MEMORY_BYTES,
            patience_s=settings.image_socket_patience_s,
            probes_each=settings.image_socket_probe,
        )
        self._conversations: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._is_full = False

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return self._places.taken

    def start(self) -> str:
        """Listen; return the URL.

        Raises:
            SettingsError: the address is taken, or not one of this machine.
        """
        listener = _listener(self._settings)
        self._accepting = asyncio.create_task(self._accept(listener))
        host, port = listener.getsockname()[:2]
        return f"{'tls' if self._context else 'tcp'}://{f'[{host}]' if ':' in host else host}:{port}"

    async def stop(self) -> None:
        """End all conversations; predictions that they wait for are cancelled."""
        ending = [*self._conversations, *([self._accepting] if self._accepting else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        self._threads.shutdown()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                try:
                    connection, address = await loop.sock_accept(listener)
                except OSError as exc:
                    log.error("connection not accepted", extra={"reason": exc.strerror})
                    await asyncio.sleep(PAUSE_S)
                    continue
                self._receive(connection, address[0])

    def _receive(self, connection: socket.socket, address: str) -> None:
        host = network(address)
        if not self._places.take(host):
            self._refuse(connection)
            return
        self._is_full = False
        conversation = asyncio.create_task(self._converse(connection, address))
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)
        conversation.add_done_callback(lambda _: self._places.free(host))

    def _refuse(self, connection: socket.socket) -> None:
        if not self._is_full:  # one line for each time, however many knock
            log.warning("connections refused: there are too many", extra={"connections": self.connections})
        self._is_full = True
        with connection, suppress(OSError):
            connection.shutdown(socket.SHUT_WR)

    async def _converse(self, connection: socket.socket, address: str) -> None:
        try:
            reader, writer = await self._streams(connection)
            await self._served(reader, writer, address)
        except (GoneError, OSError, TimeoutError):
            pass  # the client is gone, or was silent for too long
        except Exception as exc:
            log.error("connection failed", exc_info=exc)

    async def _served(self, reader: StreamReader, writer: StreamWriter, address: str) -> None:
        settings = self._settings
        wire = Wire(reader, writer, idle_s=settings.image_socket_idle_s, file_s=settings.image_socket_file_s)
        try:
            await Connection(self._house, wire, address).converse()
            await wire.close()
        finally:
            writer.transport.abort()

    async def _streams(self, connection: socket.socket) -> tuple[StreamReader, StreamWriter]:
        loop = asyncio.get_running_loop()
        reader = StreamReader(limit=STEP_BYTES)
        protocol = StreamReaderProtocol(reader)
        of_tls = {"ssl_handshake_timeout": self._settings.image_socket_idle_s, "ssl_shutdown_timeout": LINGER_S}
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, connection, ssl=self._context, **(of_tls if self._context else {})
        )
        return reader, StreamWriter(transport, protocol, reader, loop)


async def _until_stopped(server: ImageSocket, ready: Callable[[str], None]) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    ready(server.start())
    await stopped.wait()
    await server.stop()


def _listener(settings: Settings) -> socket.socket:
    host = settings.image_socket_host or settings.host
    port = DEFAULT_PORT if settings.image_socket_port is None else settings.image_socket_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as exc:
        reason = (exc.strerror or str(exc)).partition(" (")[0]
        raise SettingsError(f"The image socket cannot listen on {host}, port {port}: {reason}.") from exc
    listener.setblocking(False)
    return listener
