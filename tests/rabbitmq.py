"""A real RabbitMQ for tests, where the machine has one (on Debian: the package rabbitmq-server)."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from free_ports import await_port, free_ports
from pausing import pause, resume

from inference_server.stack.certificates import Pair

USER, PASSWORD = "inference", secrets.token_hex(16)
STOP_LIMIT_S = 20.0
CONFIG = """\
listeners.tcp.1 = 0.0.0.0:{port}
loopback_users = none
default_user = {user}
default_pass = {password}
log.console = true
log.file = false
listeners.ssl.1 = 0.0.0.0:{tls_port}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {key}
ssl_options.verify = verify_none
ssl_options.fail_if_no_peer_cert = false
"""


@dataclass
class RabbitMQ:
    """A running broker, at every address of this machine."""

    port: int
    tls_port: int
    log: Path
    process: subprocess.Popen[bytes]

    def url(self, host: str = "127.0.0.1") -> str:
        return f"amqp://{USER}:{PASSWORD}@{host}:{self.port}//"

    def tls_url(self, host: str) -> str:
        return f"amqps://{USER}:{PASSWORD}@{host}:{self.tls_port}//"

    def wait(self) -> None:
        """Wait until it takes connections, which is some seconds after it listens."""
        await_port(self.port, dead=lambda: self.process.poll() is not None)
        deadline = time.monotonic() + 60.0
        while b"Server startup complete" not in self.log.read_bytes():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def pause(self) -> None:
        """Let it hang without closing its connections."""
        pause(*self._pids())

    def resume(self) -> None:
        resume(*self._pids())

    def _pids(self) -> list[int]:
        begun = psutil.Process(self.process.pid)
        return [begun.pid, *(child.pid for child in begun.children(recursive=True))]


@contextmanager
def rabbitmq(certificate: Pair) -> Iterator[RabbitMQ]:
    """Run a broker that keeps everything in a folder of its own; with a certificate and its key for TLS."""
    server, names = Path("/usr/lib/rabbitmq/bin/rabbitmq-server"), shutil.which("epmd")
    if not server.is_file() or names is None:
        pytest.skip("there is no RabbitMQ here: no program 'rabbitmq-server' was found")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rabbitmq-", ignore_cleanup_errors=True)))
        port, tls_port, names_port, nodes_port = free_ports(4)
        _write_config(folder, port, tls_port, certificate)
        environment = {**os.environ, **_environment(folder, names_port, nodes_port)}
        with (folder / "names.log").open("wb") as log:
            _started(stack, [names, "-port", str(names_port)], environment, log.fileno())
        with (folder / "log").open("wb") as log:
            process = _started(stack, [str(server)], environment, log.fileno())
        broker = RabbitMQ(port, tls_port, folder / "log", process)
        broker.wait()
        yield broker


def _started(stack: ExitStack, command: list[str], environment: dict[str, str], log: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def end() -> None:
        if process.poll() is not None:
            return
        begun = psutil.Process(process.pid)
        for each in begun.children(recursive=True) or [begun]:  # a parent collects its child, and ends by itself
            with suppress(psutil.NoSuchProcess):  # some end with another
                each.kill()
        process.wait(STOP_LIMIT_S)

    stack.callback(end)
    return process


def _write_config(folder: Path, port: int, tls_port: int, certificate: Pair) -> None:
    places = {"port": port, "tls_port": tls_port, "certificate": certificate.certificate, "key": certificate.key}
    (folder / "rabbitmq.conf").write_text(CONFIG.format(user=USER, password=PASSWORD, **places))
    (folder / "enabled_plugins").write_text("[].\n")


def _environment(folder: Path, names_port: int, nodes_port: int) -> dict[str, str]:
    return {
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(names_port),
        "RABBITMQ_NODENAME": f"tests{names_port}@localhost",
        "RABBITMQ_DIST_PORT": str(nodes_port),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        # Its many threads would busily wait, on cores that others compute with.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
    }
