"""What tests of the review layer share: a clinic with people, a gate and a writer whose words are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from heedful.errors import RunError
from heedful.review.clinic import Clinic, Policy
from heedful.review.crisis import Lines
from heedful.review.drafting import Drafter, Proposal
from heedful.safety.gate import Verdict
from heedful.safety.state import State
from heedful.store import Store
from heedful.types import Conversation, Turn
from store_kit import Clock, make_keys, open_store


def word_gate(text: str, *, said: Sequence[Turn], state: State, author: str) -> Verdict:
    """Words decide, so that tests can ask for each outcome."""
    if "BLOCK" in text:
        return Verdict(outcome="block", rules=("methods",), version="test")
    if "RETURN" in text:
        return Verdict(outcome="return", rules=("diagnosis",), version="test")
    return Verdict(outcome="pass", rules=(), version="test")


@dataclass
class Scripted:
    """Says `reply`, or fails."""

    reply: str = "That sounds hard. What happened then?"
    fail: bool = False
    seen: list[Conversation] = field(default_factory=list)

    def propose(self, conversation: Conversation, *, key: str) -> Proposal:
        self.seen.append(conversation)
        if self.fail:
            raise RunError("no model")
        return Proposal(text=self.reply, model="scripted-1", reasons={"strategy": "Question"})


@dataclass(kw_only=True)
class Service:
    clinic: Clinic
    store: Store
    clock: Clock
    writer: Scripted
    drafter: Drafter
    anna: str
    clara: str
    carl: str
    supervisor: str
    thread: str
    count: int = 0

    def say(self, text: str, client_id: str | None = None) -> Any:
        self.count += 1
        return self.clinic.receive(self.thread, by=self.anna, client_id=client_id or f"m-{self.count}", text=text)

    def turns(self) -> list[tuple[str, str]]:
        with self.store.read() as unit:
            return [(t.role, t.text) for t in unit.turns.of(self.thread)]

    def drafts(self, state: str | None = None) -> list[Any]:
        with self.store.read() as unit:
            return [d for d in unit.drafts.of(self.thread) if state in (None, d.state)]

    def state(self) -> str:
        with self.store.read() as unit:
            return unit.threads.get(self.thread).state

    def tasks(self) -> list[str]:
        with self.store.read() as unit:
            return [task.kind for task in unit.tasks.open(thread=self.thread)]


def service(folder: Path, *, store: Store | None = None, clock: Clock | None = None, **policy: Any) -> Service:
    """A clinic with one help-seeker, two clinicians and a supervisor."""
    clock = clock or Clock()
    store = store or open_store(f"sqlite:///{folder / 'clinic.db'}", make_keys(folder), clock)
    with store.begin() as unit:
        anna = unit.users.add(role="help_seeker", name="Anna", by="setup").id
        clara = unit.users.add(role="clinician", name="Clara", by="setup").id
        carl = unit.users.add(role="clinician", name="Carl", by="setup").id
        supervisor = unit.users.add(role="supervisor", name="Sam", by="setup").id
    lines = Lines(line="988", emergency="911")
    clinic = Clinic(store, policy=Policy(lines=lambda language: lines, **policy), gate=word_gate)
    writer = Scripted()
    drafter = Drafter(clinic, writer, name="w1", lease=timedelta(minutes=3))
    thread = clinic.open(anna).id
    return Service(
        clinic=clinic, store=store, clock=clock, writer=writer, drafter=drafter, anna=anna, clara=clara, carl=carl,
        supervisor=supervisor, thread=thread,
    )  # fmt: skip
