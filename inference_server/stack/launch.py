"""A whole server as a child process, for demonstrations, benchmarks and acceptance tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from inference_server.errors import SettingsError

STOP_LIMIT_S = 20.0


@dataclass(frozen=True)
class LaunchedServer:
    """A server that is up: its URL, the process id of its supervisor, and the URLs of HTTPS and of the socket."""

    url: str
    pid: int
    secure_url: str | None = None
    socket_url: str | None = None


@contextmanager
def launched_server(
    data_dir: Path,
    *,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    log: IO[str] | None = None,
) -> Iterator[LaunchedServer]:
    """Run `inference-server up` on a free port until the end of the `with` block.

    Args:
        data_dir: where the server keeps everything.
        arguments: further options of `up`.
        environment: settings by variable name.
        log: where the server's messages go; standard error if None.

    Raises:
        SettingsError: the server did not come up.
    """
    command = [sys.executable, "-m", "inference_server", "up", "--port", "0", "--data", str(data_dir), *arguments]
    process = subprocess.Popen(
        command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, stderr=log, text=True
    )
    try:
        urls = {url.partition(":")[0]: url for url in _ready_urls(process)}
        socket_url = urls.get("tcp") or urls.get("tls")
        yield LaunchedServer(urls["http"], process.pid, urls.get("https"), socket_url)
    finally:
        _stop(process)


def _ready_urls(process: subprocess.Popen[str]) -> list[str]:
    for line in process.stdout or ():
        if line.startswith("ready "):
            return line.split()[1:]
    raise SettingsError("The server did not come up; its messages say why.")


def _stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    finally:
        if process.stdout:
            process.stdout.close()
