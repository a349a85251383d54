"""The API as a process of its own, on a free port and without a broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import requests
from door_support import Hands, case, form, part

from inference_server.settings import Settings

MIB = 1024**2
LIMIT_BYTES = 300 * MIB
THREADS = 8
PROCESSES = 2
NOBODY = "redis://127.0.0.1:1/0"


class Api(Hands):
    """A running API and its log; `urls` are that of HTTP and, with `--tls`, that of HTTPS."""

    def __init__(self, folder: Path, *options: str, **settings: object) -> None:
        models = folder / "models" / "one"
        for name, content in {
            "model.yaml": "id: one\n",
            "configs/inference.json": "{}",
            "models/model.pt": "",
        }.items():
            (models / name).parent.mkdir(parents=True, exist_ok=True)
            (models / name).write_text(content)
        self.data = folder / "data"
        self.log = folder / "log"
        self.process = self._start(folder / "models", options, settings)
        self.urls = self._ready()
        self.url = self.urls[0]
        super().__init__(Settings(data_dir=self.data))

    def _start(self, models: Path, options: Sequence[str], settings: Mapping[str, object]) -> subprocess.Popen[str]:
        chosen = {
            "BROKER_URL": NOBODY,
            "ZOO": "false",
            "UPLOAD_LIMIT_BYTES": LIMIT_BYTES,
            "DISK_LOW_BYTES": 0,
            "API_THREADS": THREADS,
            "API_PROCESSES": PROCESSES,
            **settings,
        }
        environment = {f"INFERENCE_SERVER_{name}": str(value) for name, value in chosen.items()}
        command = [sys.executable, "-m", "inference_server", "api", "--port", "0"]
        with self.log.open("w") as log:
            return subprocess.Popen(
                [*command, "--data", str(self.data), "--models", str(models), *options],
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def _ready(self) -> list[str]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready http://"), self.log.read_text()
        return line.split()[1:]

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.url.rpartition(":")[2])

    def submitted(self) -> str:
        answer = requests.post(f"{self.url}/api/v1/tasks", **sendable(part("model", "one"), part("case", case(), "c")))
        assert answer.status_code == 202, answer.text
        return str(answer.json()["uid"])

    def peak_bytes(self) -> int:
        """Return the largest memory that any of the processes has ever had, in bytes."""
        pids = [child.pid for child in psutil.Process(self.process.pid).children()]
        return max(high_water_bytes(pid) for pid in pids)

    def stop(self) -> None:
        self.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=10)
        assert self.process.stdout is not None
        self.process.stdout.close()


def high_water_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def sendable(*parts: bytes) -> dict[str, Any]:
    """Return the arguments with which `requests` posts a form."""
    made = form(*parts)
    return {"data": made["data"], "headers": {"Content-Type": made["content_type"]}}
