"""Alembic's entry point: migrates on the connection that `worker.storage.schema` opened."""

from __future__ import annotations

from alembic import context

from worker.storage.models import Base

with_connection = context.config.attributes["connection"]
context.configure(
    connection=with_connection,
    target_metadata=Base.metadata,
    compare_server_default=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
