"""0005: who confirmed an account of staff that may read conversations, and when."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Two columns. Whoever reads today goes on; an account without a password, or a closed one, has to be confirmed."""
    for name in ("confirmed_at", "confirmed_by"):
        op.add_column("users", sa.Column(name, sa.Text, nullable=True))
    op.execute(
        "UPDATE users SET confirmed_at = changed_at, confirmed_by = 'migration' "
        "WHERE role IN ('clinician', 'supervisor', 'annotator') AND password_hash IS NOT NULL "
        "AND erased_at IS NULL AND NOT disabled"
    )
