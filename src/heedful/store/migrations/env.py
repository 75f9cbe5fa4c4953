"""What alembic runs for each command. The connection comes from `heedful.store`; there is no other way in."""

from __future__ import annotations

from alembic import context

from heedful.store import models

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=models.User.metadata,
    transactional_ddl=True,  # SQLite can roll back a schema too, once BEGIN is ours
    render_as_batch=True,  # SQLite changes a column by copying the table
)
with context.begin_transaction():
    context.run_migrations()
