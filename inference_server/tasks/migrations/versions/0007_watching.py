"""What workers say of themselves, and figures that only rise."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from inference_server.tasks.outcomes import STATEMENTS

revision = "0007"
down_revision = "0006"

QUEUED = sa.text("status = 'queued'")


def upgrade() -> None:
    """Make the tables, an index of the oldest task of each queue, and the triggers that count."""
    texts = ("host", "version", "device", "device_kind", "device_id", "queues", "state")
    op.create_table(
        "workers",
        sa.Column("name", sa.String, primary_key=True),
        *(sa.Column(name, sa.String, nullable=False) for name in texts),
        sa.Column("children", sa.Integer, nullable=False),
        sa.Column("memory_bytes", sa.BigInteger),
        sa.Column("memory_used_bytes", sa.BigInteger),
        sa.Column("utilisation", sa.Double),
        sa.Column("models", sa.JSON, nullable=False),
        *(sa.Column(name, sa.Double, nullable=False) for name in ("started_at", "beat_at")),
    )
    op.create_table(
        "figures",
        *(sa.Column(name, sa.String, primary_key=True) for name in ("figure", "model", "detail")),
        *(sa.Column(name, sa.Integer, primary_key=True, autoincrement=False) for name in ("bucket", "slot")),
        sa.Column("counted", sa.BigInteger, nullable=False),
        sa.Column("total", sa.Double, nullable=False),
    )
    op.create_index("tasks_oldest", "tasks", ["queue", "queued_at"], sqlite_where=QUEUED, postgresql_where=QUEUED)
    for statement in STATEMENTS[op.get_bind().dialect.name]:
        op.execute(statement)
