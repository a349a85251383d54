"""A real PostgreSQL for tests, where the machine has one."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

START_LIMIT_S = 30.0
USER = "postgres"


def binary(name: str) -> str:
    """Return the path of one of its programs; skip visibly where there is none."""
    packaged = sorted(str(path) for path in Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *packaged]))
    if found is None:
        pytest.skip(f"there is no PostgreSQL here: no program '{name}' was found")
    return found


@contextmanager
def postgres(host: str = "", port: int = 5432) -> Iterator[str]:
    """Run a server that listens on a socket in a folder of its own; give the URL of its first database.

    Args:
        host: an address that it listens on too, for everybody there: the same database is at
            `postgresql+psycopg://USER@host:port/…`.
        port: the TCP port, and a part of the socket's name.
    """
    initdb, server = binary("initdb"), binary("postgres")
    as_user = _user()
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        folder = Path(name)
        if as_user is not None:
            os.chown(folder, pwd.getpwnam(as_user).pw_uid, -1)
        options = ["-A", "trust", "-U", USER, "-N", "-E", "UTF8", "--locale=C", "-D", str(folder / "data")]
        subprocess.run([initdb, *options], check=True, capture_output=True, user=as_user, cwd="/")
        with (folder / "data" / "pg_hba.conf").open("a") as access:
            access.write("host all all all trust\n")
        command = [server, "-D", str(folder / "data"), "-k", str(folder), "-p", str(port)]
        command += ["-c", f"listen_addresses={host}", "-c", "fsync=off"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, user=as_user, cwd="/")
        try:
            _await(folder, port)
            yield f"postgresql+psycopg://{USER}@/postgres?host={folder}&port={port}"
        finally:
            process.terminate()
            process.wait(START_LIMIT_S)


@contextmanager
def fresh_database(url: str) -> Iterator[str]:
    """Make an empty database on a server; give its URL."""
    name = f"t{secrets.token_hex(6)}"
    plain = url.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield url.replace("/postgres?", f"/{name}?")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def _user() -> str | None:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(USER).pw_name
    except KeyError:
        pytest.skip(f"PostgreSQL does not run as root, and there is no user '{USER}' to run it as")


def _await(folder: Path, port: int) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            psycopg.connect(host=str(folder), port=port, user=USER, dbname="postgres").close()
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        else:
            return
