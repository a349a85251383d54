"""Real Redis servers of other kinds than one on a socket: watched by a Sentinel, and behind TLS."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from free_ports import await_port, free_ports
from servers import until

from inference_server.stack.certificates import Pair
from inference_server.stack.redis import find_redis

GROUP, PASSWORD, SENTINEL_PASSWORD = "turns", "of-redis", "of-the-sentinel"
SENTINEL = """\
port {port}
requirepass {sentinel_password}
sentinel monitor {group} 127.0.0.1 {master} 1
sentinel auth-pass {group} {password}
sentinel down-after-milliseconds {group} 300
sentinel failover-timeout {group} 2000
"""


@dataclass
class Group:
    """A master and its replica, watched by a Sentinel, which makes the one that is left the master."""

    ports: dict[str, int]
    master: subprocess.Popen[bytes]

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "broker_url": f"sentinel://:{PASSWORD}@127.0.0.1:{self.ports['sentinel']}",
            "broker_group": GROUP,
            "broker_sentinel_password": SENTINEL_PASSWORD,
        }

    def fail_over(self) -> None:
        """Kill the master and wait until the Sentinel names the other one."""
        self.master.kill()
        with _client(self.ports["sentinel"], SENTINEL_PASSWORD) as sentinel:
            replica = ("127.0.0.1", self.ports["replica"])
            until(lambda: sentinel.sentinel_get_master_addr_by_name(GROUP) == replica)


@contextmanager
def sentinel_group(folder: Path) -> Iterator[Group]:
    """Run a group of two and a Sentinel."""
    master, replica, sentinel = free_ports(3)
    guarded = ["--requirepass", PASSWORD, "--masterauth", PASSWORD, "--save", "", "--repl-diskless-sync-delay", "0"]
    with ExitStack() as stack:
        first = _started(stack, folder, master, ["--port", str(master), *guarded])
        _started(stack, folder, replica, ["--port", str(replica), "--replicaof", "127.0.0.1", str(master), *guarded])
        with _client(replica, PASSWORD) as client:
            until(lambda: client.info("replication")["master_link_status"] == "up")
        config = folder / "sentinel.conf"
        config.write_text(_sentinel_config(sentinel, master))
        _started(stack, folder, sentinel, [str(config), "--sentinel"])
        with _client(sentinel, SENTINEL_PASSWORD) as client:
            until(lambda: len(client.sentinel_slaves(GROUP)) == 1)
        yield Group({"sentinel": sentinel, "replica": replica}, first)


@contextmanager
def tls_redis(folder: Path, pair: Pair) -> Iterator[str]:
    """Run a Redis that speaks TLS alone; give its URL, whose host is `localhost`."""
    server = shutil.which("redis-server")
    if server is None or b"libssl" not in subprocess.run(["ldd", server], check=True, capture_output=True).stdout:
        pytest.skip("there is no Redis with TLS here: no program 'redis-server' that was built with it was found")
    (port,) = free_ports(1)
    tls = {"--tls-port": str(port), "--tls-cert-file": str(pair.certificate), "--tls-key-file": str(pair.key)}
    words = [word for option in tls.items() for word in option]
    with ExitStack() as stack:
        options = ["--port", "0", *words, "--tls-auth-clients", "no", "--requirepass", PASSWORD, "--save", ""]
        _started(stack, folder, port, options, program=server)
        yield f"rediss://:{PASSWORD}@localhost:{port}/0"


def _started(
    stack: ExitStack, folder: Path, port: int, options: list[str], *, program: str = ""
) -> subprocess.Popen[bytes]:
    command = [program or str(find_redis()), *options]
    with (folder / f"redis-{port}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    stack.callback(process.wait)
    stack.callback(process.kill)
    await_port(port, dead=lambda: process.poll() is not None)
    return process


def _client(port: int, password: str) -> redis.Redis:
    return redis.Redis(port=port, password=password, decode_responses=True)


def _sentinel_config(port: int, master: int) -> str:
    given = {"password": PASSWORD, "sentinel_password": SENTINEL_PASSWORD, "group": GROUP}
    return SENTINEL.format(port=port, master=master, **given)
