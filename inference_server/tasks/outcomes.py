"""What became of tasks, counted in `figures` by the database itself, as `counting.py` counts those that wait.

Triggers do it, since then no statement that moves a task can forget it, also one of an older worker. The rows are few:
one for each model and door, way to end, or error. On PostgreSQL connections share out `SLOTS` rows of each, so that
workers that end tasks at the same time seldom wait for each other; what stands in them is their sum.
"""

from __future__ import annotations

from collections.abc import Iterator

SLOTS = 8
ADD = """
INSERT INTO figures (figure, model, detail, bucket, slot, counted, total)
{values}
ON CONFLICT (figure, model, detail, bucket, slot)
DO UPDATE SET counted = figures.counted + excluded.counted, total = figures.total + excluded.total"""
"""Adds to the figures; `values` is a VALUES or SELECT."""
ENDS = "NEW.status <> OLD.status AND NEW.status IN ('finished', 'failed', 'cancelled')"
SLOT = {"sqlite": "0", "postgresql": f"mod(pg_backend_pid(), {SLOTS})"}
"""The slot of the connection, in SQL."""


def _submitted(slot: str) -> str:
    values = f"VALUES ('submitted', NEW.model, NEW.dialect, 0, {slot}, 1, NEW.case_size_bytes)"
    return ADD.format(values=values)


def _ended(slot: str) -> Iterator[str]:
    yield ADD.format(values=f"VALUES ('ended', NEW.model, NEW.status, 0, {slot}, 1, 0)")
    failed = f"SELECT 'failed', NEW.model, NEW.problem_code, 0, {slot}, 1, 0 WHERE NEW.status = 'failed'"
    yield ADD.format(values=failed)


SQLITE = (
    f"""
CREATE TRIGGER figures_of_submission AFTER INSERT ON tasks
BEGIN{_submitted(SLOT["sqlite"])};
END
""",
    f"""
CREATE TRIGGER figures_of_end AFTER UPDATE OF status ON tasks WHEN {ENDS}
BEGIN{";".join(_ended(SLOT["sqlite"]))};
END
""",
)

POSTGRESQL = (
    f"""
CREATE FUNCTION figure_submission() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN{_submitted(SLOT["postgresql"])};
    RETURN NULL;
END
$$
""",
    f"""
CREATE FUNCTION figure_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN{";".join(_ended(SLOT["postgresql"]))};
    RETURN NULL;
END
$$
""",
    """
CREATE TRIGGER figures_of_submission AFTER INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION figure_submission()
""",
    f"""
CREATE TRIGGER figures_of_end AFTER UPDATE OF status ON tasks FOR EACH ROW WHEN ({ENDS})
EXECUTE FUNCTION figure_end()
""",
)

STATEMENTS = {"sqlite": SQLITE, "postgresql": POSTGRESQL}
