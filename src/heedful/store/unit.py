"""Unit: one transaction with a repository for each kind of thing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Connection

from heedful.errors import BusyError, StoreError
from heedful.privacy import Keys
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


class Unit(Work):
    """One transaction; `Store.begin` and `Store.read` make one. Each attribute is a repository."""

    mode: Mode = "write"

    def __init__(self, connection: Connection, keys: Keys, clock: Callable[[], datetime]) -> None:
        super().__init__(connection, keys, clock)
        self.users, self.sessions = Users(self), Sessions(self)
        self.threads, self.turns, self.notes, self.risk_events = (
            Threads(self),
            Turns(self),
            Notes(self),
            RiskEvents(self),
        )
        self.decisions = Decisions(self)
        self.drafts = Drafts(self, turns=self.turns, decisions=self.decisions)
        self.traces, self.labels, self.scores = Traces(self), Labels(self), Scores(self)
        self.consents, self.notices, self.counters, self.audit = (
            Consents(self),
            Notices(self),
            Counters(self),
            Audit(self),
        )
        self.tasks, self.checkins, self.exercises = Tasks(self), Checkins(self), Exercises(self)
        self.memory, self.resources = Memory(self), Resources(self)
        self.case_notes, self.signatures, self.reports = CaseNotes(self), Signatures(self), Reports(self)
        self.jobs, self.profile_checks = Jobs(self), ProfileChecks(self)
        self.exports, self.adapters, self.erasures = Exports(self), Adapters(self), Erasures(self)

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
