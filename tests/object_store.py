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

from inference_server.stack.certificates import Pair, make_pair

KEY_ID, SECRET = "tester", "secret-of-the-tester"


@dataclass
class ObjectStore:
    """A running server; its buckets are in its memory."""

    host: str
    port: int
    process: subprocess.Popen[bytes]
    authority: Path | None

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.authority else 'http'}://{self.host}:{self.port}"

    def settings(self, bucket: str, prefix: str = "") -> dict[str, Any]:
        """Return the settings for blobs in a bucket."""
        return {
            "blobs_url": f"s3://{bucket}/{prefix}",
            "s3_endpoint": self.endpoint,
            "s3_region": "us-east-1",
            "s3_key_id": KEY_ID,
            "s3_secret": SECRET,
            "s3_ca": self.authority,
        }

    def make_bucket(self, name: str) -> None:
        import requests

        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(self.authority) if self.authority else True
            session.put(f"{self.endpoint}/{name}", timeout=30).raise_for_status()


@contextmanager
def object_store(folder: Path, *, host: str = "127.0.0.1", tls: bool = False) -> Iterator[ObjectStore]:
    """Run a server.

    Args:
        folder: for its log and its certificate.
        host: the address it listens on.
        tls: whether it speaks HTTPS, with a certificate that only `authority` vouches for.
    """
    pytest.importorskip("moto", reason="there is no S3 server here: the package moto is not installed")
    (port,) = free_ports(1)
    pair = Pair(folder / "s3-certificate.pem", folder / "s3-key.pem")
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
    if tls:
        make_pair(pair, [host])
        command += ["-c", str(pair.certificate), "-k", str(pair.key)]
    with (folder / "object-store.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        await_port(port, host=host, dead=lambda: process.poll() is not None)
        yield ObjectStore(host, port, process, pair.certificate if tls else None)
    finally:
        process.kill()
        process.wait()
