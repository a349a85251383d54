"""The record of a task: what the store keeps and every door reads."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

ANONYMOUS = "anonymous"


class Status(StrEnum):
    """Where a task is in its life."""

    QUEUED = "queued"
    """Accepted and stored; waits for a worker."""
    RUNNING = "running"
    """A worker child has claimed it."""
    FINISHED = "finished"
    """Its result can be fetched."""
    FAILED = "failed"
    """It ended without a result; `error` says why."""
    CANCELLED = "cancelled"
    """Somebody stopped it."""
    EXPIRED = "expired"
    """It ended long ago; case and result have been removed."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self not in (Status.QUEUED, Status.RUNNING)


class Priority(IntEnum):
    """Who goes first in a queue; lower goes first."""

    URGENT = 0
    NORMAL = 1
    BATCH = 2


class Phase(StrEnum):
    """What a running task is doing."""

    LOADING = "loading"
    READING = "reading"
    PREPARING = "preparing"
    PREDICTING = "predicting"
    RESTORING = "restoring"
    WRITING = "writing"


@dataclass(frozen=True)
class Problem:
    """Why a task failed: a code of `errors` and a sentence a clinician can act on."""

    code: str
    message: str


@dataclass(frozen=True)
class Event:
    """A line of a task's log. `seq` rises over all events of the store."""

    seq: int
    time: float
    level: str
    text: str


@dataclass(frozen=True, kw_only=True)
class NewTask:
    """What `submit` hands to the store; everything else of a record has a fixed beginning."""

    uid: str
    model: str
    version: str
    digest: str
    queue: str
    dialect: str
    case_blob: str
    case_size_bytes: int
    token: str = ANONYMOUS
    priority: Priority = Priority.NORMAL
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    idempotency_key: str | None = None
    fingerprint: str = ""
    """Digest of the request, so that a reused idempotency key with another content is noticed."""
    time_limit_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """One request to run one model on one case. Times are seconds since the epoch, UTC.

    `revision` rises with every change that a waiting client wants to know of (status, phase, progress).
    """

    uid: str
    model: str
    version: str
    digest: str
    queue: str
    dialect: str
    token: str
    priority: Priority
    status: Status
    revision: int
    attempts: int
    created_at: float
    queued_at: float
    """When it last entered its queue."""
    case_blob: str | None
    case_size_bytes: int
    parameters: Mapping[str, Any]
    outputs: tuple[str, ...]
    phase: Phase | None = None
    progress: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    result_blob: str | None = None
    result_size_bytes: int | None = None
    problem: Problem | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    time_limit_s: float | None = None


@dataclass(frozen=True)
class Holder:
    """Who holds a claim: a worker's name (unique per parent process on its host) and the child's process id."""

    worker: str
    pid: int


def worker_name(pid: int) -> str:
    """Return the name of the worker that runs on this machine with a process id; no other running one has it."""
    return f"{socket.gethostname()}:{pid}"


@dataclass(frozen=True)
class Claim:
    """A child's exclusive hold on a running task. Every write carries the token; without it nothing is written."""

    token: str
    task: Task
    holder: Holder


def new_uid() -> str:
    """Return a fresh identifier that nobody can guess: 128 random bits."""
    return secrets.token_hex(16)
