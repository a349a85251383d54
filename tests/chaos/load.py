"""The clients: they send cases until they are accepted, wait for them, fetch results and keep a digest of each."""

from __future__ import annotations

import gzip
import hashlib
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from chaos.cases import Sent
from inference_server.clients import Client
from inference_server.clients.native import ServerError
from inference_server.clients.records import RemoteTask
from inference_server.errors import InferenceServerError

PASSING = (0, 429, 502, 503, 504, 507)
"""Answers after which a client tries again: no answer at all, and those that say so."""
PAUSE_S = 0.1
WAIT_S = 5.0
FED = 3
UNREADABLE = "unreadable"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Ending:
    """How a task ended for its client. `status` is `lost` where the client never learned it."""

    sent: Sent
    key: str
    uid: str
    status: str
    digest: str = ""


class GivenUp(Exception):
    """A client has waited for too long, or was told what it should never be told."""


class Load:
    """Some clients that share a list of cases; each carries one case from its submission to its digest, then the next.

    Args:
        url: of the server.
        name: begins the idempotency keys.
        sents: what to send.
        clients: how many of them.
        limit_s: how long all of it may take.
        held: whether cases are sent only when `release` lets them; else all may be.
    """

    def __init__(
        self, url: str, name: str, sents: Sequence[Sent], *, clients: int, limit_s: float, held: bool = False
    ) -> None:
        self.refusals: Counter[str] = Counter()
        """Answers that were no success, by status and code."""
        self.endings: list[Ending] = []
        self.accepted: dict[str, str] = {}
        """UID of each key that was accepted."""
        self._url = url
        self._name = name
        self._waiting = iter(sents)
        self._count = len(sents)
        self._clients = clients
        self._allowed = threading.Semaphore(0 if held else len(sents) + clients)
        self._released = 0
        self._deadline = time.monotonic() + limit_s
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(clients)]

    def start(self) -> Load:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    @property
    def alive(self) -> bool:
        """Whether there is still something to carry."""
        return any(thread.is_alive() for thread in self._threads)

    def wait(self) -> list[Ending]:
        """Wait for the end of all cases; no longer than the limit, and a little."""
        for thread in self._threads:
            thread.join()
        return self.endings

    def release(self, count: int) -> None:
        """Let so many cases of all be sent; the whole number of them or more: all."""
        more = count - self._released if count < self._count else self._count + self._clients
        self._released += max(0, more)
        if more > 0:
            self._allowed.release(more)

    def feed(self) -> None:
        """Let some more cases be sent, where nothing runs any more."""
        self.release(min(self._count - 1, self._released + FED))

    def submit(self, client: Client, sent: Sent) -> tuple[str, str]:
        """Send a case until it is accepted and return its key and UID."""
        key = f"{self._name}-{sent.number}"
        task = self._insist(
            lambda: client.submit(sent.model, [sent.image], parameters=sent.parameters, idempotency_key=key)
        )
        with self._lock:
            self.accepted[key] = task.uid
        return key, task.uid

    def submit_all(self, sents: Iterable[Sent]) -> dict[str, str]:
        """Send cases in order, waiting for none, and return the UID of each key; for cases that nobody follows."""
        with Client(self._url) as client:
            return dict(self.submit(client, sent) for sent in sents)

    def _work(self) -> None:
        with Client(self._url) as client:
            while (sent := self._next()) is not None:
                ending = self._carry(client, sent)
                with self._lock:
                    self.endings.append(ending)

    def _next(self) -> Sent | None:
        self._allowed.acquire()
        with self._lock:
            return next(self._waiting, None)

    def _carry(self, client: Client, sent: Sent) -> Ending:
        key, uid = f"{self._name}-{sent.number}", ""
        try:
            key, uid = self.submit(client, sent)
            task = self._follow(client, uid)
            digest = self._insist(lambda: _fetched(client, uid)) if task.status == "finished" else ""
        except GivenUp:
            return Ending(sent, key, uid, "lost" if uid else "refused")
        return Ending(sent, key, uid, task.status, digest)

    def _follow(self, client: Client, uid: str) -> RemoteTask:
        task = self._insist(lambda: client.status(uid))
        while not task.ended:
            task = self._insist(partial(client.status, uid, wait_s=WAIT_S, revision=task.revision))
            self._keep_to_limit()
        return task

    def _insist(self, action: Callable[[], Answer]) -> Answer:
        while True:
            try:
                return action()
            except ServerError as error:
                self._note(error)
            self._keep_to_limit()
            time.sleep(PAUSE_S)

    def _note(self, error: ServerError) -> None:
        with self._lock:
            self.refusals[f"{error.http_status} {error.problem_code}"] += 1
        if error.http_status not in PASSING:
            raise GivenUp from error

    def _keep_to_limit(self) -> None:
        if time.monotonic() > self._deadline:
            raise GivenUp


def _fetched(client: Client, uid: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return digest_of(client.fetch(uid, folder))
        except ServerError:
            raise
        except (InferenceServerError, OSError):
            return UNREADABLE


def digest_of(files: Iterable[Path]) -> str:
    """Return a digest of names and contents, whatever the compression."""
    found = hashlib.sha256()
    for file in sorted(files):
        content = file.read_bytes()
        found.update(file.name.encode() + (gzip.decompress(content) if file.suffix == ".gz" else content))
    return found.hexdigest()
