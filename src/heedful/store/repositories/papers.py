"""Papers: notes and plans of clinicians, signatures under words, and reports of problems."""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import delete

from heedful.errors import ConflictError, TransitionError
from heedful.store import models
from heedful.store.records import CaseNote, ProblemReport, Signature
from heedful.store.repositories.base import Repository, Versioned, new_id
from heedful.store.states import ROLES, Role, check_word
from heedful.store.work import as_name

NOTE_KINDS = ("note", "plan")
REPORT_KINDS = ("wrong", "hurtful", "unsafe", "privacy", "technical", "other")


class CaseNotes(Versioned[CaseNote]):
    """Notes on a conversation, and plans for its help-seeker. Words are sealed; the audit has none."""

    model, record, noun = models.CaseNote, CaseNote, "note"

    def add(
        self, *, thread: str, kind: Literal["note", "plan"], text: str, by: str, model: str | None = None
    ) -> CaseNote:
        """A new one; `model` drafted its words.

        Raises:
            TransitionError: `by` is no clinician or supervisor.
        """
        check_word(kind, NOTE_KINDS, "A note")
        self.work.need_person(by, "write a note")
        now = self.work.now()
        note = CaseNote(
            id=new_id(),
            thread_id=thread,
            kind=kind,
            author=by,
            text=text,
            model=None if model is None else as_name(model),
            created_at=now,
            changed_at=now,
            changed_by=by,
        )
        self.work.say(by, "note.added", f"note:{note.id}", kind=kind, thread=thread, model=note.model)
        return self._add(note)

    def change(self, id: str, text: str, *, by: str, version: int) -> CaseNote:
        """Other words. A plan that was shown is not shown any more: the new words have to be shared again.

        Raises:
            ConflictError: changed since `version`.
            TransitionError: `by` is not its author.
        """
        seen = self.get(id)
        if seen.author != by:
            raise TransitionError("Only its author changes a note; write one of your own.")
        made: CaseNote = self._change(seen, version, by=by, text=text, changed_at=self.work.now(), shared_at=None)
        self.work.say(by, "note.changed", f"note:{id}", version=made.version)
        return made

    def share(self, id: str, *, by: str, version: int) -> CaseNote:
        """Show a plan to its help-seeker.

        Raises:
            ConflictError: changed since `version`.
            TransitionError: it is a note, or `by` is no clinician or supervisor.
        """
        self.work.need_person(by, "share a plan")
        seen = self.get(id)
        if seen.kind != "plan":
            raise TransitionError("Notes are the clinic's own and are never shown to help-seekers.")
        made: CaseNote = self._change(seen, version, by=by, shared_at=self.work.now())
        self.work.say(by, "note.shared", f"note:{id}", version=made.version)
        return made

    def discard(self, id: str, *, by: str, version: int) -> CaseNote:
        """A model's draft that nobody wants: its words are gone, the audit keeps that it was there.

        Raises:
            ConflictError: changed since `version`.
            TransitionError: a person wrote it, or `by` is no clinician or supervisor.
        """
        self.work.need_person(by, "discard a draft")
        seen = self.seen(id, version)
        if seen.model is None:
            raise TransitionError("Only a model's draft is discarded; what a person wrote stays.")
        self.work.execute(delete(self.table).where(self.table.c.id == id))
        self.work.say(by, "note.discarded", f"note:{id}", thread=seen.thread_id, model=seen.model, version=version)
        return seen

    def seen(self, id: str, version: int) -> CaseNote:
        """The note, if it is still the one that somebody saw.

        Raises:
            ConflictError: it was changed since `version`.
        """
        found = self.get(id)
        if found.version != version:
            raise self._lost(found)
        return found

    def of(self, thread: str) -> tuple[CaseNote, ...]:
        """Of one conversation, oldest first."""
        return self._all(self.table.c.thread_id == thread, order=(self.table.c.created_at, self.table.c.id))


class Signatures(Repository[Signature]):
    """Append-only. What was signed is known by a keyed digest: other words have no signature."""

    model, record, noun = models.Signature, Signature, "signature"

    def add(self, *, object: str, kind: Literal["author", "review"], words: str, by: str) -> Signature:
        """Sign words.

        Raises:
            ConflictError: this person signed these words in this way before.
            TransitionError: `by` is no clinician or supervisor.
        """
        check_word(kind, ("author", "review"), "A signature")
        self.work.need_person(by, "sign")
        digest = self.digest(object, words)
        if any(s.by == by and s.kind == kind and s.digest == digest for s in self.of(object)):
            raise ConflictError("You signed these words already.", winner=by)
        made = Signature(id=new_id(), object=object, kind=kind, digest=digest, by=by, at=self.work.now())
        self.work.say(by, f"signature.{kind}", object, digest=digest)
        return self._add(made)

    def of(self, object: str) -> tuple[Signature, ...]:
        """All signatures under one thing, oldest first, those under older words too."""
        return self._all(self.table.c.object == object, order=(self.table.c.at, self.table.c.id))

    def valid(self, object: str, words: str, *, kind: str = "author") -> Signature | None:
        """The newest signature under exactly these words."""
        digest = self.digest(object, words)
        found = [s for s in self.of(object) if s.digest == digest and s.kind == kind]
        return found[-1] if found else None

    def digest(self, object: str, words: str) -> str:
        """What stands for the words: HMAC-SHA256 under the store's key, so that short notes cannot be guessed."""
        return self.work.keys.digest(f"signature\0{object}\0{words}".encode())


class Reports(Versioned[ProblemReport]):
    """Problems that people reported. Words are sealed; the audit has kind and role."""

    model, record, noun = models.ProblemReport, ProblemReport, "report"

    def add(self, *, user: str, role: Role, kind: str, text: str) -> ProblemReport:
        """A new report.

        Raises:
            DataError: no such kind or role.
        """
        check_word(kind, REPORT_KINDS, "A report")
        check_word(role, ROLES, "A role")
        made = ProblemReport(
            id=new_id(), user_id=user, role=role, kind=kind, text=text, created_at=self.work.now(), changed_by=user
        )
        self.work.say(user, "report.added", f"report:{made.id}", kind=kind, role=role)
        return self._add(made)

    def close(self, id: str, *, by: str, outcome: str, version: int) -> ProblemReport:
        """Somebody dealt with it.

        Raises:
            ConflictError: closed or changed since `version`.
            TransitionError: `by` is no clinician or supervisor, or there is no outcome.
        """
        self.work.need_person(by, "close a report")
        if not outcome.strip():
            raise TransitionError("To close a report, say what came of it.")
        values: dict[str, Any] = {"state": "closed", "closed_at": self.work.now(), "closed_by": by}
        made: ProblemReport = self._change(self.get(id), version, by=by, outcome=outcome.strip(), **values)
        self.work.say(by, "report.closed", f"report:{id}")
        return made

    def all(self) -> tuple[ProblemReport, ...]:
        """All of them, newest first."""
        return self._all(order=(self.table.c.created_at.desc(), self.table.c.id))

    def of(self, user: str) -> tuple[ProblemReport, ...]:
        """Of one person, oldest first."""
        return self._all(self.table.c.user_id == user, order=(self.table.c.created_at, self.table.c.id))
