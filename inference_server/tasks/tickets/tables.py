"""The tables of the DSS dialect, beside those of `schema`."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    UniqueConstraint,
    text,
)

from inference_server.tasks.schema import SEQUENCE, metadata, texts

__all__ = [
    "attachments",
    "chunks",
    "files",
    "log",
    "members",
    "metadata",
    "offers",
    "providers",
    "services",
    "sessions",
    "sign_ins",
    "tickets",
    "users",
]

sign_ins = Table(
    "dss_sign_ins",
    metadata,
    Column("digest", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("token_id", String, ForeignKey("tokens.id")),
    Column("expires_at", Double, nullable=False),
)
"""Tokens for signing in once: the SHA-256 of each. Those of who came without an access token have no `token_id`."""

sessions = Table(
    "dss_sessions",
    metadata,
    Column("id", String, primary_key=True),
    Column("token_id", String, ForeignKey("tokens.id"), nullable=False),
    Column("digest", String, nullable=False),
    Column("expires_at", Double, nullable=False),
)
"""A session is another secret of an access token, for a while; it ends with the token."""

users = Table(
    "dss_users",
    metadata,
    Column("id", SEQUENCE, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    sqlite_autoincrement=True,
)
"""Numbers of those who may serve for a provider, by the names of their access tokens."""

providers = Table("dss_providers", metadata, Column("name", String, primary_key=True))

members = Table(
    "dss_members",
    metadata,
    Column("provider", String, ForeignKey("dss_providers.name", ondelete="CASCADE"), primary_key=True),
    Column("user_id", SEQUENCE, ForeignKey("dss_users.id", ondelete="CASCADE"), primary_key=True),
    Column("is_admin", Boolean, nullable=False),
)

services = Table(
    "dss_services",
    metadata,
    Column("githash", String, primary_key=True),
    *texts("name", "version"),
    Column("document", JSON, nullable=False),
    Column("seen_at", Double),
)
"""External services. `seen_at` is when a provider last asked for tickets of one."""

offers = Table(
    "dss_offers",
    metadata,
    Column("provider", String, ForeignKey("dss_providers.name", ondelete="CASCADE"), primary_key=True),
    Column("githash", String, ForeignKey("dss_services.githash", ondelete="CASCADE"), primary_key=True),
)
"""A service that nobody offers is kept for its tickets, and listed no more."""

tickets = Table(
    "dss_tickets",
    metadata,
    Column("id", SEQUENCE, primary_key=True),
    *texts("token", "githash", "service", "version", "status"),
    Column("outcome", String),
    Column("created_at", Double, nullable=False),
    Column("ready_at", Double),
    Column("claimed_at", Double),
    Column("seen_at", Double),
    Column("ended_at", Double),
    Column("provider", String),
    Column("instance", String),
    Column("claimant", String),
    Column("task_uid", String),
    Column("event_seq", SEQUENCE, nullable=False),
    sqlite_autoincrement=True,
)
"""`outcome` is how the ticket ended, kept when it is deleted. `task_uid` is the linked task of a ticket on a model."""

files = Table(
    "dss_files",
    metadata,
    Column("ticket", SEQUENCE, ForeignKey("dss_tickets.id", ondelete="CASCADE"), primary_key=True),
    Column("area", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    *texts("name", "blob"),
    Column("size_bytes", BigInteger, nullable=False),
    UniqueConstraint("ticket", "area", "name"),
)

log = Table(
    "dss_log",
    metadata,
    Column("id", SEQUENCE, primary_key=True),
    Column("ticket", SEQUENCE, ForeignKey("dss_tickets.id", ondelete="CASCADE"), nullable=False),
    Column("time", Double, nullable=False),
    *texts("category", "message"),
    sqlite_autoincrement=True,
)
"""One rising sequence of ids for all tickets."""

attachments = Table(
    "dss_attachments",
    metadata,
    Column("id", SEQUENCE, primary_key=True),
    Column("ticket", SEQUENCE, ForeignKey("dss_tickets.id", ondelete="CASCADE"), nullable=False),
    Column("log_id", SEQUENCE, ForeignKey("dss_log.id", ondelete="CASCADE")),
    Column("link", String, nullable=False, unique=True),
    *texts("description", "mime_type", "blob"),
    Column("size_bytes", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)
"""`link` is the 32 digits of its public address. Without a `log_id` it waits for the ticket's next line."""

chunks = Table(
    "dss_chunks",
    metadata,
    Column("ticket", SEQUENCE, ForeignKey("dss_tickets.id", ondelete="CASCADE"), primary_key=True),
    Column("start", Double, primary_key=True),
    Column("end", Double, primary_key=True),
    Column("progress", Double, nullable=False),
)

_READY, _LINKED = text("status = 'ready'"), text("task_uid IS NOT NULL")
Index("dss_tickets_ready", tickets.c.githash, tickets.c.id, sqlite_where=_READY, postgresql_where=_READY)
Index("dss_tickets_by_task", tickets.c.task_uid, unique=True, sqlite_where=_LINKED, postgresql_where=_LINKED)
Index("dss_tickets_by_owner", tickets.c.token, tickets.c.id)
Index("dss_tickets_by_status", tickets.c.status, tickets.c.seen_at)
Index("dss_tickets_ended", tickets.c.githash, tickets.c.ended_at)
Index("dss_files_by_blob", files.c.blob)
Index("dss_log_by_ticket", log.c.ticket, log.c.id)
Index("dss_attachments_by_ticket", attachments.c.ticket, attachments.c.id)
Index("dss_attachments_by_log", attachments.c.log_id)
Index("dss_attachments_by_blob", attachments.c.blob)
