"""0003: what left the house and what was deleted: exports, whose data they hold, models trained on them, receipts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from heedful.store.migrations.append_only import forbid_changes

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Tables of exports and erasures; receipts are append-only."""
    op.create_table(
        "exports",
        _text("id"),
        _text("kind"),
        _text("purpose"),
        _text("name"),
        _whole("rows"),
        _text("sha256"),
        _text("by"),
        _text("at"),
        sa.PrimaryKeyConstraint("id", name="pk_exports"),
    )
    op.create_table(
        "export_items",
        _text("export_id"),
        _text("user_id"),
        sa.PrimaryKeyConstraint("export_id", "user_id", name="pk_export_items"),
        sa.ForeignKeyConstraint(["export_id"], ["exports.id"], name="fk_export_items_export_id_exports"),
    )
    op.create_index("ix_export_items_user_id", "export_items", ["user_id"])
    op.create_table(
        "adapters",
        _text("id"),
        _text("export_id"),
        _text("name"),
        _text("sha256", null=True),
        _text("trained_at"),
        _text("retired_at", null=True),
        sa.PrimaryKeyConstraint("id", name="pk_adapters"),
        sa.ForeignKeyConstraint(["export_id"], ["exports.id"], name="fk_adapters_export_id_exports"),
    )
    op.create_index("ix_adapters_export_id", "adapters", ["export_id"])
    op.create_table(
        "erasures",
        _text("id"),
        _text("user_id"),
        _text("receipt"),
        _text("signature"),
        _text("at"),
        _text("by"),
        sa.PrimaryKeyConstraint("id", name="pk_erasures"),
    )
    op.create_index("ix_erasures_user_id", "erasures", ["user_id"])
    forbid_changes("erasures", key="id")


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null)


def _whole(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, autoincrement=False)
