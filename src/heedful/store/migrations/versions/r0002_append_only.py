"""0002: the audit chain, decisions and consents can only be added to; the database itself refuses anything else."""

from __future__ import annotations

from heedful.store.migrations.append_only import forbid_changes, prepare

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Triggers against UPDATE, DELETE and, on PostgreSQL, TRUNCATE."""
    prepare()
    forbid_changes("audit", key="seq")
    forbid_changes("decisions", key="id")
    forbid_changes("consents", key="id")
