"""Hosts of a network on one machine: network namespaces on a bridge, each with a loopback of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

_HIDE = 'for folder in $HIDDEN; do mount -t tmpfs none "$folder"; done; exec "$@"'
"""Run by a shell in a mount namespace of its own."""


@dataclass(frozen=True)
class Host:
    """A host: its address, and what a command begins with that is to run there."""

    address: str
    prefix: tuple[str, ...] = ()

    def command(self, *words: str, hidden: tuple[str, ...] = ()) -> list[str]:
        """Return a command that runs on this host, for which some folders of the machine are empty."""
        if not self.prefix:
            return list(words)
        hiding = ["env", f"HIDDEN={' '.join(hidden)}", "unshare", "--mount", "sh", "-c", _HIDE, "hide"]
        return [*self.prefix, *hiding, *words]


@contextmanager
def network_hosts(count: int) -> Iterator[list[Host]]:
    """Give hosts, the first of which is this machine itself; skip visibly where there can be none.

    Args:
        count: of all hosts.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("network namespaces cannot be made here: that takes root, iproute2 and util-linux")
    name = f"t{secrets.token_hex(3)}"
    net = f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(250)}"
    with ExitStack() as stack:
        try:
            hosts = _made(stack, name, net, count)
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"network namespaces cannot be made here: {exc.stderr.decode().strip()}")
        yield hosts


def _made(stack: ExitStack, name: str, net: str, count: int) -> list[Host]:
    _ip(f"link add {name} type bridge")
    stack.callback(_ip, f"link del {name}")
    _ip(f"addr add {net}.1/24 dev {name}")
    _ip(f"link set {name} up")
    return [Host(f"{net}.1"), *(_host(stack, name, net, number) for number in range(2, count + 1))]


def _host(stack: ExitStack, bridge: str, net: str, number: int) -> Host:
    space = f"{bridge}-{number}"
    _ip(f"netns add {space}")
    stack.callback(_ip, f"netns del {space}")
    _ip(f"link add {space} type veth peer name eth0 netns {space}")
    _ip(f"link set {space} master {bridge} up")
    for command in (f"addr add {net}.{number}/24 dev eth0", "link set eth0 up", "link set lo up"):
        _ip(f"-n {space} {command}")
    return Host(f"{net}.{number}", ("ip", "netns", "exec", space))


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)
