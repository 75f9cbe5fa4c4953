"""Drafts and what people decided about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import select

from heedful.errors import ConflictError, DataError
from heedful.store import models
from heedful.store.records import Decision, Draft, StoredTurn
from heedful.store.repositories.base import Repository, new_id
from heedful.store.repositories.threads import Turns
from heedful.store.rows import table_of
from heedful.store.states import DraftState, check_draft
from heedful.store.work import Work, as_name


class Decisions(Repository[Decision]):
    """Append-only: who decided what. The database refuses to change or delete a row."""

    model, record, noun = models.Decision, Decision, "decision"

    def add(self, *, thread: str, action: str, by: str, draft: str | None = None, **facts: Any) -> Decision:
        """A new decision; `facts` as in the audit chain: numbers and short names."""
        self._locked(table_of(models.Thread), thread, "conversation")
        decision = Decision(
            id=new_id(),
            thread_id=thread,
            position=self._next("position", thread_id=thread),
            draft_id=draft,
            action=action,
            by=by,
            at=self.work.now(),
            facts=facts,
        )
        about = f"draft:{draft}" if draft else f"thread:{thread}"
        self.work.say(by, action, about, **facts)
        return self._add(decision)

    def of(self, thread: str) -> tuple[Decision, ...]:
        """Decisions about one conversation, in order."""
        return self._all(self.table.c.thread_id == thread, order=self.table.c.position)


class Drafts(Repository[Draft]):
    """What the model would say, until one person decides. The first decision stands; later ones learn whose it was."""

    model, record, noun = models.Draft, Draft, "draft"

    def __init__(self, work: Work, *, turns: Turns, decisions: Decisions) -> None:
        super().__init__(work)
        self.turns, self.decisions = turns, decisions

    def add(
        self,
        *,
        thread: str,
        turn: str,
        text: str,
        model: str,
        reasons: Mapping[str, Any] | None = None,
        job: str | None = None,
        expires_at: datetime | None = None,
    ) -> Draft:
        """A new draft that answers `turn`. One job makes at most one draft.

        Raises:
            ConflictError: this job made its draft already.
        """
        draft = Draft(
            id=new_id(),
            thread_id=thread,
            turn_id=turn,
            job_id=job,
            text=text,
            reasons=dict(reasons or {}),
            model=model,
            created_at=self.work.now(),
            expires_at=expires_at,
        )
        self.work.say(as_name(model), "draft.made", f"draft:{draft.id}", thread=thread)
        return self._add(draft)

    def of(self, thread: str, *, state: DraftState | None = None) -> tuple[Draft, ...]:
        """Drafts of one conversation, oldest first; with `state` only those that are in it."""
        which: dict[str, Any] = {} if state is None else {"state": state}
        return self._many(thread_id=thread, order=("created_at", "id"), **which)

    def open(self) -> tuple[Draft, ...]:
        """Drafts that wait for a decision, oldest first."""
        return self._all(self.table.c.state == "drafted", order=(self.table.c.created_at, self.table.c.id))

    def decide(
        self,
        id: str,
        state: DraftState,
        *,
        by: str,
        reason: str | None = None,
        text: str | None = None,
        **facts: Any,
    ) -> tuple[Draft, StoredTurn | None]:
        """Approve, edit or reject a draft, or let it expire. What is approved or edited becomes a turn, exactly once.

        Args:
            by: id of a clinician or supervisor; a program may only let it expire.
            reason: needed to reject.
            text: the edited words; needed to edit, and only then.
            facts: kept with the decision (`seconds=40`); numbers and short names.

        Returns:
            The draft as it is now, and the turn that was sent, if one was.

        Raises:
            ConflictError: it was decided before; `winner` says by whom.
            TransitionError: not a legal step, a program where a person is needed, or no reason.
            DataError: words where none belong, or none where they do.
        """
        seen = self.get(id)
        if seen.state != "drafted":
            raise self._decided(seen)
        check_draft(seen.state, state, person=self.work.is_person(by), reason=bool(reason and reason.strip()))
        if (state == "edited") != (text is not None):
            raise DataError("Edited words belong to the decision 'edited', and to no other.")
        values: dict[str, Any] = {
            "state": state,
            "version": seen.version + 1,
            "decided_at": self.work.now(),
            "decided_by": by,
            "decision_reason": reason,
        }
        sent = None
        with self.work.together():
            # First the row: whoever comes second waits here, and then finds it decided.
            if not self._set(id, {"state": "drafted"}, **values):
                raise self._decided(self.get(id))
            if state in ("approved", "edited"):
                words = seen.text if text is None else text
                sent = self.turns.add(
                    thread=seen.thread_id, client_id=f"draft:{id}", role="assistant", text=words, author=by
                )
                self._set(id, sent_turn_id=sent.id)
            self.decisions.add(thread=seen.thread_id, action=f"draft.{state}", by=by, draft=id, **facts)
        return replace(seen, **values, sent_turn_id=sent.id if sent else None), sent

    def expire(self, *, by: str) -> int:
        """Let all drafts expire whose time is over; how many."""
        late = self.work.execute(
            select(self.table.c.id).where(self.table.c.state == "drafted", self.table.c.expires_at <= self.work.now())
        ).scalars()
        return sum(self.decide(id, "expired", by=by) is not None for id in list(late))

    def _decided(self, now: Draft) -> ConflictError:
        return ConflictError(
            f"This draft was {now.state} already (by {now.decided_by}); what was decided first stands.",
            winner=now.decided_by,
            state=now.state,
            version=now.version,
        )
