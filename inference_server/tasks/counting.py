"""How many tasks wait and run, kept in `loads` by the database itself: no count has to read the queue.

Triggers do it, since then no statement that moves a task, one or many, can forget it. On PostgreSQL every connection
counts in rows of its own (`slot`), so that two that claim at the same time do not wait for each other; what stands in
the rows of a share is its sum.
"""

from __future__ import annotations

SQLITE = (
    """
CREATE TRIGGER tasks_counted_at_first AFTER INSERT ON tasks WHEN NEW.status IN ('queued', 'running')
BEGIN
    INSERT INTO loads (model, queue, token, priority, slot, waiting, running)
    VALUES (NEW.model, NEW.queue, NEW.token, NEW.priority, 0, NEW.status = 'queued', NEW.status = 'running')
    ON CONFLICT (model, queue, token, priority, slot)
    DO UPDATE SET waiting = waiting + excluded.waiting, running = running + excluded.running;
END
""",
    """
CREATE TRIGGER tasks_counted_again AFTER UPDATE OF status ON tasks WHEN NEW.status <> OLD.status
BEGIN
    INSERT INTO loads (model, queue, token, priority, slot, waiting, running)
    VALUES (NEW.model, NEW.queue, NEW.token, NEW.priority, 0,
        (NEW.status = 'queued') - (OLD.status = 'queued'), (NEW.status = 'running') - (OLD.status = 'running'))
    ON CONFLICT (model, queue, token, priority, slot)
    DO UPDATE SET waiting = waiting + excluded.waiting, running = running + excluded.running;
    DELETE FROM loads WHERE model = NEW.model AND queue = NEW.queue AND token = NEW.token
        AND priority = NEW.priority AND waiting = 0 AND running = 0;
END
""",
    """
CREATE TRIGGER tasks_counted_at_last AFTER DELETE ON tasks WHEN OLD.status IN ('queued', 'running')
BEGIN
    UPDATE loads SET waiting = waiting - (OLD.status = 'queued'), running = running - (OLD.status = 'running')
    WHERE model = OLD.model AND queue = OLD.queue AND token = OLD.token AND priority = OLD.priority;
    DELETE FROM loads WHERE model = OLD.model AND queue = OLD.queue AND token = OLD.token
        AND priority = OLD.priority AND waiting = 0 AND running = 0;
END
""",
)

POSTGRESQL = (
    """
CREATE FUNCTION count_task() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    task tasks;
    more_waiting integer := 0;
    more_running integer := 0;
BEGIN
    IF TG_OP <> 'DELETE' THEN
        task := NEW;
        more_waiting := (NEW.status = 'queued')::integer;
        more_running := (NEW.status = 'running')::integer;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        task := OLD;
        more_waiting := more_waiting - (OLD.status = 'queued')::integer;
        more_running := more_running - (OLD.status = 'running')::integer;
    END IF;
    IF more_waiting <> 0 OR more_running <> 0 THEN
        INSERT INTO loads (model, queue, token, priority, slot, waiting, running)
        VALUES (task.model, task.queue, task.token, task.priority, pg_backend_pid(), more_waiting, more_running)
        ON CONFLICT (model, queue, token, priority, slot)
        DO UPDATE SET waiting = loads.waiting + excluded.waiting, running = loads.running + excluded.running;
    END IF;
    RETURN NULL;
END
$$
""",
    """
CREATE TRIGGER tasks_counted AFTER INSERT OR DELETE OR UPDATE OF status ON tasks
FOR EACH ROW EXECUTE FUNCTION count_task()
""",
)

STATEMENTS = {"sqlite": SQLITE, "postgresql": POSTGRESQL}

COUNT_ALL = """
INSERT INTO loads (model, queue, token, priority, slot, waiting, running)
SELECT model, queue, token, priority, 0,
    sum(CASE status WHEN 'queued' THEN 1 ELSE 0 END), sum(CASE status WHEN 'running' THEN 1 ELSE 0 END)
FROM tasks WHERE status IN ('queued', 'running') GROUP BY model, queue, token, priority
"""
"""Fills the empty table from the tasks there are."""
