"""An image socket in a thread of the test's process, with a worker's hands, and a client of raw bytes."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import uvloop
from door_support import FakeModels, FakeTurns, Hands, empty_records
from pictures import save_picture

from inference_server.api.image_socket.server import ImageSocket, tls_context
from inference_server.models.manifest import Manifest
from inference_server.settings import Settings
from inference_server.tasks.admission import bounds_of
from inference_server.tasks.case_zip import check_case
from inference_server.tasks.record import Holder, Problem, Status
from inference_server.tasks.service import Tasks
from inference_server.tasks.store import Store

SICK = {"normal": 0.2, "pneumonia": 0.8}
WELL = {"normal": 0.7, "pneumonia": 0.3}
LIMIT_S = 20.0
Answer = TypeVar("Answer")


def classifier(model: str, **manifest: Any) -> Manifest:
    """Return the manifest of a classification of X-rays."""
    return Manifest(
        id=model, **{"kind": "classification", "classes": ("normal", "pneumonia"), "dimensions": 2, **manifest}
    )


MODELS = (
    classifier("net"),
    classifier("wary", threshold=0.25),
    classifier("lung", classes=("Clear", "Opacity")),
    classifier("beasts", classes=("cat", "dog")),
    Manifest(id="organs"),
)
SETTING = "MYCN=net,WARY=wary,LUNG=lung:opacity,BEAS=beasts,ORGA=organs,NONE=nothing"


def until(question: Callable[[], Answer], limit_s: float = LIMIT_S) -> Answer:
    """Wait for a true answer and return it."""
    deadline = time.monotonic() + limit_s
    while not (answer := question()):
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.005)
    return answer


class Server(Hands):
    """The image socket on records of its own. Nobody computes but the test."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        (folder / "records.sqlite").write_bytes(empty_records())
        given = {"data_dir": folder, "disk_low_bytes": 0, "image_socket_port": 0, "image_socket_models": SETTING}
        super().__init__(Settings(**{**given, **settings}))
        self.store = Store(self.database, bounds=bounds_of(self.settings))
        self.turns = FakeTurns()
        self.models = FakeModels(*MODELS)
        self.tasks = Tasks(self.settings, self.store, self.blobs, self.turns, self.models, check_case)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        context = tls_context(self.settings) if self.settings.image_socket_tls else None
        self.socket = ImageSocket(self.settings, self.tasks, context)
        self.url = self._in_loop(self.socket.start)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.url.rpartition(":")[2])

    def _in_loop(self, function: Callable[[], Answer]) -> Answer:
        async def call() -> Answer:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(LIMIT_S)

    @property
    def connections(self) -> int:
        return self._in_loop(lambda: self.socket.connections)

    def stop(self) -> None:
        """End all conversations."""
        asyncio.run_coroutine_threadsafe(self.socket.stop(), self._loop).result(LIMIT_S)

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.close()
        super().close()

    def answer(self, classes: Mapping[str, float] = SICK) -> str:
        """Compute the task that waits, and return its UID."""
        claim = until(lambda: self.claims.claim(["default"], Holder("worker", 1), 15.0))
        self.finish(claim, report={"classifications": dict(classes)})
        return claim.task.uid

    def fail_next(self, problem: Problem) -> None:
        """Give up the task that waits."""
        self.fail(until(lambda: self.claims.claim(["default"], Holder("worker", 1), 15.0)), problem)

    def staged(self) -> list[Path]:
        """Return the files of images that clients sent or are sending."""
        return [path for path in (self.settings.data_dir / "blobs" / "staging").iterdir() if path.is_file()]

    def statuses(self) -> list[Status]:
        """Return the status of each task, the latest first."""
        from inference_server.tasks.store import TaskFilter

        return [task.status for task in self.store.page(TaskFilter()).tasks]


class Peer:
    """A client that says and hears bytes."""

    def __init__(self, address: tuple[str, int], connection: socket.socket | None = None) -> None:
        self.socket = connection or socket.create_connection(address, LIMIT_S)
        self.socket.settimeout(LIMIT_S)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def says(self, message: bytes) -> Peer:
        self.socket.sendall(message)
        return self

    def hears(self, count: int = 1) -> bytes:
        """Return so many bytes, fewer where the server ends the connection before."""
        heard = b""
        while len(heard) < count and (piece := self.socket.recv(count - len(heard))):
            heard += piece
        return heard

    def asks(self, message: bytes, count: int = 1) -> bytes:
        """Say something and return the answer."""
        return self.says(message).hears(count)

    def is_closed(self) -> bool:
        """Whether the server has ended the connection, and said nothing more."""
        return self.socket.recv(1) == b""

    def sends_file(self, content: bytes) -> None:
        """Send a file whole."""
        assert self.asks(b"FILE") == b"0"
        assert self.asks(b"%dz" % len(content) + b"z" * (9 - len(str(len(content))))) == b"0"
        self.says(content)

    def sends_all(self, content: bytes, code: bytes = b"MYCN") -> None:
        """Send a file and a model's code."""
        self.sends_file(content)
        assert self.asks(b"MODE") + self.asks(code) == b"00"


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[Server]:
    """Serve until the end of the `with` block."""
    server = Server(folder, **settings)
    try:
        yield server
    finally:
        server.close()


def xray(folder: Path, level: int = 7, name: str = "xray.png") -> bytes:
    """Return an image file."""
    pixels = np.full((6, 8), level, np.uint8)
    return save_picture(folder / name, pixels).read_bytes()


def sha256(content: bytes) -> bytes:
    """Return a digest as it is sent."""
    return hashlib.sha256(content).hexdigest().encode()
