"""What the native API says of the workers."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, Field

from inference_server.tasks.workers import Worker, WorkerState


class WorkerRecord(BaseModel):
    """A worker: one process group on one device."""

    name: str = Field(description="its host's name and its process id")
    host: str = Field(description="name of its machine or container")
    version: str = Field(description="of the server's software")
    state: WorkerState = Field(description="`silent`: not heard of for 15 seconds")
    queues: list[str] = Field(description="that it listens to")
    children: int = Field(description="how many processes it computes with")
    device: str = Field(description="what its models compute on")
    device_kind: str = Field(description="`cpu` or `cuda`")
    device_id: str = Field(description="names the device on its machine, whatever else sees it")
    memory_bytes: int | None = Field(description="of the device")
    memory_used_bytes: int | None = Field(description="of the device, by whomever; null where it does not say")
    utilisation: float | None = Field(description="how busy the device is, 0 to 1; null where it does not say")
    models: list[str] = Field(description="that are loaded, as `id:version`")
    tasks: list[str] = Field(description="UIDs of the tasks that it runs")
    started_at: AwareDatetime
    beat_at: AwareDatetime = Field(description="when it was last heard of")


class WorkerList(BaseModel):
    """The workers that were heard of in the last hour, by host and device. One that ended in order is gone at once."""

    workers: list[WorkerRecord]


def worker_record(worker: Worker) -> WorkerRecord:
    """Return a worker as clients see it."""
    moments = {name: datetime.fromtimestamp(getattr(worker, name), UTC) for name in ("started_at", "beat_at")}
    return WorkerRecord(**{**vars(worker), **moments})
