"""The parts of a server, each started by itself: nobody restarts them and nobody notices a death but housekeeping."""

from __future__ import annotations

import signal
import sys
import time

from inference_server.settings import Settings
from inference_server.stack.part import Part, PartSpec
from inference_server.stack.redis import EmbeddedRedis, prepare_redis

START_LIMIT_S = 120.0


class Alone:
    """Redis, API, housekeeping and two workers on one data folder.

    Args:
        settings: of the server; with port 0.
    """

    def __init__(self, settings: Settings) -> None:
        self._redis: EmbeddedRedis = prepare_redis(settings.data_dir / "redis")
        self._settings = settings.model_copy(update={"broker_url": self._redis.url})
        self._broker = Part(PartSpec("redis", self._redis.command, {}, ready_line=False))
        self._own = {name: self._part(name) for name in ("housekeeping", "worker", "other worker", "api")}

    @property
    def url(self) -> str:
        """Where the API listens."""
        return self._own["api"].announced

    @property
    def worker_pids(self) -> set[int]:
        """Process ids of the workers."""
        return {part.pid for name, part in self._own.items() if name.endswith("worker") and part.pid is not None}

    def start(self) -> None:
        """Start everything and wait until it is up."""
        self.start_redis()
        for part in self._own.values():
            part.start()
        for part in self._own.values():
            _await(part)

    def stop(self) -> None:
        """Stop everything."""
        for part in self._own.values():
            part.signal(signal.SIGTERM)
        for part in (*self._own.values(), self._broker):
            if part is self._broker or not part.wait(START_LIMIT_S):
                part.kill()
        self._redis.remove()

    def kill_worker(self, pid: int) -> None:
        """Kill -9 the worker with this process id, as a failing machine would; its children are left to themselves."""
        [part] = [part for part in self._own.values() if part.pid == pid]
        part.signal(signal.SIGKILL)
        part.wait(START_LIMIT_S)

    def replace_worker(self, pid: int) -> None:
        """Start another worker in the place of the one that had this process id."""
        [part] = [part for part in self._own.values() if part.pid == pid]
        part.start()
        _await(part)

    def kill_redis(self) -> None:
        """Kill -9 Redis and remove all that it has kept."""
        self._broker.kill()
        for kept in (self._settings.data_dir / "redis").glob("*.aof*"):
            kept.unlink()

    def start_redis(self) -> None:
        """Start Redis, on its old socket."""
        self._broker.start()

    def _part(self, name: str) -> Part:
        command = (sys.executable, "-m", "inference_server", name.rpartition(" ")[2])
        return Part(PartSpec(name, command, self._settings.environment()))


def _await(part: Part) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not part.ready.wait(0.1):
        if part.died() is not None or time.monotonic() > deadline:
            raise TimeoutError(f"the part '{part.spec.name}' did not come up")
