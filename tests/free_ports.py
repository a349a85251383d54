"""TCP ports for servers that cannot choose one themselves, and waiting for them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack


def free_ports(count: int) -> list[int]:
    """Return ports that nobody used a moment ago."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]


def await_port(port: int, *, host: str = "127.0.0.1", limit_s: float = 60.0, dead: Callable[[], bool]) -> None:
    """Wait until somebody listens; fail if the server is dead or the time is over."""
    deadline = time.monotonic() + limit_s
    while True:
        with socket.socket() as client:
            client.settimeout(1.0)
            if client.connect_ex((host, port)) == 0:
                return
        assert not dead(), "the server ended at its start"
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.05)
