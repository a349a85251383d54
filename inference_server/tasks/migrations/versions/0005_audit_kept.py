"""Lines of the audit log are kept by the database: never changed, removed only after their time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from inference_server.tasks.append_only import STATEMENTS

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the table of what may go, and the triggers that look there."""
    op.create_table("audit_forgetting", sa.Column("before", sa.Double, nullable=False))
    for statement in STATEMENTS[op.get_bind().dialect.name]:
        op.execute(statement)
