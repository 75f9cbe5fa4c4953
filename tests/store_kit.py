"""What tests of the store share: cheap keys, people, a conversation, and a clock that can be set."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the tests of other parts run without the extra that these belong to
    from heedful.privacy import Keys
    from heedful.store import Store

PHRASE = "correct horse battery staple"
CHEAP = {"memory_kib": 64, "iterations": 1, "lanes": 1}
SECRET = "ZZplantedZZ"
"""A word that must not show up anywhere outside of an opened field."""


class Clock:
    """A clock that only tests move."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def forward(self, **by: float) -> None:
        self.at += timedelta(**by)


def make_keys(folder: Path) -> Keys:
    """A key file that opens quickly."""
    from heedful.privacy import Keys

    return Keys.create(folder / "keys.json", PHRASE, cost=CHEAP)


def open_store(url: str, keys: Keys, clock: Clock | None = None) -> Store:
    """A store with a clock that stands still, or with that of the machine."""
    from heedful.store import Store

    return Store.open(url, keys, clock=clock) if clock else Store.open(url, keys)


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Ids of people and of one conversation between them."""

    anna: str
    clara: str
    carl: str
    admin: str
    thread: str


def cast(store: Store) -> Cast:
    """Anna seeks help; Clara and Carl are clinicians; one conversation of two turns."""
    with store.begin() as unit:
        admin = unit.users.add(role="admin", name="root admin", by="setup")
        anna = unit.users.add(role="help_seeker", name=f"Anna {SECRET}", by=admin.id, language="de")
        clara = unit.users.add(role="clinician", name="Clara", by=admin.id, password_hash="$argon2id$x")
        carl = unit.users.add(role="clinician", name="Carl", by=admin.id)
        thread = unit.threads.open(help_seeker=anna.id, by=anna.id)
        unit.turns.add(thread=thread.id, client_id="a-1", role="user", text=f"I slept badly. {SECRET}", author=anna.id)
        unit.turns.add(
            thread=thread.id, client_id="p-1", role="assistant", text="What kept you awake?", author=clara.id
        )
    return Cast(anna=anna.id, clara=clara.id, carl=carl.id, admin=admin.id, thread=thread.id)


def together(*work: Callable[[], object]) -> list[BaseException | None]:
    """Run all at once, in threads; what each raised."""
    raised: list[BaseException | None] = [None] * len(work)
    start = threading.Barrier(len(work))

    def one(n: int) -> None:
        start.wait()
        try:
            work[n]()
        except BaseException as err:
            raised[n] = err

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return raised


def fill(store: Store, who: Cast) -> None:
    """At least one row in every table that a person's data can be in."""
    from heedful.types import Label, Score, Trace

    with store.begin() as unit:
        turn = unit.turns.of(who.thread)[0]
        job = unit.jobs.add(kind="reply", key="reply:1", thread=who.thread, payload={"text": SECRET})
        draft = unit.drafts.add(
            thread=who.thread, turn=turn.id, text=f"Draft {SECRET}", model="tiny-1", reasons={"why": SECRET}, job=job.id
        )
        trace = Trace(id="x/1", conversation_id=who.thread, turn=1, reply=SECRET, system="tiny")
        unit.traces.add(thread=who.thread, trace=trace, turn=turn.id)
        unit.labels.add(thread=who.thread, label=Label(set="mesc_emotion", value="sadness"), turn=turn.id)
        unit.scores.add(thread=who.thread, score=Score(name="warmth", value=1.0))
        unit.checkins.add(help_seeker=who.anna, instrument="phq9", answers={"9": 1}, total=12)
        unit.exercises.add(help_seeker=who.anna, kind="values", answers={"a": SECRET})
        unit.memory.add(help_seeker=who.anna, text=f"has a dog {SECRET}", turn=turn.id)
        unit.tasks.add(kind="follow_up", due_at=unit.now(), by=who.clara, thread=who.thread, text=f"call {SECRET}")
        unit.sessions.add(user=who.anna, token_hash="h", expires_at=unit.now())
        unit.notices.add(moment="start", wording="This is a program.", version="1", language="en", user=who.anna)
        unit.consents.add(
            user=who.anna, purpose="training", action="given", wording="ok?", version="1", language="en", by=who.anna
        )
        unit.risk_events.add(thread=who.thread, level=3, source="rules", action="hold", rules=["en/plan@2"])
        unit.resources.put(id="us", country="US", language="en", entry={"phone": "988"}, by=who.admin)
        unit.counters.add("referrals", 7)
        unit.drafts.decide(draft.id, "edited", by=who.clara, text=f"Sent {SECRET}", reason=f"warmer {SECRET}")
        unit.threads.raise_risk(who.thread, 2, by="rules:en", state={"asked": SECRET})
        export = unit.exports.add(
            kind="preferences", purpose="training", name="pairs.jsonl", rows=1, sha256="0" * 64, by=who.admin,
            help_seekers=[who.anna],
        )  # fmt: skip
        unit.adapters.add(export=export.id, name="runs/dpo-1", trained_at=unit.now(), by=who.admin)
