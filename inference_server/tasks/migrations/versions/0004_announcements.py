"""Keys of the announcement service, and the services that were announced with them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "announcement_keys",
        sa.Column("sid", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double),
        sa.Column("digest", sa.String, nullable=False, unique=True),
    )
    op.create_table(
        "announced",
        sa.Column("sid", sa.String, sa.ForeignKey("announcement_keys.sid", ondelete="CASCADE"), primary_key=True),
        *(
            sa.Column(name, sa.String, nullable=False)
            for name in ("prediction_url", "interface_url", "name", "modality", "anatomy", "task", "description")
        ),
        sa.Column("creation_time", sa.Double, nullable=False),
    )
