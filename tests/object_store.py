"""A real HTTP server that speaks S3, for tests: moto's, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from free_ports import await_port, free_ports

KEY_ID, SECRET = "tester", "secret-of-the-tester"


@dataclass
class ObjectStore:
    """A running server; its buckets are in its memory."""

    host: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    def settings(self, bucket: str, prefix: str = "") -> dict[str, Any]:
        """Return the settings for blobs in a bucket."""
        return {
            "blobs_url": f"s3://{bucket}/{prefix}",
            "s3_endpoint": self.endpoint,
            "s3_region": "us-east-1",
            "s3_key_id": KEY_ID,
            "s3_secret": SECRET,
        }

    def make_bucket(self, name: str) -> None:
        import requests

        requests.put(f"{self.endpoint}/{name}", timeout=30).raise_for_status()


@contextmanager
def object_store(folder: Path, *, host: str = "127.0.0.1", inside: tuple[str, ...] = ()) -> Iterator[ObjectStore]:
    """Run a server.

    Args:
        folder: for its log.
        host: the address it listens on.
        inside: a command that runs the server elsewhere, such as in a network namespace.
    """
    pytest.importorskip("moto", reason="there is no S3 server here: the package moto is not installed")
    (port,) = free_ports(1)
    command = [*inside, sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
    with (folder / "object-store.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        if not inside:
            await_port(port, host=host, dead=lambda: process.poll() is not None)
        yield ObjectStore(host, port, process)
    finally:
        process.kill()
        process.wait()
