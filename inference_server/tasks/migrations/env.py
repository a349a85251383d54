"""Alembic's entry: `Database.migrate` hands over an open connection inside a transaction."""

from __future__ import annotations

from alembic import context

from inference_server.tasks.tickets.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
