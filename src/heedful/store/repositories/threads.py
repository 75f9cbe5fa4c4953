"""Conversations, their turns, the notes of people about them, and what the crisis path did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Text, bindparam, func, or_, select

from heedful.errors import ConflictError, DataError, TransitionError
from heedful.store import models
from heedful.store.columns import Moment
from heedful.store.prepared import Prepared
from heedful.store.records import Note, RiskEvent, StoredTurn, Thread
from heedful.store.repositories.base import Repository, Versioned, new_id
from heedful.store.rows import table_of
from heedful.store.states import ThreadState, check_thread
from heedful.store.work import Work, as_name, check_client_id
from heedful.types.conversation import ROLES, Role


class Notes(Repository[Note]):
    """Reasons that people gave for changing a conversation."""

    model, record, noun = models.Note, Note, "note"

    def add(self, *, thread: str, kind: str, text: str, by: str) -> Note:
        """A new note."""
        return self._add(Note(id=new_id(), thread_id=thread, kind=kind, text=text, by=by, at=self.work.now()))

    def of(self, thread: str) -> tuple[Note, ...]:
        """Notes of one conversation, oldest first."""
        return self._all(self.table.c.thread_id == thread, order=(self.table.c.at, self.table.c.id))


class Threads(Versioned[Thread]):
    """Conversations. Only a person lowers a risk; only legal changes of state pass (`states.THREAD_STEPS`)."""

    model, record, noun = models.Thread, Thread, "conversation"

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self.notes = Notes(work)

    def open(
        self,
        *,
        help_seeker: str,
        by: str,
        profile: str = "strict",
        owner: str | None = None,
        risk_highest: int = 0,
    ) -> Thread:
        """A new conversation in state `ai_assisted`.

        Args:
            risk_highest: the highest level of this help-seeker's conversations before.

        Raises:
            NotFoundError: no such help-seeker or owner.
        """
        now = self.work.now()
        thread = Thread(
            id=new_id(),
            help_seeker=help_seeker,
            owner=owner,
            profile=profile,
            risk_highest=risk_highest,
            opened_at=now,
            opened_by=by,
            changed_at=now,
            changed_by=by,
        )
        self.work.say(by, "thread.opened", f"thread:{thread.id}", profile=profile)
        return self._add(thread)

    def of(self, help_seeker: str) -> tuple[Thread, ...]:
        """Conversations of one help-seeker, oldest first."""
        return self._many(help_seeker=help_seeker, order=("opened_at", "id"))

    def in_state(self, *states: ThreadState) -> tuple[Thread, ...]:
        """Conversations in one of these states: highest risk first, then those that changed longest ago."""
        order = (self.table.c.risk_level.desc(), self.table.c.changed_at, self.table.c.id)
        return self._all(self.table.c.state.in_(states), order=order)

    def move(
        self,
        id: str,
        state: ThreadState,
        *,
        by: str,
        version: int | None = None,
        owner: str | None = None,
        reason: str | None = None,
    ) -> Thread:
        """Bring a conversation into another state. To `human_owned` it belongs to `owner`, or else to `by`.

        Args:
            by: id of the person, or name of the program (`rules:en-7`).
            version: the version that was seen; None = whatever stands.
            reason: kept sealed; needed where `states` says so.

        Raises:
            ConflictError: somebody else was first; it says who.
            TransitionError: not a legal step, or not for a program, or without a reason.
        """
        seen = self.get(id)
        if version is not None and version != seen.version:
            raise self._lost(seen)
        check_thread(seen.state, state, person=self.work.is_person(by), reason=bool(reason and reason.strip()))
        now = self.work.now()
        values: dict[str, Any] = {"state": state, "changed_at": now}
        if state == "human_owned":
            values["owner"] = owner or by
            self.work.need_person(values["owner"], "own a conversation")
        if state == "closed":
            values |= {"closed_at": now, "closed_by": by, "closed_reason": reason}
        with self.work.together():
            moved: Thread = self._change(seen, version, by=by, **values)
            if reason:
                self.notes.add(thread=id, kind=f"to_{state}", text=reason, by=by)
        self.work.say(by, f"thread.{state}", f"thread:{id}", before=seen.state, version=moved.version)
        return moved

    def assign(self, id: str, owner: str, *, by: str, version: int | None = None) -> Thread:
        """Give a conversation to another clinician or supervisor, without changing its state.

        Raises:
            ConflictError: somebody else was first.
            TransitionError: `owner` or `by` is no clinician or supervisor, or it is closed.
        """
        seen = self.get(id)
        self.work.need_person(owner, "own a conversation")
        self.work.need_person(by, "hand a conversation over")
        if seen.state == "closed":
            raise TransitionError("This conversation is closed; it has no owner to change.")
        moved: Thread = self._change(seen, version, by=by, owner=owner, changed_at=self.work.now())
        self.work.say(by, "thread.assigned", f"thread:{id}", owner=owner, before=seen.owner)
        return moved

    def stop_drafts(self, id: str, why: str, *, by: str) -> bool:
        """No model drafts in this conversation any more; whether that is new. Nothing takes it back."""
        if not self._set(id, {"drafts_stopped": None}, drafts_stopped=as_name(why)):
            return False
        self.work.say(by, "thread.drafts_stopped", f"thread:{id}", why=as_name(why))
        return True

    def watched(self, id: str, *, by: str) -> None:
        """Somebody of staff has it open now. The audit is told when the watcher changes, not every half minute."""
        self.work.need_person(by, "watch a conversation")
        before = self.get(id).watched_by
        self._set(id, watched_at=self.work.now(), watched_by=by)
        if before != by:
            self.work.say(by, "thread.watched", f"thread:{id}")

    def raise_risk(self, id: str, level: int, *, by: str, state: Mapping[str, Any] | None = None) -> Thread:
        """The level is at least `level` from now on. Rules, models and people may do that; it is never too late.

        Args:
            state: what the crisis path wants to remember; None = leave what is there.

        Raises:
            DataError: a negative level.
        """
        if level < 0:
            raise DataError(f"A risk level is 0 or more, but it is {level}.")
        self._locked(self.table, id, self.noun)
        seen = self.get(id)
        values: dict[str, Any] = {} if state is None else {"risk_state": dict(state)}
        if level > seen.risk_level:
            values |= {"risk_level": level, "risk_highest": max(level, seen.risk_highest)}
            self.work.say(by, "thread.risk_raised", f"thread:{id}", level=level, before=seen.risk_level)
        if not values:
            return seen
        raised: Thread = self._change(seen, None, by=by, changed_at=self.work.now(), **values)
        return raised

    def lower_risk(
        self, id: str, level: int, *, by: str, reason: str, version: int, state: Mapping[str, Any] | None = None
    ) -> Thread:
        """Lower the level. Only a clinician or supervisor can, with a reason, and only who saw what stands now.

        Raises:
            TransitionError: `by` is no clinician or supervisor, no reason, or the level is not lower.
            ConflictError: something happened since `version`.
        """
        self.work.need_person(by, "lower a risk")
        seen = self.get(id)
        if version != seen.version:
            raise self._lost(seen)
        if not reason.strip():
            raise TransitionError("To lower a risk, say the reason.")
        if not 0 <= level < seen.risk_level:
            raise TransitionError(f"The risk is {seen.risk_level}; it can be lowered to less, not to {level}.")
        values: dict[str, Any] = {} if state is None else {"risk_state": dict(state)}
        with self.work.together():
            lowered: Thread = self._change(seen, version, by=by, risk_level=level, changed_at=self.work.now(), **values)
            self.notes.add(thread=id, kind="risk_lowered", text=reason, by=by)
        self.work.say(by, "thread.risk_lowered", f"thread:{id}", level=level, before=seen.risk_level)
        return lowered


class Turns(Repository[StoredTurn]):
    """Messages, in the order in which they were acknowledged."""

    model, record, noun = models.Turn, StoredTurn, "turn"

    def add(self, *, thread: str, client_id: str, role: Role, text: str, author: str | None = None) -> StoredTurn:
        """Keep a message. The same `client_id` again is the same turn: it comes back as it was kept.

        Args:
            client_id: made where the text was written, unique within the conversation.
            author: the person behind it; a turn of the role `assistant` without one was sent by the program.

        Raises:
            ConflictError: this client id was used for other words, or by somebody else.
            TransitionError: the conversation is closed.
            NotFoundError: no such conversation.
        """
        check_client_id(client_id)
        if role not in ROLES:
            raise DataError(f"A turn's role must be one of {', '.join(ROLES)}.")
        threads = Threads(self.work)
        self._locked(threads.table, thread, threads.noun)
        kept = self._one(thread_id=thread, client_id=client_id)
        if kept is not None:
            if (kept.role, kept.text, kept.author) != (role, text, author):
                raise ConflictError("This client id was used for another message; make a new one.", winner=kept.author)
            return kept
        if threads.get(thread).state == "closed":
            raise TransitionError("This conversation is closed; open a new one.")
        turn = StoredTurn(
            id=new_id(),
            thread_id=thread,
            sequence=self._next("sequence", thread_id=thread),
            client_id=client_id,
            role=role,
            text=text,
            author=author,
            created_at=self.work.now(),
        )
        return self._add(turn)

    def of(self, thread: str, *, after: int = 0, limit: int | None = None) -> tuple[StoredTurn, ...]:
        """Turns of a conversation in order, those with a sequence above `after`."""
        return self._many(thread_id=thread, above=("sequence", after), order=("sequence",), limit=limit)

    def kept(self, thread: str, client_id: str) -> StoredTurn | None:
        """The turn of a conversation that has this client id, if there is one."""
        return self._one(thread_id=thread, client_id=client_id)

    def sent(self, by: str, client_id: str) -> StoredTurn | None:
        """The message that a help-seeker sent under this id, in whichever of their conversations."""
        rows = self.work.rows(_SENT, client_id=client_id, by=by)
        return self.codec.read(rows[0], self.work.keys) if rows else None

    def last_spoken(self, thread: str) -> str | None:
        """The role of the last message that a person wrote or decided; None = there is none."""
        rows = self.work.rows(_SPOKEN, thread=thread)
        return str(rows[0][0]) if rows else None

    def newest_by(self, help_seeker: str) -> datetime | None:
        """When a help-seeker wrote last, in whichever of their conversations."""
        found: datetime | None = self.work.rows(_NEWEST, by=help_seeker)[0][0]
        return found

    def blank(self, id: str) -> int:
        """Take the words out of a turn whose time is over; its number stays."""
        return self._set(id, text="")

    def last(self, thread: str, n: int) -> tuple[StoredTurn, ...]:
        """The last `n` turns, in order."""
        return tuple(reversed(self._many(thread_id=thread, order=("-sequence",), limit=n)))


_TURNS, _THREADS = table_of(models.Turn), table_of(models.Thread)
_BY = bindparam("by", type_=Text())
_OURS = select(_THREADS.c.id).where(_THREADS.c.help_seeker == _BY)
_SENT = Prepared(
    select(_TURNS)
    .where(
        _TURNS.c.client_id == bindparam("client_id", type_=Text()),
        _TURNS.c.author == _BY,
        _TURNS.c.thread_id.in_(_OURS),
    )
    .limit(1)
)


_NEWEST = Prepared(
    select(func.max(_TURNS.c.created_at, type_=Moment())).where(_TURNS.c.role == "user", _TURNS.c.thread_id.in_(_OURS))
)
_SPOKEN = Prepared(
    select(_TURNS.c.role)
    .where(_TURNS.c.thread_id == bindparam("thread", type_=Text()))
    .where(or_(_TURNS.c.role == "user", _TURNS.c.author.is_not(None)))
    .order_by(_TURNS.c.sequence.desc())
    .limit(1)
)


class RiskEvents(Repository[RiskEvent]):
    """What the crisis path noticed and did: level, rule names or model version, action, person. No words."""

    model, record, noun = models.RiskEvent, RiskEvent, "risk event"

    def add(
        self,
        *,
        thread: str,
        level: int,
        source: str,
        action: str,
        rules: Sequence[str] = (),
        turn: str | None = None,
        person: str | None = None,
    ) -> RiskEvent:
        """Log one event, in the audit chain too. Names are written as `work.as_name` has them."""
        names, source, action = tuple(map(as_name, rules)), as_name(source), as_name(action)
        event = RiskEvent(
            id=new_id(),
            thread_id=thread,
            turn_id=turn,
            level=level,
            source=source,
            rules=names,
            action=action,
            person=person,
            at=self.work.now(),
        )
        facts = {"level": level, "source": source, "rules": list(names), "turn": turn, "did": action}
        self.work.say(person or source, "risk.event", f"thread:{thread}", **facts)
        return self._add(event)

    def of(self, thread: str) -> tuple[RiskEvent, ...]:
        """Events of one conversation, oldest first."""
        return self._all(self.table.c.thread_id == thread, order=(self.table.c.at, self.table.c.id))

    def highest(self, thread: str) -> int:
        """The highest level that was ever logged; 0 = none."""
        found = self.work.execute(select(func.max(self.table.c.level)).where(self.table.c.thread_id == thread)).scalar()
        return int(found or 0)
