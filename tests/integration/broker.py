"""A real Redis for tests."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from pathlib import Path

from pausing import pause, resume

from inference_server.stack.redis import find_redis


class Redis:
    """A Redis that keeps nothing: after a restart it is empty, as after the worst of crashes."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        self._password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis+socket://:{self._password}@{self.socket}"

    def start(self) -> None:
        options = {"port": "0", "unixsocket": str(self.socket), "requirepass": self._password, "save": ""}
        command = [str(find_redis()), *(word for name, value in options.items() for word in (f"--{name}", value))]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=self.socket.parent)
        deadline = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < deadline, "Redis does not start"
            time.sleep(0.01)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self.socket.unlink(missing_ok=True)

    def pause(self) -> None:
        """Let it hang without closing its connections."""
        assert self._process is not None
        pause(self._process.pid)

    def resume(self) -> None:
        assert self._process is not None
        resume(self._process.pid)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.socket)) == 0
