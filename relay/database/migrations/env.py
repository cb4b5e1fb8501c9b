"""Alembic's entry: migrates over the connection that `migration.upgrade` hands in."""

from __future__ import annotations

from alembic import context

from relay.database.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
