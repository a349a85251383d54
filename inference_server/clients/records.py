"""What the native API answers, as its client gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ENDED = frozenset({"finished", "failed", "cancelled", "expired"})


@dataclass(frozen=True)
class RemoteTask:
    """A task as the server describes it. `raw` is the whole JSON record."""

    uid: str
    model: str
    status: str
    revision: int
    phase: str | None = None
    progress: float = 0.0
    queue_position: int | None = None
    problem: Mapping[str, Any] | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.status in ENDED


@dataclass(frozen=True)
class RemoteWorker:
    """A worker as the server describes it. `raw` is the whole JSON record."""

    name: str
    state: str
    device: str
    models: tuple[str, ...]
    tasks: tuple[str, ...]
    memory_bytes: int | None = None
    memory_used_bytes: int | None = None
    utilisation: float | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


def task_of(record: Mapping[str, Any]) -> RemoteTask:
    """Return the task in a JSON record."""
    known = {name: record.get(name) for name in ("phase", "queue_position", "problem")}
    return RemoteTask(
        uid=record["uid"],
        model=record["model"],
        status=record["status"],
        revision=record["revision"],
        progress=record.get("progress") or 0.0,
        raw=record,
        **known,
    )


def worker_of(record: Mapping[str, Any]) -> RemoteWorker:
    """Return the worker in a JSON record."""
    sizes = {name: record.get(name) for name in ("memory_bytes", "memory_used_bytes", "utilisation")}
    return RemoteWorker(
        name=record["name"],
        state=record["state"],
        device=record["device"],
        models=tuple(record["models"]),
        tasks=tuple(record["tasks"]),
        raw=record,
        **sizes,
    )
