"""What the server takes: every bound that a client may meet, and the error that says so."""

from __future__ import annotations

from pydantic import BaseModel, Field


class LimitRecord(BaseModel):
    """What this server takes, and how long it keeps it. Sizes in bytes, times in seconds."""

    upload_limit_bytes: int = Field(description="largest request body; `too_large`")
    image_limit_bytes: int = Field(description="largest array that one image may declare; `too_large`")
    unpacked_limit_bytes: int = Field(description="largest sum of a zip's members, unpacked; `too_large`")
    labels_limit_bytes: int = Field(description="largest label array on the contour grid; `too_large`")
    member_limit: int = Field(description="most members of a zip; `too_large`")
    disk_low_bytes: int = Field(description="free disk space below which nothing is taken; `storage_full`")
    queue_limit: int = Field(description="most tasks that may wait; `queue_full`")
    model_queue_limit: int = Field(description="most tasks that may wait for one model; `queue_full`")
    token_task_limit: int = Field(description="most tasks that one token may have waiting or running; `over_quota`")
    anonymous_task_limit: int = Field(description="the same for clients without a token together; `over_quota`")
    dss_ticket_limit: int = Field(
        description="most open tickets that one user of the DSS dialect may have; refused in a sentence"
    )
    sign_in_limit: int = Field(description="wrong tokens a minute from one address; `sign_in_limited`")
    head_limit_s: float = Field(description="longest TLS handshake and head of a request; the connection is closed")
    stall_limit_s: float = Field(description="longest silence while a case is sent or a result fetched")
    wait_limit_s: float = Field(description="longest `wait`; a longer one is cut")
    queue_time_limit_s: float = Field(description="longest wait in a queue; `queue_timed_out`")
    task_time_limit_s: float = Field(description="longest computation, unless the model says otherwise; `timed_out`")
    max_attempts: int = Field(description="how often a task is tried when its worker dies; `worker_lost`")
    child_memory_bytes: int = Field(
        description="most memory of a computation; 0: nine tenths of the worker's machine; `out_of_memory`"
    )
    retention_s: float = Field(description="how long case and result are kept after a task finished; `result_gone`")
    failed_retention_s: float = Field(description="how long the case of a failed task is kept")
    cancelled_retention_s: float = Field(description="how long the case of a cancelled task is kept")
    keep_case: bool = Field(description="whether the case of a finished task is kept as long as its result")
