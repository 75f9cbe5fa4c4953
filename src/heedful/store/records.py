"""What the store returns: frozen records. Words of people are left out of every `repr`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from heedful.types import Label, Score, Trace
from heedful.types._frozen import EMPTY


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who may come in. After an erasure only the id is left.

    Args:
        adult_from: of a known minor, the year from which the account counts as an adult's; 0 = said to be an adult;
            None = nobody said.
        confirmed_at, confirmed_by: when a colleague said that this account is who it says, and who did; None = nobody,
            so an account of staff reads nothing (`Users.confirm`).
    """

    id: str
    role: str
    name: str | None = field(repr=False)
    name_digest: str | None = field(default=None, repr=False)
    password_hash: str | None = field(default=None, repr=False)
    totp_secret: str | None = field(default=None, repr=False)
    language: str = "en"
    disabled: bool = False
    created_at: datetime
    changed_at: datetime
    erased_at: datetime | None = None
    adult_from: int | None = field(default=None, repr=False)
    confirmed_at: datetime | None = None
    confirmed_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A login; `second_factor_at` = when the second factor was shown, if it was."""

    id: str
    user_id: str
    token_hash: str = field(repr=False)
    second_factor_at: datetime | None = None
    created_at: datetime
    seen_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None

    def valid(self, now: datetime) -> bool:
        """Whether it is neither revoked nor past its time."""
        return self.revoked_at is None and now < self.expires_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """One conversation. `version` grows with each change: give it back to change what you saw.

    Args:
        risk_level: 0 = no sign; the scale is that of `heedful.safety`.
        risk_highest: the highest level there ever was.
        risk_state: what the crisis path remembers, sealed.
        drafts_stopped: why no model drafts here any more (`stop-rule`, `consent`); None = it may.
        watched_at, watched_by: when a member of staff last had it open, and who.
    """

    id: str
    help_seeker: str
    owner: str | None = None
    state: str = "ai_assisted"
    profile: str = "strict"
    risk_level: int = 0
    risk_highest: int = 0
    risk_state: Mapping[str, Any] | None = field(default=None, repr=False)
    version: int = 1
    opened_at: datetime
    opened_by: str
    changed_at: datetime
    changed_by: str
    closed_at: datetime | None = None
    closed_by: str | None = None
    closed_reason: str | None = field(default=None, repr=False)
    drafts_stopped: str | None = None
    watched_at: datetime | None = None
    watched_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTurn:
    """One message; `role` as in `heedful.types.Turn`. `author` is the id of the person who stands behind it."""

    id: str
    thread_id: str
    sequence: int
    client_id: str
    role: str
    text: str = field(repr=False)
    author: str | None = None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What the model would say. `reasons`: strategy, emotion, sources, plan, prompt, model version, uncertainty."""

    id: str
    thread_id: str
    turn_id: str
    job_id: str | None = None
    state: str = "drafted"
    text: str = field(repr=False)
    reasons: Mapping[str, Any] = field(default_factory=lambda: EMPTY, repr=False)
    model: str
    version: int = 1
    created_at: datetime
    expires_at: datetime | None = None
    decided_at: datetime | None = None
    decided_by: str | None = None
    decision_reason: str | None = field(default=None, repr=False)
    sent_turn_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Append-only: who decided what, without words."""

    id: str
    thread_id: str
    position: int
    draft_id: str | None = None
    action: str
    by: str
    at: datetime
    facts: Mapping[str, Any] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A reason that a person gave for changing a thread."""

    id: str
    thread_id: str
    kind: str
    text: str = field(repr=False)
    by: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseNote:
    """A note or plan of a clinician. `model` = name of the model that drafted it; `shared_at` = shown to the client."""

    id: str
    thread_id: str
    kind: str
    author: str
    text: str = field(repr=False)
    model: str | None = None
    version: int = 1
    created_at: datetime
    changed_at: datetime
    changed_by: str
    shared_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Who signed (`author`) or reviewed (`review`) which words; `digest` is keyed."""

    id: str
    object: str
    kind: str
    digest: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemReport:
    """What somebody reported about the service; `state` is `open` or `closed`."""

    id: str
    user_id: str
    role: str
    kind: str
    state: str = "open"
    text: str | None = field(default=None, repr=False)
    outcome: str | None = field(default=None, repr=False)
    version: int = 1
    created_at: datetime
    changed_by: str
    closed_at: datetime | None = None
    closed_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTrace:
    """A trace with its place in the store."""

    id: str
    thread_id: str
    turn_id: str | None = None
    draft_id: str | None = None
    system: str
    trace: Trace
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLabel:
    """A label with its place in the store; `turn_id` None = the whole talk."""

    id: str
    thread_id: str
    turn_id: str | None = None
    label_set: str
    label: Label = field(repr=False)
    by: str | None = None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredScore:
    """A score with its place in the store."""

    id: str
    thread_id: str
    trace_id: str | None = None
    name: str
    score: Score = field(repr=False)
    by: str | None = None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """One entry of the ledger: `action` is `given` or `withdrawn`."""

    id: str
    user_id: str
    position: int
    purpose: str
    action: str
    wording: str = field(repr=False)
    version: str
    language: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Proof that a disclosure was shown."""

    id: str
    user_id: str | None = None
    thread_id: str | None = None
    moment: str
    wording: str = field(repr=False)
    version: str
    language: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskEvent:
    """What the crisis path noticed and did; `rules` are names with versions, or one model version."""

    id: str
    thread_id: str
    turn_id: str | None = None
    level: int
    source: str
    rules: tuple[str, ...] = ()
    action: str
    person: str | None = None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Something that a person has to do by `due_at`."""

    id: str
    kind: str
    thread_id: str | None = None
    help_seeker: str | None = None
    owner: str | None = None
    text: str | None = field(default=None, repr=False)
    outcome: str | None = field(default=None, repr=False)
    version: int = 1
    created_at: datetime
    created_by: str
    due_at: datetime
    changed_by: str
    done_at: datetime | None = None
    done_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkin:
    """An answered questionnaire."""

    id: str
    help_seeker: str
    instrument: str
    answers: Mapping[str, Any] = field(repr=False)
    total: int | None = field(default=None, repr=False)
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
    """A structured exercise that somebody filled in."""

    id: str
    help_seeker: str
    kind: str
    answers: Mapping[str, Any] = field(repr=False)
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryItem:
    """What is remembered, with the turn it comes from."""

    id: str
    help_seeker: str
    text: str = field(repr=False)
    turn_id: str | None = None
    created_at: datetime
    edited_at: datetime | None = None
    edited_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceOverride:
    """A crisis line that this clinic added, changed or (`removed`) took off its list."""

    id: str
    country: str
    language: str
    entry: Mapping[str, Any]
    removed: bool = False
    checked_on: str | None = None
    changed_at: datetime
    changed_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Work for the queue. `attempts` is also the token of the lease: a worker whose number is old may not finish."""

    id: str
    kind: str
    key: str
    thread_id: str | None = None
    payload: Mapping[str, Any] | None = field(default=None, repr=False)
    state: str = "queued"
    attempts: int = 0
    most_attempts: int = 3
    worker: str | None = None
    lease_until: datetime | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One link of the chain."""

    seq: int
    at: datetime
    actor: str
    action: str
    object: str
    facts: Mapping[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A file that left the store."""

    id: str
    kind: str
    purpose: str
    name: str
    rows: int
    sha256: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileCheck:
    """Somebody compared a profile with the text of its law: `checker` on the day `checked`; `by` entered it."""

    id: str
    profile: str
    version: str
    hash: str
    checker: str
    checked: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A model that was trained on an export."""

    id: str
    export_id: str
    name: str
    sha256: str | None = None
    trained_at: datetime
    retired_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a deletion did: counts per table, models that had learned from the data, and the signature over it."""

    id: str
    user_id: str
    receipt: Mapping[str, Any]
    signature: str
    at: datetime
    by: str
