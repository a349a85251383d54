"""How many tasks wait and run, counted by triggers; where tokens stand among those that wait."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from inference_server.tasks.counting import COUNT_ALL, STATEMENTS

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table of counts, fill it, and have it kept; let every token stand where its use puts it."""
    op.create_table(
        "loads",
        *(sa.Column(name, sa.String, primary_key=True) for name in ("model", "queue", "token")),
        sa.Column("priority", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("waiting", "running")),
    )
    op.execute(COUNT_ALL)
    for statement in STATEMENTS[op.get_bind().dialect.name]:
        op.execute(statement)
    op.execute("CREATE TABLE usage_before AS SELECT token, score FROM usage")
    op.drop_table("usage")
    op.create_table(
        "usage",
        sa.Column("token", sa.String, primary_key=True),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("standing", sa.Double, nullable=False),
    )
    op.execute("INSERT INTO usage (token, score, standing) SELECT token, score, score FROM usage_before")
    op.drop_table("usage_before")
