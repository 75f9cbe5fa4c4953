"""Unit: one transaction with a repository for each kind of thing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Generic, TypeVar

from heedful.errors import BusyError, StoreError
from heedful.store import audit
from heedful.store.engines import Mode
from heedful.store.repositories.care import Checkins, Exercises, Memory, Resources, Tasks
from heedful.store.repositories.drafts import Decisions, Drafts
from heedful.store.repositories.exports import Adapters, Erasures, Exports
from heedful.store.repositories.jobs import Jobs
from heedful.store.repositories.judgements import Labels, Scores, Traces
from heedful.store.repositories.ledgers import Audit, Consents, Counters, Notices, ProfileChecks, write_counters
from heedful.store.repositories.papers import CaseNotes, Reports, Signatures
from heedful.store.repositories.people import Sessions, Users
from heedful.store.repositories.threads import Notes, RiskEvents, Threads, Turns
from heedful.store.work import Work

R = TypeVar("R")


class _Made(Generic[R]):
    """An attribute that is made at its first use and stays for this unit."""

    def __init__(self, make: Callable[[Work], R]) -> None:
        self.make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, unit: Work, owner: type) -> R:
        found = self.make(unit)
        unit.__dict__[self.name] = found  # from now on Python finds it there, before it asks here
        return found


class Unit(Work):
    """One transaction; `Store.begin` and `Store.read` make one. Each attribute is a repository."""

    mode: Mode = "write"

    # Made when they are asked for: a request needs a few of them.
    users = _Made(Users)
    sessions = _Made(Sessions)
    threads = _Made(Threads)
    turns = _Made(Turns)
    notes = _Made(Notes)
    risk_events = _Made(RiskEvents)
    decisions = _Made(Decisions)
    traces = _Made(Traces)
    labels = _Made(Labels)
    scores = _Made(Scores)
    consents = _Made(Consents)
    notices = _Made(Notices)
    counters = _Made(Counters)
    audit = _Made(Audit)
    tasks = _Made(Tasks)
    checkins = _Made(Checkins)
    exercises = _Made(Exercises)
    memory = _Made(Memory)
    resources = _Made(Resources)
    case_notes = _Made(CaseNotes)
    signatures = _Made(Signatures)
    reports = _Made(Reports)
    jobs = _Made(Jobs)
    profile_checks = _Made(ProfileChecks)
    exports = _Made(Exports)
    adapters = _Made(Adapters)
    erasures = _Made(Erasures)

    @cached_property
    def drafts(self) -> Drafts:
        """Drafts, which become turns and decisions."""
        return Drafts(self, turns=self.turns, decisions=self.decisions)

    def alone(self) -> None:
        """Wait until no other writer of the audit chain is at work, and let none by until this transaction ends.

        What is read after it stays true: for "if there is none yet, make the first one". SQLite has one writer anyway.
        """
        audit.lock(self)

    def finish(self) -> None:
        """What is written last: counters, then the audit chain.

        Raises:
            BusyError: a content key was retired while this transaction was using it.
            StoreError: a statement failed before and the error was swallowed.
        """
        if self.broken:
            raise StoreError("The database refused a part of this change before; nothing of it was kept.")
        write_counters(self)
        audit.append(self)
        if not self.versions <= set(self.keys.versions()):
            raise BusyError("The content key was changed meanwhile; nothing was kept. Try again.")
