"""Tasks, their events, and the device time of tokens."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the first tables."""
    _make_tasks()
    op.create_index("tasks_by_uid", "tasks", ["uid"], unique=True)
    _make_events()
    op.create_table("usage", sa.Column("token", sa.String, primary_key=True), _needed("score", sa.Double))
    _make_partial_indexes()


def _needed(name: str, kind: type[sa.types.TypeEngine[Any]]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _sequence() -> sa.Column[int]:
    return sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True)


def _make_tasks() -> None:
    op.create_table(
        "tasks",
        _sequence(),
        *(_needed(name, sa.String) for name in ("uid", "model", "version", "digest", "queue", "dialect", "token")),
        _needed("priority", sa.SmallInteger),
        _needed("status", sa.String),
        _needed("revision", sa.Integer),
        _needed("attempts", sa.Integer),
        _needed("created_at", sa.Double),
        _needed("queued_at", sa.Double),
        sa.Column("started_at", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.Column("case_blob", sa.String),
        _needed("case_size_bytes", sa.BigInteger),
        sa.Column("result_blob", sa.String),
        sa.Column("result_size_bytes", sa.BigInteger),
        *(_needed(name, sa.JSON) for name in ("parameters", "outputs", "report")),
        sa.Column("phase", sa.String),
        _needed("progress", sa.Double),
        sa.Column("problem_code", sa.String),
        sa.Column("problem_message", sa.String),
        sa.Column("time_limit_s", sa.Double),
        sa.Column("idempotency_key", sa.String),
        _needed("fingerprint", sa.String),
        sa.Column("claim_token", sa.String),
        sa.Column("holder_worker", sa.String),
        sa.Column("holder_pid", sa.Integer),
        sa.Column("lease_until", sa.Double),
        sqlite_autoincrement=True,
    )


def _make_events() -> None:
    op.create_table(
        "events",
        _sequence(),
        sa.Column("uid", sa.String, sa.ForeignKey("tasks.uid", ondelete="CASCADE"), nullable=False),
        _needed("time", sa.Double),
        _needed("level", sa.String),
        _needed("text", sa.String),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_task", "events", ["uid", "seq"])


def _make_partial_indexes() -> None:
    _index("tasks_to_claim", ["queue", "token", "priority", "seq"], "status = 'queued'")
    _index("tasks_waiting", ["queued_at", "queue"], "status = 'queued'")
    _index("tasks_running", ["lease_until"], "status = 'running'")
    _index("tasks_ended", ["ended_at"], "status IN ('finished', 'failed', 'cancelled')")
    _index("tasks_finished", ["model", "ended_at"], "status = 'finished'")
    _index("tasks_by_case", ["case_blob"], "case_blob IS NOT NULL")
    _index("tasks_by_result", ["result_blob"], "result_blob IS NOT NULL")
    _index("tasks_by_key", ["token", "idempotency_key"], "idempotency_key IS NOT NULL", unique=True)


def _index(name: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, "tasks", columns, unique=unique, sqlite_where=condition, postgresql_where=condition)
