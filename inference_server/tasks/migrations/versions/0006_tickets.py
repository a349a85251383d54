"""Tickets of the DSS dialect, with their files, logs and progress; services, providers and sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make all tables and their indexes."""
    _make_sessions()
    _make_providers()
    _make_tickets()
    _make_parts()
    _make_indexes()


def _make_sessions() -> None:
    op.create_table(
        "dss_sign_ins",
        sa.Column("digest", sa.String, primary_key=True),
        *_needed(sa.String, "name"),
        sa.Column("token_id", sa.String, sa.ForeignKey("tokens.id")),
        *_needed(sa.Double, "expires_at"),
    )
    op.create_table(
        "dss_sessions",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("token_id", sa.String, sa.ForeignKey("tokens.id"), nullable=False),
        *_needed(sa.String, "digest"),
        *_needed(sa.Double, "expires_at"),
    )


def _make_providers() -> None:
    op.create_table(
        "dss_users",
        sa.Column("id", _SEQUENCE, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sqlite_autoincrement=True,
    )
    op.create_table("dss_providers", sa.Column("name", sa.String, primary_key=True))
    op.create_table(
        "dss_members",
        _part_of("provider", sa.String, "dss_providers.name", primary_key=True),
        _part_of("user_id", _SEQUENCE, "dss_users.id", primary_key=True),
        *_needed(sa.Boolean, "is_admin"),
    )
    op.create_table(
        "dss_services",
        sa.Column("githash", sa.String, primary_key=True),
        *_needed(sa.String, "name", "version"),
        *_needed(sa.JSON, "document"),
        sa.Column("seen_at", sa.Double),
    )
    op.create_table(
        "dss_offers",
        _part_of("provider", sa.String, "dss_providers.name", primary_key=True),
        _part_of("githash", sa.String, "dss_services.githash", primary_key=True),
    )


def _make_tickets() -> None:
    op.create_table(
        "dss_tickets",
        sa.Column("id", _SEQUENCE, primary_key=True),
        *_needed(sa.String, "token", "githash", "service", "version", "status"),
        sa.Column("outcome", sa.String),
        *_needed(sa.Double, "created_at"),
        *(sa.Column(name, sa.Double) for name in ("ready_at", "claimed_at", "seen_at", "ended_at")),
        *(sa.Column(name, sa.String) for name in ("provider", "instance", "claimant", "task_uid")),
        *_needed(_SEQUENCE, "event_seq"),
        sqlite_autoincrement=True,
    )


def _make_parts() -> None:
    op.create_table(
        "dss_files",
        _part_of("ticket", _SEQUENCE, "dss_tickets.id", primary_key=True),
        sa.Column("area", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        *_needed(sa.String, "name", "blob"),
        *_needed(sa.BigInteger, "size_bytes"),
        sa.UniqueConstraint("ticket", "area", "name"),
    )
    op.create_table(
        "dss_log",
        sa.Column("id", _SEQUENCE, primary_key=True),
        _part_of("ticket", _SEQUENCE, "dss_tickets.id", nullable=False),
        *_needed(sa.Double, "time"),
        *_needed(sa.String, "category", "message"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "dss_attachments",
        sa.Column("id", _SEQUENCE, primary_key=True),
        _part_of("ticket", _SEQUENCE, "dss_tickets.id", nullable=False),
        _part_of("log_id", _SEQUENCE, "dss_log.id"),
        sa.Column("link", sa.String, nullable=False, unique=True),
        *_needed(sa.String, "description", "mime_type", "blob"),
        *_needed(sa.BigInteger, "size_bytes"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "dss_chunks",
        _part_of("ticket", _SEQUENCE, "dss_tickets.id", primary_key=True),
        *(sa.Column(name, sa.Double, primary_key=True) for name in ("start", "end")),
        *_needed(sa.Double, "progress"),
    )


def _make_indexes() -> None:
    ready, linked = sa.text("status = 'ready'"), sa.text("task_uid IS NOT NULL")
    _index("dss_tickets_ready", "dss_tickets", ["githash", "id"], where=ready)
    _index("dss_tickets_by_task", "dss_tickets", ["task_uid"], where=linked, unique=True)
    _index("dss_tickets_by_owner", "dss_tickets", ["token", "id"])
    _index("dss_tickets_by_status", "dss_tickets", ["status", "seen_at"])
    _index("dss_tickets_ended", "dss_tickets", ["githash", "ended_at"])
    _index("dss_files_by_blob", "dss_files", ["blob"])
    _index("dss_log_by_ticket", "dss_log", ["ticket", "id"])
    _index("dss_attachments_by_ticket", "dss_attachments", ["ticket", "id"])
    _index("dss_attachments_by_log", "dss_attachments", ["log_id"])
    _index("dss_attachments_by_blob", "dss_attachments", ["blob"])


def _needed(kind: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=False) for name in names]


def _part_of(name: str, kind: Any, whole: str, **more: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, sa.ForeignKey(whole, ondelete="CASCADE"), **more)


def _index(
    name: str, table: str, columns: Sequence[str], *, where: sa.TextClause | None = None, unique: bool = False
) -> None:
    op.create_index(name, table, columns, unique=unique, sqlite_where=where, postgresql_where=where)
