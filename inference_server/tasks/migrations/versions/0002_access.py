"""Access tokens and the audit log."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "tokens",
        sa.Column("id", sa.String, primary_key=True),
        *(_needed(name, sa.String) for name in ("name", "scopes")),
        _needed("created_at", sa.Double),
        sa.Column("expires_at", sa.Double),
        sa.Column("revoked_at", sa.Double),
        _needed("digest", sa.String),
    )
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        _needed("time", sa.Double),
        *(_needed(name, sa.String) for name in ("token", "dialect", "action", "uid")),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_by_task", "audit", ["uid", "seq"])
    op.create_index("audit_by_time", "audit", ["time"])


def _needed(name: str, kind: type[sa.types.TypeEngine[Any]]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)
