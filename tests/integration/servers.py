"""A server without doors: records, files and a broker, and worker processes that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
from nifti_files import nifti, packed
from sqlalchemy import select

from inference_server.settings import Settings
from inference_server.tasks.blobs import open_blobs
from inference_server.tasks.claims import Claims
from inference_server.tasks.database import open_database
from inference_server.tasks.queue import CeleryTurns
from inference_server.tasks.record import NewTask, Phase, Status, Task, new_uid
from inference_server.tasks.schema import tasks
from inference_server.tasks.store import Store

STAND_IN = Path(__file__).with_name("stand_in.py")
LIMIT_S = 20.0
ARRAY = np.array([[[0, 5, 0, 5]] * 3] * 2, dtype=np.int16)
"""A case in (z, y, x) in which half of the voxels are bright."""

Answer = TypeVar("Answer")


def until(question: Callable[[], Answer], limit_s: float = LIMIT_S) -> Answer:
    """Wait for a true answer and return it."""
    deadline = time.monotonic() + limit_s
    while not (answer := question()):
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.005)
    return answer


def settings_for(folder: Path, broker_url: str, **changes: Any) -> Settings:
    given: dict[str, Any] = {"lease_s": 3.0, "beat_s": 0.3, "cancel_grace_s": 0.3, "max_attempts": 2, "drain_s": 15.0}
    return Settings(data_dir=folder, broker_url=broker_url, queues=f"q-{new_uid()[:8]}", **{**given, **changes})


class Server:
    """What the doors use, and the workers started with the same settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = open_database(settings.database)
        self.store = Store(self.database)
        self.claims = Claims(self.database, max_attempts=settings.max_attempts)
        self.blobs = open_blobs(settings)
        self.turns = CeleryTurns(settings)
        self.queue = settings.queue_names[0]
        self.go = settings.data_dir / "go"
        """Models that wait go on when this file appears."""

    def submit(self, do: str = "threshold", *, turns: int = 1, **changes: Any) -> str:
        staged = self.blobs.stage()
        with zipfile.ZipFile(staged, "w") as archive:
            archive.writestr("tmp_0000.nii.gz", packed(nifti(np.ascontiguousarray(ARRAY.T), np.eye(4))))
            archive.writestr("meta.json", json.dumps({"scaling_factor": [1, 1, 1]}))
        given: dict[str, Any] = {"model": "stand-in", "version": "1.0.0", "parameters": {"do": do}}
        given |= {"queue": self.queue, "digest": "digest"}
        new = NewTask(
            uid=new_uid(),
            dialect="native",
            case_blob=self.blobs.put(staged),
            case_size_bytes=1,
            **{**given, **changes},
        )
        self.store.add(new)
        for _ in range(turns):
            self.turns.send(new.queue)
        return new.uid

    def task(self, uid: str) -> Task:
        return self.store.get(uid)

    def holder_pid(self, uid: str) -> int:
        """Return the process id of the child that runs a task."""
        with self.database.reading() as connection:
            return int(connection.execute(select(tasks.c.holder_pid).where(tasks.c.uid == uid)).scalar_one())

    def ended(self, uid: str, limit_s: float = LIMIT_S) -> Task:
        until(lambda: self.task(uid).status.ended, limit_s)
        return self.task(uid)

    def running(self, uid: str, phase: Phase | None = None) -> Task:
        until(lambda: self.task(uid).status is Status.RUNNING and phase in (None, self.task(uid).phase))
        return self.task(uid)

    def texts(self, uid: str) -> list[str]:
        return [event.text for event in self.store.events(uid)]


class Worker:
    """A worker process of its own."""

    def __init__(
        self,
        server: Server,
        log: Path,
        environment: dict[str, str] | None = None,
        command: Sequence[str] = (str(STAND_IN),),
    ) -> None:
        self._log = log
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, **server.settings.environment(), **(environment or {})},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self.process.stdout is not None
        self.name = self.process.stdout.readline().removeprefix("ready ").strip()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def children(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, limit_s: float = LIMIT_S) -> int:
        return self.process.wait(limit_s)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
