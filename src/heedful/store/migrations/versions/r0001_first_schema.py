"""0001: the first schema: people, talks, drafts, care, and the audit chain."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    """All tables of the first schema."""
    _people()
    _ledgers()
    _talks()
    _around()
    _drafts()
    _judgements()
    _care()
    _house()


def _people() -> None:
    op.create_table(
        "users",
        _text("id"),
        _text("role"),
        _blob("name", null=True),
        _text("name_digest", null=True),
        _blob("password_hash", null=True),
        _blob("totp_secret", null=True),
        _text("language"),
        _flag("disabled"),
        _text("created_at"),
        _text("changed_at"),
        _text("erased_at", null=True),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("name_digest", name="uq_users_name_digest"),
    )
    op.create_table(
        "sessions",
        _text("id"),
        _text("user_id"),
        _text("token_hash"),
        _text("second_factor_at", null=True),
        _text("created_at"),
        _text("seen_at"),
        _text("expires_at"),
        _text("revoked_at", null=True),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.UniqueConstraint("token_hash", name="uq_sessions_token_hash"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_sessions_user_id_users"),
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])


def _ledgers() -> None:
    op.create_table(
        "consents",
        _text("id"),
        _text("user_id"),
        _whole("position"),
        _text("purpose"),
        _text("action"),
        _text("wording"),
        _text("version"),
        _text("language"),
        _text("by"),
        _text("at"),
        sa.PrimaryKeyConstraint("id", name="pk_consents"),
        sa.UniqueConstraint("user_id", "position", name="uq_consents_user_id_position"),
    )
    op.create_table(
        "notices",
        _text("id"),
        _text("user_id", null=True),
        _text("thread_id", null=True),
        _text("moment"),
        _text("wording"),
        _text("version"),
        _text("language"),
        _text("at"),
        sa.PrimaryKeyConstraint("id", name="pk_notices"),
    )
    op.create_index("ix_notices_user_id", "notices", ["user_id"])
    op.create_table(
        "decisions",
        _text("id"),
        _text("thread_id"),
        _whole("position"),
        _text("draft_id", null=True),
        _text("action"),
        _text("by"),
        _text("at"),
        _text("facts"),
        sa.PrimaryKeyConstraint("id", name="pk_decisions"),
        sa.UniqueConstraint("thread_id", "position", name="uq_decisions_thread_id_position"),
    )


def _talks() -> None:
    op.create_table(
        "threads",
        _text("id"),
        _text("help_seeker"),
        _text("owner", null=True),
        _text("state"),
        _text("profile"),
        _whole("risk_level"),
        _whole("risk_highest"),
        _blob("risk_state", null=True),
        _whole("version"),
        _text("opened_at"),
        _text("opened_by"),
        _text("changed_at"),
        _text("changed_by"),
        _text("closed_at", null=True),
        _text("closed_by", null=True),
        _blob("closed_reason", null=True),
        sa.PrimaryKeyConstraint("id", name="pk_threads"),
        sa.ForeignKeyConstraint(["help_seeker"], ["users.id"], name="fk_threads_help_seeker_users"),
        sa.ForeignKeyConstraint(["owner"], ["users.id"], name="fk_threads_owner_users"),
    )
    op.create_index("ix_threads_help_seeker", "threads", ["help_seeker"])
    op.create_index("ix_threads_owner", "threads", ["owner"])
    op.create_index("ix_threads_state", "threads", ["state"])
    op.create_table(
        "turns",
        _text("id"),
        _text("thread_id"),
        _whole("sequence"),
        _text("client_id"),
        _text("role"),
        _blob("text"),
        _text("author", null=True),
        _text("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_turns"),
        sa.UniqueConstraint("thread_id", "client_id", name="uq_turns_thread_id_client_id"),
        sa.UniqueConstraint("thread_id", "sequence", name="uq_turns_thread_id_sequence"),
        sa.ForeignKeyConstraint(["thread_id"], ["threads.id"], name="fk_turns_thread_id_threads"),
    )


def _around() -> None:
    op.create_table(
        "notes",
        _text("id"),
        _text("thread_id"),
        _text("kind"),
        _blob("text"),
        _text("by"),
        _text("at"),
        sa.PrimaryKeyConstraint("id", name="pk_notes"),
        sa.ForeignKeyConstraint(["thread_id"], ["threads.id"], name="fk_notes_thread_id_threads"),
    )
    op.create_index("ix_notes_thread_id", "notes", ["thread_id"])
    op.create_table(
        "risk_events",
        _text("id"),
        _text("thread_id"),
        _text("turn_id", null=True),
        _whole("level"),
        _text("source"),
        _text("rules"),
        _text("action"),
        _text("person", null=True),
        _text("at"),
        sa.PrimaryKeyConstraint("id", name="pk_risk_events"),
        sa.ForeignKeyConstraint(["thread_id"], ["threads.id"], name="fk_risk_events_thread_id_threads"),
    )
    op.create_index("ix_risk_events_thread_id", "risk_events", ["thread_id"])
    op.create_table(
        "tasks",
        _text("id"),
        _text("kind"),
        _text("thread_id", null=True),
        _text("help_seeker", null=True),
        _text("owner", null=True),
        _blob("text", null=True),
        _blob("outcome", null=True),
        _whole("version"),
        _text("created_at"),
        _text("created_by"),
        _text("due_at"),
        _text("changed_by"),
        _text("done_at", null=True),
        _text("done_by", null=True),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        sa.ForeignKeyConstraint(["help_seeker"], ["users.id"], name="fk_tasks_help_seeker_users"),
        sa.ForeignKeyConstraint(["thread_id"], ["threads.id"], name="fk_tasks_thread_id_threads"),
    )
    op.create_index("ix_tasks_due_at", "tasks", ["due_at"])
    op.create_index("ix_tasks_help_seeker", "tasks", ["help_seeker"])
    op.create_index("ix_tasks_thread_id", "tasks", ["thread_id"])


def _drafts() -> None:
    op.create_table(
        "drafts",
        _text("id"),
        _text("thread_id"),
        _text("turn_id"),
        _text("job_id", null=True),
        _text("state"),
        _blob("text"),
        _blob("reasons"),
        _text("model"),
        _whole("version"),
        _text("created_at"),
        _text("expires_at", null=True),
        _text("decided_at", null=True),
        _text("decided_by", null=True),
        _blob("decision_reason", null=True),
        _text("sent_turn_id", null=True),
        sa.PrimaryKeyConstraint("id", name="pk_drafts"),
        sa.UniqueConstraint("job_id", name="uq_drafts_job_id"),
        sa.ForeignKeyConstraint(["sent_turn_id"], ["turns.id"], name="fk_drafts_sent_turn_id_turns"),
        sa.ForeignKeyConstraint(["thread_id"], ["threads.id"], name="fk_drafts_thread_id_threads"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_drafts_turn_id_turns"),
    )
    op.create_index("ix_drafts_sent_turn_id", "drafts", ["sent_turn_id"])
    op.create_index("ix_drafts_state", "drafts", ["state"])
    op.create_index("ix_drafts_thread_id", "drafts", ["thread_id"])
    op.create_index("ix_drafts_turn_id", "drafts", ["turn_id"])
    op.create_table(
        "jobs",
        _text("id"),
        _text("kind"),
        _text("key"),
        _text("thread_id", null=True),
        _blob("payload", null=True),
        _text("state"),
        _whole("attempts"),
        _whole("most_attempts"),
        _text("worker", null=True),
        _text("lease_until", null=True),
        _text("created_at"),
        _text("started_at", null=True),
        _text("finished_at", null=True),
        _text("error", null=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("key", name="uq_jobs_key"),
        sa.ForeignKeyConstraint(["thread_id"], ["threads.id"], name="fk_jobs_thread_id_threads"),
    )
    op.create_index("ix_jobs_state_created_at", "jobs", ["state", "created_at"])
    op.create_index("ix_jobs_thread_id", "jobs", ["thread_id"])


def _judgements() -> None:
    op.create_table(
        "traces",
        _text("id"),
        _text("thread_id"),
        _text("turn_id", null=True),
        _text("draft_id", null=True),
        _text("system"),
        _blob("trace"),
        _text("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_traces"),
        sa.ForeignKeyConstraint(["thread_id"], ["threads.id"], name="fk_traces_thread_id_threads"),
    )
    op.create_index("ix_traces_thread_id", "traces", ["thread_id"])
    op.create_table(
        "labels",
        _text("id"),
        _text("thread_id"),
        _text("turn_id", null=True),
        _text("label_set"),
        _blob("label"),
        _text("by", null=True),
        _text("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_labels"),
        sa.ForeignKeyConstraint(["thread_id"], ["threads.id"], name="fk_labels_thread_id_threads"),
    )
    op.create_index("ix_labels_thread_id", "labels", ["thread_id"])
    op.create_table(
        "scores",
        _text("id"),
        _text("thread_id"),
        _text("trace_id", null=True),
        _text("name"),
        _blob("score"),
        _text("by", null=True),
        _text("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_scores"),
        sa.ForeignKeyConstraint(["thread_id"], ["threads.id"], name="fk_scores_thread_id_threads"),
    )
    op.create_index("ix_scores_thread_id", "scores", ["thread_id"])


def _care() -> None:
    op.create_table(
        "checkins",
        _text("id"),
        _text("help_seeker"),
        _text("instrument"),
        _blob("answers"),
        _blob("total", null=True),
        _text("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_checkins"),
        sa.ForeignKeyConstraint(["help_seeker"], ["users.id"], name="fk_checkins_help_seeker_users"),
    )
    op.create_index("ix_checkins_help_seeker", "checkins", ["help_seeker"])
    op.create_table(
        "exercises",
        _text("id"),
        _text("help_seeker"),
        _text("kind"),
        _blob("answers"),
        _text("created_at"),
        _text("changed_at"),
        sa.PrimaryKeyConstraint("id", name="pk_exercises"),
        sa.ForeignKeyConstraint(["help_seeker"], ["users.id"], name="fk_exercises_help_seeker_users"),
    )
    op.create_index("ix_exercises_help_seeker", "exercises", ["help_seeker"])
    op.create_table(
        "memory_items",
        _text("id"),
        _text("help_seeker"),
        _blob("text"),
        _text("turn_id", null=True),
        _text("created_at"),
        _text("edited_at", null=True),
        _text("edited_by", null=True),
        sa.PrimaryKeyConstraint("id", name="pk_memory_items"),
        sa.ForeignKeyConstraint(["help_seeker"], ["users.id"], name="fk_memory_items_help_seeker_users"),
    )
    op.create_index("ix_memory_items_help_seeker", "memory_items", ["help_seeker"])
    op.create_table(
        "resource_overrides",
        _text("id"),
        _text("country"),
        _text("language"),
        _text("entry"),
        _flag("removed"),
        _text("checked_on", null=True),
        _text("changed_at"),
        _text("changed_by"),
        sa.PrimaryKeyConstraint("id", name="pk_resource_overrides"),
    )


def _house() -> None:
    op.create_table(
        "meta",
        _text("name"),
        _text("value"),
        sa.PrimaryKeyConstraint("name", name="pk_meta"),
    )
    op.create_table(
        "counters",
        _text("name"),
        _text("period"),
        _long("value"),
        sa.PrimaryKeyConstraint("name", "period", name="pk_counters"),
    )
    op.create_table(
        "audit",
        _long("seq"),
        _text("at"),
        _text("actor"),
        _text("action"),
        _text("object"),
        _text("facts"),
        _text("previous"),
        _text("hash"),
        sa.PrimaryKeyConstraint("seq", name="pk_audit"),
    )
    op.create_index("ix_audit_object", "audit", ["object"])
    op.create_table(
        "audit_head",
        _whole("id"),
        _long("seq"),
        _text("hash"),
        _text("signature"),
        sa.PrimaryKeyConstraint("id", name="pk_audit_head"),
    )


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null)


def _blob(name: str, *, null: bool = False) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=null)


def _whole(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, autoincrement=False)


def _long(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, autoincrement=False)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False)
