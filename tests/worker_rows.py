"""A worker as tests need one."""

from __future__ import annotations

from typing import Any

from inference_server.tasks.workers import Worker, WorkerState


def worker_row(**changes: Any) -> Worker:
    """Return a worker that is ready on a GPU, as of the clock of `records.Clock`."""
    given: dict[str, Any] = {
        "name": "worker-1",
        "host": "box",
        "version": "0.1.0",
        "device": "cuda:0 (GPU)",
        "device_kind": "cuda",
        "device_id": "GPU-1",
        "queues": ("default", "big-gpu"),
        "state": WorkerState.READY,
        "children": 2,
        "started_at": 1_699_999_000.0,
        "beat_at": 1_700_000_000.0,
        "memory_bytes": 24 * 2**30,
        "memory_used_bytes": 6 * 2**30,
        "utilisation": 0.5,
        "models": ("ct-body:1.0.0",),
    }
    return Worker(**{**given, **changes})
