"""The database itself refuses to change the audit log: no statement of ours or of others can forget to keep it.

Lines go for one reason alone, that their time is over. Whoever removes them says so in the same transaction, by a row
of `audit_forgetting`; only lines older than that are let go. `Audit.forget` does it, and takes the row away again.
"""

from __future__ import annotations

REFUSAL = "lines of the audit log are never changed, and removed only after their time"

SQLITE = (
    f"""
CREATE TRIGGER audit_never_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, '{REFUSAL}');
END
""",
    f"""
CREATE TRIGGER audit_never_replaced BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq)
BEGIN
    SELECT RAISE(ABORT, '{REFUSAL}');
END
""",
    f"""
CREATE TRIGGER audit_kept_for_its_time BEFORE DELETE ON audit
WHEN NOT EXISTS (SELECT 1 FROM audit_forgetting WHERE before > OLD.time)
BEGIN
    SELECT RAISE(ABORT, '{REFUSAL}');
END
""",
)
"""`INSERT OR REPLACE` removes the row that was there without asking the triggers of a removal, so it is met before."""

POSTGRESQL = (
    f"""
CREATE FUNCTION keep_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF EXISTS (SELECT 1 FROM audit_forgetting WHERE before > OLD.time) THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION '{REFUSAL}';
END
$$
""",
    """
CREATE TRIGGER audit_kept BEFORE UPDATE OR DELETE ON audit
FOR EACH ROW EXECUTE FUNCTION keep_audit()
""",
    """
CREATE TRIGGER audit_never_emptied BEFORE TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION keep_audit()
""",
)

STATEMENTS = {"sqlite": SQLITE, "postgresql": POSTGRESQL}
