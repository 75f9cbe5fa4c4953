"""What tests of the clinic's pages share: a site whose model says what a test wrote down, and the reasons it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import server_kit
from heedful.errors import RunError
from heedful.review.drafting import Proposal
from heedful.types import Conversation
from server_kit import Site, csrf, make_site

REASONS: dict[str, Any] = {
    "strategy": {"name": "Question", "distribution": {"Question": 0.61, "Reflection": 0.3, "Self-disclosure": 0.09}},
    "emotion": [
        {"turn": 1, "values": {"sadness": 0.4, "fear": 0.2}, "evidence": "I slept badly"},
        {"turn": 3, "values": {"sadness": 0.7, "fear": 0.1}, "evidence": "everything is grey"},
        {"turn": 4, "values": {"anger": 0.9}},
    ],
    "sources": [{"id": "case:17", "title": "Sleep and worry", "text": "Ask what the nights are like."}],
    "plan": ["Take up the sleep", "Ask one question"],
    "prompt": {"name": "draft.txt", "hash": "0123456789abcdef"},
    "uncertainty": 0.35,
}
"""Everything that a writer can say; the emotion at turn 4 lacks its evidence."""


@dataclass
class Writer:
    """Says `reply` with `reasons`, or fails."""

    reply: str = "That sounds like hard nights. What goes through your mind when you lie awake?"
    reasons: dict[str, Any] = field(default_factory=lambda: dict(REASONS))
    fail: bool = False
    seen: list[Conversation] = field(default_factory=list)

    def propose(self, conversation: Conversation, *, key: str) -> Proposal:
        self.seen.append(conversation)
        if self.fail:
            raise RunError("no model")
        return Proposal(text=self.reply, model="scripted-1", reasons=self.reasons)


HOUSE = """
name = "Test service"
responsible = "Dr. Rowan Vale"
contact = "office@clinic.example"
place = "our own computer"
timezone = "Europe/Berlin"
hours = "always"
"""


@dataclass(kw_only=True)
class Clinic:
    """A site with its desk and its writer. No thread runs: tests call `draft` and `tick` themselves."""

    site: Site
    writer: Writer

    @property
    def desk(self) -> Any:
        return self.site.app.state.desk

    @property
    def store(self) -> Any:
        return self.site.store

    def client(self, role: str, language: str = "en") -> Any:
        client = self.site.signed_in(role)
        client.headers["accept-language"] = language
        return client

    def begun(self) -> Any:
        """The help-seeker's client, past what is said before first use."""
        client = self.client("help_seeker")
        send(client, "/talk/begin", page="/talk")
        client.get("/talk")
        return client

    def draft(self) -> None:
        """Let the worker see one job through."""
        self.desk.workers[1].work()

    def note(self) -> None:
        """Let the worker that drafts notes see one job through."""
        (noter,) = [worker for worker in self.desk.workers if worker.name == "notes"]
        noter.work()

    def tick(self) -> None:
        self.desk.workers[0].work()

    def thread(self) -> Any:
        with self.store.read() as unit:
            return unit.threads.of(self.site.ids["help_seeker"])[-1]

    def turns(self) -> list[tuple[str, str]]:
        with self.store.read() as unit:
            return [(t.role, t.text) for t in unit.turns.of(self.thread().id)]

    def drafts(self, state: str | None = None) -> list[Any]:
        with self.store.read() as unit:
            return [d for d in unit.drafts.of(self.thread().id) if state in (None, d.state)]


def make_clinic(folder: Path, *, clock: Any = None, house: str = HOUSE, engine: Any = None, **settings: Any) -> Clinic:
    """A clinic with one account of each role."""
    from heedful.server.clinic import make_desk

    (folder / "clinic.toml").write_text(house, "utf-8")
    site = make_site(folder, clock=clock, engine=engine, **{"requests_per_minute": 100_000, **settings})
    writer = Writer()
    site.app.state.desk = make_desk(site.app.state.server, writer=writer)
    return Clinic(site=site, writer=writer)


def send(client: Any, path: str, values: dict[str, str] | None = None, *, page: str | None = None) -> Any:
    """Fill the form of a page and send it."""
    token = csrf(client.get(page or path).text)
    return client.post(path, data={**(values or {}), "csrf": token})


def say(client: Any, text: str, client_id: str) -> Any:
    return send(client, "/talk", {"text": text, "client_id": client_id})


__all__ = ["REASONS", "Clinic", "Writer", "make_clinic", "say", "send", "server_kit"]
