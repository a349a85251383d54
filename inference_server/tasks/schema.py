"""The tables of the records. `migrations/` makes them; a test keeps both the same."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import (
    DDL,
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    event,
    text,
)

from inference_server.tasks import append_only, counting, outcomes

HEAD = "0007"
"""The newest migration. Versions are numbers of four digits, so that text order is age order."""

metadata = MetaData()
SEQUENCE = BigInteger().with_variant(Integer, "sqlite")


def texts(*names: str) -> Iterator[Column[str]]:
    """Yield columns of texts that are always there."""
    return (Column(name, String, nullable=False) for name in names)


tasks = Table(
    "tasks",
    metadata,
    Column("seq", SEQUENCE, primary_key=True),
    *texts("uid", "model", "version", "digest", "queue", "dialect", "token"),
    Column("priority", SmallInteger, nullable=False),
    Column("status", String, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("queued_at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("case_blob", String),
    Column("case_size_bytes", BigInteger, nullable=False),
    Column("result_blob", String),
    Column("result_size_bytes", BigInteger),
    Column("parameters", JSON, nullable=False),
    Column("outputs", JSON, nullable=False),
    Column("report", JSON, nullable=False),
    Column("phase", String),
    Column("progress", Double, nullable=False),
    Column("problem_code", String),
    Column("problem_message", String),
    Column("time_limit_s", Double),
    Column("idempotency_key", String),
    Column("fingerprint", String, nullable=False),
    Column("claim_token", String),
    Column("holder_worker", String),
    Column("holder_pid", Integer),
    Column("lease_until", Double),
    sqlite_autoincrement=True,
)
"""`seq` is the order of arrival and never used twice. `queued_at` is when the task last entered its queue."""

events = Table(
    "events",
    metadata,
    Column("seq", SEQUENCE, primary_key=True),
    Column("uid", String, ForeignKey("tasks.uid", ondelete="CASCADE"), nullable=False),
    Column("time", Double, nullable=False),
    *texts("level", "text"),
    sqlite_autoincrement=True,
)

usage = Table(
    "usage",
    metadata,
    Column("token", String, primary_key=True),
    Column("score", Double, nullable=False),
    Column("standing", Double, nullable=False),
)
"""How much device time each token used lately, and where it stands among those that wait: scores of `usage.py`."""

loads = Table(
    "loads",
    metadata,
    Column("model", String, primary_key=True),
    Column("queue", String, primary_key=True),
    Column("token", String, primary_key=True),
    Column("priority", SmallInteger, primary_key=True, autoincrement=False),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("waiting", Integer, nullable=False),
    Column("running", Integer, nullable=False),
)
"""How many tasks wait and run; kept by the triggers of `counting.py` alone."""

tokens = Table(
    "tokens",
    metadata,
    Column("id", String, primary_key=True),
    *texts("name", "scopes"),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("digest", String, nullable=False),
)
"""`digest` is the SHA-256 of a token's secret. Rows are never removed."""

audit = Table(
    "audit",
    metadata,
    Column("seq", SEQUENCE, primary_key=True),
    Column("time", Double, nullable=False),
    *texts("token", "dialect", "action", "uid"),
    sqlite_autoincrement=True,
)
"""Lines are never changed (`append_only.py`). `uid` refers to no row, since a line outlives its task."""

audit_forgetting = Table("audit_forgetting", metadata, Column("before", Double, nullable=False))
"""Lines of the audit log older than this may go; it has a row only inside the transaction that removes them."""

announcement_keys = Table(
    "announcement_keys",
    metadata,
    Column("sid", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
    Column("digest", String, nullable=False, unique=True),
)
"""`sid` is public and tells nothing of the key, whose SHA-256 is `digest`."""

announced = Table(
    "announced",
    metadata,
    Column("sid", String, ForeignKey("announcement_keys.sid", ondelete="CASCADE"), primary_key=True),
    *texts("prediction_url", "interface_url", "name", "modality", "anatomy", "task", "description"),
    Column("creation_time", Double, nullable=False),
)
"""One service per key: a later announcement takes the place of the one before."""

workers = Table(
    "workers",
    metadata,
    Column("name", String, primary_key=True),
    *texts("host", "version", "device", "device_kind", "device_id", "queues", "state"),
    Column("children", Integer, nullable=False),
    Column("memory_bytes", BigInteger),
    Column("memory_used_bytes", BigInteger),
    Column("utilisation", Double),
    Column("models", JSON, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("beat_at", Double, nullable=False),
)
"""What each worker says of itself with its beats; one that ended in order has no row."""

figures = Table(
    "figures",
    metadata,
    *(Column(name, String, primary_key=True) for name in ("figure", "model", "detail")),
    *(Column(name, Integer, primary_key=True, autoincrement=False) for name in ("bucket", "slot")),
    Column("counted", BigInteger, nullable=False),
    Column("total", Double, nullable=False),
)
"""Sums over all that ever happened, which only rise: by the triggers of `outcomes.py` and by `figures.py`."""


def _partial_index(
    name: str, *columns: Column[str] | Column[float] | Column[int], where: str, unique: bool = False
) -> None:
    Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


ENDED = "status IN ('finished', 'failed', 'cancelled')"

Index("tasks_by_uid", tasks.c.uid, unique=True)
Index("events_by_task", events.c.uid, events.c.seq)
Index("audit_by_task", audit.c.uid, audit.c.seq)
Index("audit_by_time", audit.c.time)
_partial_index("tasks_to_claim", tasks.c.queue, tasks.c.token, tasks.c.priority, tasks.c.seq, where="status = 'queued'")
_partial_index("tasks_waiting", tasks.c.queued_at, tasks.c.queue, where="status = 'queued'")
_partial_index("tasks_oldest", tasks.c.queue, tasks.c.queued_at, where="status = 'queued'")
_partial_index("tasks_running", tasks.c.lease_until, where="status = 'running'")
_partial_index("tasks_ended", tasks.c.ended_at, where=ENDED)
_partial_index("tasks_finished", tasks.c.model, tasks.c.ended_at, where="status = 'finished'")
_partial_index("tasks_by_case", tasks.c.case_blob, where="case_blob IS NOT NULL")
_partial_index("tasks_by_result", tasks.c.result_blob, where="result_blob IS NOT NULL")
_partial_index("tasks_by_key", tasks.c.token, tasks.c.idempotency_key, where="idempotency_key IS NOT NULL", unique=True)

for _dialect in ("sqlite", "postgresql"):
    for _statement in (part for one in (counting, append_only, outcomes) for part in one.STATEMENTS[_dialect]):
        event.listen(metadata, "after_create", DDL(_statement).execute_if(dialect=_dialect))  # type: ignore[no-untyped-call]
