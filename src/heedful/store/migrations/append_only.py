"""Triggers that refuse to change or delete rows, for both back ends. Used by migrations; never edit what they emit."""

from __future__ import annotations

from alembic import op

_POSTGRES_FUNCTION = """
CREATE FUNCTION heedful_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'append-only: %', TG_TABLE_NAME USING ERRCODE = 'HD001';
END $$
"""


def prepare() -> None:
    """What the triggers of PostgreSQL call."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_POSTGRES_FUNCTION)


def forbid_changes(table: str, *, key: str) -> None:
    """Make `table` append-only; `key` is its primary key."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION heedful_append_only()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION heedful_append_only()"
        )
        return
    refuse = f"BEGIN SELECT RAISE(ABORT, 'append-only: {table}'); END"
    for verb in ("UPDATE", "DELETE"):
        op.execute(f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} {refuse}")
    # INSERT OR REPLACE deletes the old row without asking the triggers for DELETE.
    op.execute(
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
        f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {key} = NEW.{key}) {refuse}"
    )
