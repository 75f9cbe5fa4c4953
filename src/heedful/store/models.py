"""All tables. Columns with the words or the health data of a person are `sealed`; see `columns.py`.

Ids are 32 hex digits made by us (never by the database), so that a row can be sealed before it is written and a backup
of one back end goes into the other. Where order matters it is a number (`sequence`, `position`), never a clock.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, ForeignKey, Index, Integer, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from heedful.store.columns import Base, Erase, sealed


def _id() -> Mapped[str]:
    return mapped_column(primary_key=True)


def _to(target: str) -> Mapped[Any]:
    return mapped_column(ForeignKey(target), index=True)


class User(Base):
    """Who may come in. An erased help-seeker leaves the bare id, so that the ledgers still add up."""

    __tablename__ = "users"
    erase = Erase(by="id", how="clear")

    id: Mapped[str] = _id()
    role: Mapped[str]
    name: Mapped[bytes | None] = sealed()
    name_digest: Mapped[str | None] = mapped_column(unique=True)
    password_hash: Mapped[bytes | None] = sealed()
    totp_secret: Mapped[bytes | None] = sealed()
    language: Mapped[str]
    disabled: Mapped[bool] = mapped_column(Boolean)
    adult_from: Mapped[bytes | None] = sealed("json")
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    erased_at: Mapped[datetime | None]
    confirmed_at: Mapped[datetime | None]
    confirmed_by: Mapped[str | None]


class Session(Base):
    """A login. Only the hash of its token is known here."""

    __tablename__ = "sessions"
    erase = Erase(by="user_id", how="delete")

    id: Mapped[str] = _id()
    user_id: Mapped[str] = _to("users.id")
    token_hash: Mapped[str] = mapped_column(unique=True)
    second_factor_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class Thread(Base):
    """One conversation and who answers for it."""

    __tablename__ = "threads"
    erase = Erase(by="help_seeker", how="clear")

    id: Mapped[str] = _id()
    help_seeker: Mapped[str] = _to("users.id")
    owner: Mapped[str | None] = _to("users.id")
    state: Mapped[str] = mapped_column(index=True)
    profile: Mapped[str]
    risk_level: Mapped[int] = mapped_column(Integer)
    risk_highest: Mapped[int] = mapped_column(Integer)
    risk_state: Mapped[bytes | None] = sealed("json")
    version: Mapped[int] = mapped_column(Integer)
    opened_at: Mapped[datetime]
    opened_by: Mapped[str]
    changed_at: Mapped[datetime]
    changed_by: Mapped[str]
    closed_at: Mapped[datetime | None]
    closed_by: Mapped[str | None]
    closed_reason: Mapped[bytes | None] = sealed()
    drafts_stopped: Mapped[str | None]
    watched_at: Mapped[datetime | None]
    watched_by: Mapped[str | None]


class Turn(Base):
    """One message. `client_id` is made where it was written: a second submit of it is the same turn."""

    __tablename__ = "turns"
    __table_args__ = (UniqueConstraint("thread_id", "sequence"), UniqueConstraint("thread_id", "client_id"))
    erase = Erase(by="thread_id", how="delete")

    id: Mapped[str] = _id()
    thread_id: Mapped[str] = mapped_column(ForeignKey("threads.id"))
    sequence: Mapped[int] = mapped_column(Integer)
    client_id: Mapped[str]
    role: Mapped[str]
    text: Mapped[bytes] = sealed()
    author: Mapped[str | None]
    created_at: Mapped[datetime]


class Draft(Base):
    """What the model would say, with its reasons, until a person decides."""

    __tablename__ = "drafts"
    erase = Erase(by="thread_id", how="delete")

    id: Mapped[str] = _id()
    thread_id: Mapped[str] = _to("threads.id")
    turn_id: Mapped[str] = _to("turns.id")
    job_id: Mapped[str | None] = mapped_column(unique=True)
    state: Mapped[str] = mapped_column(index=True)
    text: Mapped[bytes] = sealed()
    reasons: Mapped[bytes] = sealed("json")
    model: Mapped[str]
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str | None]
    decision_reason: Mapped[bytes | None] = sealed()
    sent_turn_id: Mapped[str | None] = _to("turns.id")


class Decision(Base):
    """Append-only: who decided what, and when. The words of it lie in `drafts` and can be erased."""

    __tablename__ = "decisions"
    __table_args__ = (UniqueConstraint("thread_id", "position"),)
    erase = Erase(by="thread_id", how="keep")

    id: Mapped[str] = _id()
    thread_id: Mapped[str]
    position: Mapped[int] = mapped_column(Integer)
    draft_id: Mapped[str | None]
    action: Mapped[str]
    by: Mapped[str]
    at: Mapped[datetime]
    facts: Mapped[dict[str, Any]]


class Note(Base):
    """A reason that a person gave for changing a thread (lowering a risk, taking over, handing back)."""

    __tablename__ = "notes"
    erase = Erase(by="thread_id", how="delete")

    id: Mapped[str] = _id()
    thread_id: Mapped[str] = _to("threads.id")
    kind: Mapped[str]
    text: Mapped[bytes] = sealed()
    by: Mapped[str]
    at: Mapped[datetime]


class CaseNote(Base):
    """A clinician's note on a conversation, or a plan for the help-seeker, written with a model's help or without."""

    __tablename__ = "case_notes"
    erase = Erase(by="thread_id", how="delete")

    id: Mapped[str] = _id()
    thread_id: Mapped[str] = _to("threads.id")
    kind: Mapped[str]
    author: Mapped[str]
    text: Mapped[bytes] = sealed()
    model: Mapped[str | None]
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    changed_by: Mapped[str]
    shared_at: Mapped[datetime | None]


class Signature(Base):
    """Append-only: who signed or reviewed which words, as a keyed digest. The words lie elsewhere and can be erased."""

    __tablename__ = "signatures"
    erase = Erase()

    id: Mapped[str] = _id()
    object: Mapped[str] = mapped_column(index=True)
    kind: Mapped[str]
    digest: Mapped[str]
    by: Mapped[str]
    at: Mapped[datetime]


class ProblemReport(Base):
    """What somebody reported about the service. An erased person leaves the bare facts."""

    __tablename__ = "problem_reports"
    erase = Erase(by="user_id", how="clear")

    id: Mapped[str] = _id()
    user_id: Mapped[str] = _to("users.id")
    role: Mapped[str]
    kind: Mapped[str]
    state: Mapped[str]
    text: Mapped[bytes | None] = sealed()
    outcome: Mapped[bytes | None] = sealed()
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime]
    changed_by: Mapped[str]
    closed_at: Mapped[datetime | None]
    closed_by: Mapped[str | None]


class Trace(Base):
    """How a reply came about."""

    __tablename__ = "traces"
    erase = Erase(by="thread_id", how="delete")

    id: Mapped[str] = _id()
    thread_id: Mapped[str] = _to("threads.id")
    turn_id: Mapped[str | None]
    draft_id: Mapped[str | None]
    system: Mapped[str]
    trace: Mapped[bytes] = sealed("trace")
    created_at: Mapped[datetime]


class Label(Base):
    """One label of a turn or of a whole thread; corrections are new rows."""

    __tablename__ = "labels"
    erase = Erase(by="thread_id", how="delete")

    id: Mapped[str] = _id()
    thread_id: Mapped[str] = _to("threads.id")
    turn_id: Mapped[str | None]
    label_set: Mapped[str]
    label: Mapped[bytes] = sealed("label")
    by: Mapped[str | None]
    created_at: Mapped[datetime]


class Score(Base):
    """One judgement; corrections are new rows."""

    __tablename__ = "scores"
    erase = Erase(by="thread_id", how="delete")

    id: Mapped[str] = _id()
    thread_id: Mapped[str] = _to("threads.id")
    trace_id: Mapped[str | None]
    name: Mapped[str]
    score: Mapped[bytes] = sealed("score")
    by: Mapped[str | None]
    created_at: Mapped[datetime]


class Consent(Base):
    """Append-only ledger: one entry per purpose given or withdrawn, with the wording that was agreed to."""

    __tablename__ = "consents"
    __table_args__ = (UniqueConstraint("user_id", "position"),)
    erase = Erase(by="user_id", how="keep")

    id: Mapped[str] = _id()
    user_id: Mapped[str]
    position: Mapped[int] = mapped_column(Integer)
    purpose: Mapped[str]
    action: Mapped[str]
    wording: Mapped[str]
    version: Mapped[str]
    language: Mapped[str]
    by: Mapped[str]
    at: Mapped[datetime]


class Notice(Base):
    """Proof that a disclosure was shown: which wording, which version, when."""

    __tablename__ = "notices"
    erase = Erase(by="user_id", how="keep")

    id: Mapped[str] = _id()
    user_id: Mapped[str | None] = mapped_column(index=True)
    thread_id: Mapped[str | None]
    moment: Mapped[str]
    wording: Mapped[str]
    version: Mapped[str]
    language: Mapped[str]
    at: Mapped[datetime]


class RiskEvent(Base):
    """What the crisis path noticed and did. No words of the person."""

    __tablename__ = "risk_events"
    erase = Erase(by="thread_id", how="keep")

    id: Mapped[str] = _id()
    thread_id: Mapped[str] = _to("threads.id")
    turn_id: Mapped[str | None]
    level: Mapped[int] = mapped_column(Integer)
    source: Mapped[str]
    rules: Mapped[list[Any]]
    action: Mapped[str]
    person: Mapped[str | None]
    at: Mapped[datetime]


class Task(Base):
    """Something that a person has to do by a time: follow up, take over."""

    __tablename__ = "tasks"
    erase = Erase(by="help_seeker", how="clear")

    id: Mapped[str] = _id()
    kind: Mapped[str]
    thread_id: Mapped[str | None] = _to("threads.id")
    help_seeker: Mapped[str | None] = _to("users.id")
    owner: Mapped[str | None]
    text: Mapped[bytes | None] = sealed()
    outcome: Mapped[bytes | None] = sealed()
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    due_at: Mapped[datetime] = mapped_column(index=True)
    changed_by: Mapped[str]
    done_at: Mapped[datetime | None]
    done_by: Mapped[str | None]


class Checkin(Base):
    """An answered questionnaire (PHQ-9, GAD-7, mood)."""

    __tablename__ = "checkins"
    erase = Erase(by="help_seeker", how="delete")

    id: Mapped[str] = _id()
    help_seeker: Mapped[str] = _to("users.id")
    instrument: Mapped[str]
    answers: Mapped[bytes] = sealed("json")
    total: Mapped[bytes | None] = sealed("json")
    created_at: Mapped[datetime]


class Exercise(Base):
    """A structured exercise that somebody filled in."""

    __tablename__ = "exercises"
    erase = Erase(by="help_seeker", how="delete")

    id: Mapped[str] = _id()
    help_seeker: Mapped[str] = _to("users.id")
    kind: Mapped[str]
    answers: Mapped[bytes] = sealed("json")
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]


class MemoryItem(Base):
    """What is remembered of a help-seeker: visible, editable, with the turn it comes from."""

    __tablename__ = "memory_items"
    erase = Erase(by="help_seeker", how="delete")

    id: Mapped[str] = _id()
    help_seeker: Mapped[str] = _to("users.id")
    text: Mapped[bytes] = sealed()
    turn_id: Mapped[str | None]
    created_at: Mapped[datetime]
    edited_at: Mapped[datetime | None]
    edited_by: Mapped[str | None]


class ResourceOverride(Base):
    """A crisis line that this clinic added, changed or took off its list."""

    __tablename__ = "resource_overrides"
    erase = Erase()

    id: Mapped[str] = _id()
    country: Mapped[str]
    language: Mapped[str]
    entry: Mapped[dict[str, Any]]
    removed: Mapped[bool] = mapped_column(Boolean)
    checked_on: Mapped[str | None]
    changed_at: Mapped[datetime]
    changed_by: Mapped[str]


class Job(Base):
    """Work for the generation queue. `key` says what it is for: there is never a second job for it."""

    __tablename__ = "jobs"
    __table_args__ = (Index(None, "state", "created_at"),)
    erase = Erase(by="thread_id", how="delete")

    id: Mapped[str] = _id()
    kind: Mapped[str]
    key: Mapped[str] = mapped_column(unique=True)
    thread_id: Mapped[str | None] = _to("threads.id")
    payload: Mapped[bytes | None] = sealed("json")
    state: Mapped[str]
    attempts: Mapped[int] = mapped_column(Integer)
    most_attempts: Mapped[int] = mapped_column(Integer)
    worker: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error: Mapped[str | None]


class Counter(Base):
    """A number for a yearly report. No identifiers."""

    __tablename__ = "counters"
    erase = Erase()

    name: Mapped[str] = mapped_column(primary_key=True)
    period: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)


class AuditEntry(Base):
    """Append-only chain: each row carries the hash of the one before."""

    __tablename__ = "audit"
    erase = Erase()

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    actor: Mapped[str]
    action: Mapped[str]
    object: Mapped[str] = mapped_column(index=True)
    facts: Mapped[dict[str, Any]]
    previous: Mapped[str]
    hash: Mapped[str]


class AuditHead(Base):
    """Where the chain ends, signed: rows cut off its end are missed, and writers queue here."""

    __tablename__ = "audit_head"
    erase = Erase()

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[str]
    signature: Mapped[str]


class Export(Base):
    """A file that left the store."""

    __tablename__ = "exports"
    erase = Erase()

    id: Mapped[str] = _id()
    kind: Mapped[str]
    purpose: Mapped[str]
    name: Mapped[str]
    rows: Mapped[int] = mapped_column(Integer)
    sha256: Mapped[str]
    by: Mapped[str]
    at: Mapped[datetime]


class ExportItem(Base):
    """Whose data an export holds."""

    __tablename__ = "export_items"
    erase = Erase(by="user_id", how="keep")

    export_id: Mapped[str] = mapped_column(ForeignKey("exports.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True, index=True)


class Adapter(Base):
    """A model that was trained on an export: weights cannot forget, so it is retired or trained again."""

    __tablename__ = "adapters"
    erase = Erase()

    id: Mapped[str] = _id()
    export_id: Mapped[str] = _to("exports.id")
    name: Mapped[str]
    sha256: Mapped[str | None]
    trained_at: Mapped[datetime]
    retired_at: Mapped[datetime | None]


class Erasure(Base):
    """Append-only: the signed receipt of a deletion."""

    __tablename__ = "erasures"
    erase = Erase(by="user_id", how="keep")

    id: Mapped[str] = _id()
    user_id: Mapped[str] = mapped_column(index=True)
    receipt: Mapped[dict[str, Any]]
    signature: Mapped[str]
    at: Mapped[datetime]
    by: Mapped[str]


class ProfileCheck(Base):
    """Append-only: who compared a profile with the text of its law, and when. The hash says which file it was."""

    __tablename__ = "profile_checks"
    erase = Erase()

    id: Mapped[str] = _id()
    profile: Mapped[str]
    version: Mapped[str]
    hash: Mapped[str]
    checker: Mapped[str]
    checked: Mapped[str]
    by: Mapped[str]
    at: Mapped[datetime]


class Meta(Base):
    """What the store knows of itself: its id, and which keys it belongs to."""

    __tablename__ = "meta"
    erase = Erase()

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


APPEND_ONLY = ("audit", "decisions", "consents", "erasures", "signatures", "profile_checks")
"""Tables whose rows no statement may change or delete; triggers refuse it (see `migrations`)."""
