"""0005: who confirmed an account of staff that may read conversations; who checked a profile against its law."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from heedful.store.migrations.append_only import forbid_changes

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Two columns: who reads today goes on; an account without a password, or a closed one, has to be confirmed.

    And a table that only grows.
    """
    for name in ("confirmed_at", "confirmed_by"):
        op.add_column("users", sa.Column(name, sa.Text, nullable=True))
    op.execute(
        "UPDATE users SET confirmed_at = changed_at, confirmed_by = 'migration' "
        "WHERE role IN ('clinician', 'supervisor', 'annotator') AND password_hash IS NOT NULL "
        "AND erased_at IS NULL AND NOT disabled"
    )
    names = ("id", "profile", "version", "hash", "checker", "checked", "by", "at")
    op.create_table(
        "profile_checks",
        *(sa.Column(name, sa.Text, nullable=False) for name in names),
        sa.PrimaryKeyConstraint("id", name="pk_profile_checks"),
    )
    forbid_changes("profile_checks", key="id")
