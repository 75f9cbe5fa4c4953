"""0004: notes and plans with their signatures, reports of problems, known minors, drafts that stop, who watches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from heedful.store.migrations.append_only import forbid_changes

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Three tables and four columns; signatures are append-only."""
    op.add_column("users", sa.Column("adult_from", sa.LargeBinary, nullable=True))
    for name in ("drafts_stopped", "watched_at", "watched_by"):
        op.add_column("threads", _text(name, null=True))
    op.create_table(
        "case_notes",
        _text("id"),
        _text("thread_id"),
        _text("kind"),
        _text("author"),
        _blob("text"),
        _text("model", null=True),
        _whole("version"),
        _text("created_at"),
        _text("changed_at"),
        _text("changed_by"),
        _text("shared_at", null=True),
        sa.PrimaryKeyConstraint("id", name="pk_case_notes"),
        sa.ForeignKeyConstraint(["thread_id"], ["threads.id"], name="fk_case_notes_thread_id_threads"),
    )
    op.create_index("ix_case_notes_thread_id", "case_notes", ["thread_id"])
    op.create_table(
        "signatures",
        _text("id"),
        _text("object"),
        _text("kind"),
        _text("digest"),
        _text("by"),
        _text("at"),
        sa.PrimaryKeyConstraint("id", name="pk_signatures"),
    )
    op.create_index("ix_signatures_object", "signatures", ["object"])
    forbid_changes("signatures", key="id")
    op.create_table(
        "problem_reports",
        _text("id"),
        _text("user_id"),
        _text("role"),
        _text("kind"),
        _text("state"),
        _blob("text", null=True),
        _blob("outcome", null=True),
        _whole("version"),
        _text("created_at"),
        _text("changed_by"),
        _text("closed_at", null=True),
        _text("closed_by", null=True),
        sa.PrimaryKeyConstraint("id", name="pk_problem_reports"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_problem_reports_user_id_users"),
    )
    op.create_index("ix_problem_reports_user_id", "problem_reports", ["user_id"])


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null)


def _blob(name: str, *, null: bool = False) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=null)


def _whole(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, autoincrement=False)
