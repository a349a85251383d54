"""`inference-server up`: the whole server on one machine; parts that die are restarted, all are stopped in order."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from inference_server.errors import SettingsError
from inference_server.settings import PREFIX, Settings
from inference_server.stack.fleet import return_claims
from inference_server.stack.part import Part, PartSpec, own_part
from inference_server.stack.redis import EmbeddedRedis, prepare_redis
from inference_server.tasks.allocator import allocator_environment
from inference_server.tasks.claims import Claims
from inference_server.tasks.database import open_database
from inference_server.tasks.gpus import worker_devices
from inference_server.tasks.queue import CeleryTurns

log = logging.getLogger(__name__)

WATCH_S = 0.1
START_LIMIT_S = 120.0
STOP_LIMIT_S = 8.0
"""Longest orderly stop of a part; what is still there then is killed."""


def run_up(settings: Settings, *, ready: Callable[[str], None], prepare: Callable[[], None] = lambda: None) -> None:
    """Run the whole server until SIGINT or SIGTERM.

    Args:
        settings: `broker_url` set means that the broker is somebody else's and none is embedded.
        ready: called once with the API's URLs when every part is up.
        prepare: called before anything starts, when it is certain that no other server has the data folder.

    Raises:
        SettingsError: another server runs on this data folder, there is no Redis, or a part does not come up.
    """
    _make_private(settings.data_dir)
    with _only_one(settings.data_dir / "up.lock"), _stop_signals() as stopped, _broker(settings) as (redis, url):
        prepare()
        settings = settings.model_copy(update={"broker_url": url})
        supervisor = Supervisor(settings, redis)
        try:
            supervisor.start(stopped)
            if not stopped():
                ready(supervisor.url)
            while not stopped():
                supervisor.watch()
                time.sleep(WATCH_S)
        finally:
            supervisor.stop()


class Supervisor:
    """The parts in the order of their start: the broker first, the API last."""

    def __init__(self, settings: Settings, redis: EmbeddedRedis | None) -> None:
        self._settings = settings
        self._claims = Claims(open_database(settings.database), max_attempts=settings.max_attempts)
        self._turns = CeleryTurns(settings)
        self._broker = [Part(PartSpec("redis", redis.command, {}, ready_line=False))] if redis else []
        self._workers = [_worker(settings, device) for device in worker_devices(settings.device, os.environ)]
        self._api = own_part("api", settings)
        self._socket = [own_part("image-socket", settings)] if settings.image_socket_port is not None else []
        self._own = [own_part("housekeeping", settings), *self._workers, *self._socket, self._api]

    @property
    def url(self) -> str:
        """Where the API listens: the URL of HTTP, with TLS that of HTTPS after it; and that of the image socket."""
        return " ".join(part.announced for part in (self._api, *self._socket))

    def start(self, stopped: Callable[[], bool]) -> None:
        """Start everything and wait until it is up.

        Raises:
            SettingsError: a part ended or did not become ready in time.
        """
        for part in self._parts:
            part.start()
        deadline = time.monotonic() + START_LIMIT_S
        while not stopped() and not all(part.ready.is_set() for part in self._parts):
            self._refuse_dead(deadline)
            time.sleep(WATCH_S / 5)
        _keep_ports(self._api, "PORT", "TLS_PORT")
        for part in self._socket:
            _keep_ports(part, "IMAGE_SOCKET_PORT")

    def watch(self) -> None:
        """Restart what died, with back-off; the claims of a dead worker go back to the queue at once."""
        for part in self._parts:
            if (status := part.died()) is not None:
                pid, pause_s = part.pid, part.plan_restart()
                log.error("part died", extra={"part": part.spec.name, "exit_status": status, "pause_s": pause_s})
                if part in self._workers and pid is not None:
                    return_claims(self._settings, self._claims, self._turns, pid)
            if part.restart_if_due():
                log.info("part restarted", extra={"part": part.spec.name})
        for worker in self._workers if self._settings.spare_worker else ():
            worker.keep_spare()

    def stop(self) -> None:
        """Stop every part; the broker last, since the others talk to it while they stop."""
        for worker in self._workers:
            worker.drop_spare()
        for parts in (self._own, self._broker):
            _stop(parts, time.monotonic() + STOP_LIMIT_S)

    @property
    def _parts(self) -> Sequence[Part]:
        return (*self._broker, *self._own)

    def _refuse_dead(self, deadline: float) -> None:
        for part in self._parts:
            if part.died() is not None:
                raise SettingsError(f"The part '{part.spec.name}' ended while starting; its messages above say why.")
        if time.monotonic() > deadline:
            late = ", ".join(part.spec.name for part in self._parts if not part.ready.is_set())
            raise SettingsError(f"Not ready after {START_LIMIT_S:.0f} s: {late}. The messages above may say why.")


def _stop(parts: Sequence[Part], deadline: float) -> None:
    for part in parts:
        part.signal(signal.SIGTERM)
    for part in parts:
        if not part.wait(deadline - time.monotonic()):
            log.warning("part killed", extra={"part": part.spec.name})
            part.kill()


def _worker(settings: Settings, device: str) -> Part:
    environment = {"REMAP_SIGTERM": "SIGQUIT", **allocator_environment(os.environ)}
    return own_part("worker", settings.model_copy(update={"device": device}), environment, waits=True)


def _keep_ports(part: Part, *settings: str) -> None:
    """Have a part take the free ports that it found once when it is restarted, too."""
    ports = [url.rpartition(":")[2] for url in part.announced.split()]
    part.set_environment(**{f"{PREFIX}{name}": port for name, port in zip(settings, ports, strict=False)})


def _make_private(folder: Path) -> None:
    """Make the data folder, for its owner only: records and cases are patients' data."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise SettingsError(f"The data folder {folder} cannot be made: {exc.strerror}. Choose another --data.") from exc


@contextmanager
def _broker(settings: Settings) -> Iterator[tuple[EmbeddedRedis | None, str]]:
    if settings.broker_url:
        yield None, settings.broker_url
        return
    redis = prepare_redis(settings.data_dir / "redis")
    try:
        yield redis, redis.url
    finally:
        redis.remove()


def _opened(path: Path) -> IO[str]:
    try:
        return path.open("w")
    except OSError as exc:
        raise SettingsError(f"The data folder {path.parent} cannot be written to: {exc.strerror}.") from exc


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with _opened(path) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise SettingsError(
                "Another server already runs on this data folder; stop it or use another --data."
            ) from exc
        yield


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    caught: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        caught.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
