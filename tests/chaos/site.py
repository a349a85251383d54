"""The server under test: `inference-server up` on one data folder, killed and started again as often as it takes."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from inference_server.stack.launch import LaunchedServer, launched_server

PARTS = ("worker", "api", "housekeeping")


class Site:
    """A server on a data folder.

    Args:
        folder: of the data, `data`, and the log, `server.log`.
        models: folder of the models.
        environment: settings by variable name.
    """

    def __init__(self, folder: Path, models: Path, environment: Mapping[str, str]) -> None:
        self.data = folder / "data"
        self._log = folder / "server.log"
        self._models = models
        self._environment = environment
        self._port = "0"
        self._running = ExitStack()
        self._server: LaunchedServer | None = None

    def start(self) -> None:
        """Start the server and wait until it is up; the port stays the same from start to start."""
        arguments = ["--models", str(self._models), "--port", self._port]
        log = self._running.enter_context(self._log.open("a"))
        self._server = self._running.enter_context(
            launched_server(self.data, arguments=arguments, environment=self._environment, log=log)
        )
        self._port = self._server.url.rpartition(":")[2]

    def stop(self) -> None:
        """Stop the server by SIGTERM and wait for its end."""
        self._running.close()

    def kill(self) -> None:
        """Kill -9 all processes, the supervisor first."""
        doomed = [self._supervisor, *self.processes()]
        for process in doomed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(doomed, timeout=10)
        self._running.close()

    @property
    def url(self) -> str:
        """Where the API listens."""
        assert self._server is not None
        return self._server.url

    @property
    def records_url(self) -> str:
        """SQLAlchemy URL of the records."""
        return f"sqlite:///{self.data / 'records.sqlite'}"

    def processes(self) -> list[psutil.Process]:
        """Return everything that the supervisor has started, directly or not."""
        return self._supervisor.children(recursive=True)

    def part(self, name: str) -> psutil.Process | None:
        """Return the process of a part (`redis`, `worker`, `api`, `housekeeping`), or None while it is down."""
        for process in self._supervisor.children():
            with suppress(psutil.NoSuchProcess):
                if _is_part(process, name):
                    return process
        return None

    @property
    def _supervisor(self) -> psutil.Process:
        assert self._server is not None
        return psutil.Process(self._server.pid)


def _is_part(process: psutil.Process, name: str) -> bool:
    command = process.cmdline()
    if not command or process.status() == psutil.STATUS_ZOMBIE or "inference_server.stack.leash" in command:
        return False
    return name in command[-2:] if name in PARTS else any(f"{name}-server" in word for word in command[:1])


def left_behind(folder: Path) -> list[int]:
    """Return the processes that still run with the settings of a server on this folder."""
    return [process.pid for process in psutil.process_iter() if process.pid != os.getpid() and _is_of(process, folder)]


def _is_of(process: psutil.Process, folder: Path) -> bool:
    try:
        is_alive = process.status() != psutil.STATUS_ZOMBIE
        return is_alive and process.environ().get("INFERENCE_SERVER_DATA_DIR", "").startswith(str(folder))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
