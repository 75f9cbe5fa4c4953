"""The clinic: what a message, a draft and a decision do. Every call is one transaction.

    help-seeker   receive -> kept and assessed; a draft is queued, or the conversation is held
    program       Drafter -> one draft for the newest message, checked by the reply gate
                  Believer -> a second reading of each message, which can only raise
    clinician     approve | edit | reject; take over, write, give back; raise, lower, confirm; follow up; close

A message that was acknowledged is kept. The same `client_id` again is the same message: nothing happens twice. Nothing
but a decision of a clinician, and the fixed texts of the crisis path, ever reaches a help-seeker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from heedful.errors import ConflictError, DataError, NotFoundError, TransitionError
from heedful.review import crisis, stopping
from heedful.review.crisis import Outcome
from heedful.review.policy import Policy
from heedful.review.said import as_turn, conversation
from heedful.safety import events
from heedful.safety.crisis import TIERS, Tier, assess
from heedful.safety.events import RUNGS
from heedful.safety.gate import Author, Verdict, check
from heedful.safety.person import asks_for_person
from heedful.safety.policy import Belief, OperatingPoint, decide
from heedful.safety.state import State
from heedful.store import Store
from heedful.store.records import Draft, StoredTurn, Task, Thread
from heedful.store.unit import Unit
from heedful.store.work import as_name, persons_client_id
from heedful.types import Turn

LONGEST = 50_000
"""Characters of a message. More is refused in words; people paste diaries, and those fit."""
DRAFT_JOB, BELIEF_JOB = "draft", "belief"
GATED = "gate"
"""Error of a job whose words the gate blocked."""
SAID = 20
"""So many turns before a reply tell the gate whether somebody is in danger, besides what the crisis path remembers."""

ENDED = (crisis.TAKEOVER, crisis.LOOK, *crisis.PERSONS, stopping.TASK)
"""Tasks that end when a person takes or closes a conversation."""


class Gate(Protocol):
    """Says what may not be sent in this conversation now; `heedful.safety.gate.check` is the one to use."""

    def __call__(self, text: str, *, said: Sequence[Turn], state: State, author: Author) -> Verdict: ...


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The answer to a message: it is kept.

    Args:
        again: it had been kept before; nothing happened a second time.
        outcome: what the crisis path did; None where `again`.
        job: id of the draft that was queued.
    """

    turn: StoredTurn
    thread: Thread
    again: bool = False
    outcome: Outcome | None = None
    job: str | None = None


class Believes(Protocol):
    """A calibrated classifier of the last turns, with its operating point; `heedful.classify` trains one."""

    @property
    def point(self) -> OperatingPoint: ...

    def __call__(self, said: Sequence[Turn]) -> Belief: ...


class Clinic:
    """See the head of this module.

    Args:
        belief: reads each message after the rules, in a worker of its own (`heedful.review.believing`). It adds to what
            the rules found, and can take nothing away. Without one, or while it fails, rules decide.
        gate: checks every text before it is sent, whoever wrote it; another one than heedful's is for tests.
    """

    def __init__(self, store: Store, *, policy: Policy, gate: Gate = check, belief: Believes | None = None) -> None:
        self.store, self.policy, self.gate, self.belief = store, policy, gate, belief

    # ------------------------------------------------------------------ help-seeker

    def open(self, help_seeker: str) -> Thread:
        """The open conversation of a help-seeker, or a new one.

        Raises:
            TransitionError: a new one needs a consent to care first.
        """

        def open_one(unit: Unit) -> Thread | None:
            there = [thread for thread in unit.threads.of(help_seeker) if thread.state != "closed"]
            return there[-1] if there else None

        with self.store.read() as unit:  # nearly always it is there, and a reader waits for nobody
            if (found := open_one(unit)) is not None:
                return found

        def work(unit: Unit) -> Thread:
            unit.users.lock(help_seeker)  # two first messages at once open one conversation
            if (there := open_one(unit)) is not None:
                return there
            if "care" in self.policy.consents and not unit.consents.current(help_seeker)["care"]:
                raise TransitionError("A conversation begins once the help-seeker agreed that their words are kept.")
            unit.counters.add("threads_opened")
            highest = max((thread.risk_highest for thread in unit.threads.of(help_seeker)), default=0)
            return unit.threads.open(
                help_seeker=help_seeker, by=help_seeker, profile=self.policy.profile, risk_highest=highest
            )

        return self.store.run(work)

    def receive(
        self,
        thread: str,
        *,
        by: str,
        client_id: str,
        text: str,
        also: Callable[[Unit, StoredTurn], object] | None = None,
    ) -> Receipt:
        """Keep a message and let the crisis rules read it, before anything else.

        Args:
            by: id of the help-seeker whose conversation it is.
            client_id: made where it was written; the same id again is the same message.
            also: what else belongs to a new message: all of it is kept, or nothing.

        Raises:
            NotFoundError: no such conversation of this person.
            DataError: nothing in it, too long, no text, or an id that is the program's.
            ConflictError: the id was used for other words.
            TransitionError: the conversation is closed.
        """
        words, own = checked(text), persons_client_id(client_id)

        def work(unit: Unit) -> Receipt:
            self._own(unit, thread, by)
            turn = unit.turns.add(thread=thread, client_id=own, role="user", text=words, author=by)
            now = unit.threads.get(thread)
            if turn.sequence <= crisis.read_up_to(now):
                return Receipt(turn=turn, thread=now, again=True)
            before = [t for t in unit.turns.last(thread, 4) if t.sequence < turn.sequence and t.role != "system"][-1:]
            said = (*[as_turn(t) for t in before if t.role == "assistant"], as_turn(turn))
            found = assess(said)
            decision = decide(found)  # of this message; what was known before is the state machine's
            event = events.Said(assessment=found, rung=decision.rung, tier=decision.tier)
            outcome = self._happen(unit, now, event, turn=turn)
            if asks_for_person(words):
                self._happen(unit, outcome.thread, events.PersonAsked(), turn=turn)
            unit.counters.add("messages")
            if self.belief is not None:
                unit.jobs.add(kind=BELIEF_JOB, key=f"belief:{turn.id}", thread=thread, payload={"turn": turn.id})
            job = self._queue(unit, outcome, turn)
            if also is not None:
                also(unit, turn)
            return Receipt(turn=turn, thread=outcome.thread, outcome=outcome, job=job)

        return self.store.run(work)

    def keep_belief(self, unit: Unit, *, turn: str, believed: Belief, point: OperatingPoint) -> Outcome | None:
        """Let a second reading of a message count, where it asks for more than what is known already.

        Returns:
            None where it does not; a belief lowers nothing.
        """
        read = unit.turns.get(turn)
        thread = unit.threads.raise_risk(read.thread_id, 0, by=crisis.PROGRAM)  # its row is ours until the end
        state = crisis.known(unit, thread)
        decision = decide(assess(""), belief=believed, point=point)
        graver = TIERS.index(decision.tier) > TIERS.index(state.tier)
        if not graver and RUNGS.index(decision.rung) <= RUNGS.index(state.rung):
            return None
        event = events.Believed(tier=decision.tier, rung=decision.rung, model=believed.model)
        unit.counters.add("beliefs_raised")
        return self._happen(unit, thread, event, turn=read)

    def _queue(self, unit: Unit, outcome: Outcome, turn: StoredTurn) -> str | None:
        """A draft for the newest message; older ones answer something that is no longer the last word."""
        if outcome.thread.state != "ai_assisted" or not self.policy.drafts:
            return None
        if unit.threads.get(turn.thread_id).drafts_stopped:
            return None
        crisis.expire_drafts(unit, turn.thread_id, by=crisis.PROGRAM)
        payload = {"turn": turn.id}
        return unit.jobs.add(kind=DRAFT_JOB, key=f"draft:{turn.id}", thread=turn.thread_id, payload=payload).id

    def ask_person(self, thread: str, *, by: str) -> Outcome:
        """The help-seeker wants to reach a person: somebody is told, and they are told what follows.

        Raises:
            NotFoundError: no such conversation of this person.
        """

        def work(unit: Unit) -> Outcome:
            self._own(unit, thread, by)
            return self._happen(unit, unit.threads.raise_risk(thread, 0, by=by), events.PersonAsked())

        return self.store.run(work)

    # ------------------------------------------------------------------ drafts

    def keep_draft(
        self, unit: Unit, *, job: Any, turn: str, text: str, model: str, reasons: dict[str, Any]
    ) -> Draft | None:
        """What a model wrote, if it still answers the last word of a conversation that is not held.

        Returns:
            None where nobody needs it any more: held, taken over, closed, stopped, or written on. The words are
            dropped.
        """
        answered = unit.turns.get(turn)
        thread = unit.threads.get(answered.thread_id)
        newer = [t for t in unit.turns.of(thread.id, after=answered.sequence) if t.role == "user"]
        if thread.state != "ai_assisted" or newer or not self.policy.drafts or thread.drafts_stopped:
            return None
        verdict = self._gate(unit, thread, text, author="draft")
        if verdict.outcome == "block":
            rules = [as_name(rule) for rule in verdict.rules]
            unit.audit.add(crisis.PROGRAM, "draft.blocked", f"thread:{thread.id}", rules=rules, model=as_name(model))
            unit.counters.add("drafts_blocked")
            if job is not None:
                unit.jobs.mark(job, GATED)
            return None
        unit.counters.add("drafts_made")
        return unit.drafts.add(
            thread=thread.id,
            turn=turn,
            text=text,
            model=model,
            job=job,
            reasons={**reasons, "gate": {"outcome": verdict.outcome, "rules": list(verdict.rules)}},
            expires_at=unit.now() + timedelta(minutes=self.policy.draft_minutes),
        )

    def approve(self, draft: str, *, by: str, **facts: Any) -> StoredTurn:
        """Send a draft as it is.

        Raises:
            ConflictError: somebody decided it before, or the help-seeker wrote on meanwhile.
            TransitionError: the conversation is held or taken, or the gate wants the words edited first.
        """
        return self._send(draft, by=by, text=None, anyway=False, facts=facts)

    def edit(self, draft: str, text: str, *, by: str, anyway: bool = False, **facts: Any) -> StoredTurn:
        """Send other words instead.

        Args:
            anyway: the clinician has seen what the gate says and sends the words; what it blocks stays blocked.

        Raises:
            ConflictError, TransitionError: as for `approve`.
            DataError: nothing in it, or too long.
        """
        return self._send(draft, by=by, text=checked(text), anyway=anyway, facts=facts)

    def reject(self, draft: str, *, by: str, reason: str, **facts: Any) -> Draft:
        """Send nothing, with a reason.

        Raises:
            ConflictError: somebody decided it before.
            TransitionError: no reason, or `by` is no clinician or supervisor.
        """

        def work(unit: Unit) -> Draft:
            unit.counters.add("drafts_rejected")
            return unit.drafts.decide(draft, "rejected", by=by, reason=reason, **facts)[0]

        return self.store.run(work)

    def _send(self, draft: str, *, by: str, text: str | None, anyway: bool, facts: dict[str, Any]) -> StoredTurn:
        def work(unit: Unit) -> StoredTurn:
            seen = unit.drafts.get(draft)
            thread = unit.threads.raise_risk(seen.thread_id, 0, by=by)  # its row is ours until the end
            seen = unit.drafts.get(draft)
            if seen.state == "drafted":
                self._may_answer(unit, thread, seen)
                words = seen.text if text is None else text
                author: Author = "draft" if text is None else "person"
                self._pass(unit, thread, words, author=author, anyway=anyway and text is not None, by=by)
            state: Any = "approved" if text is None else "edited"
            sent = unit.drafts.decide(draft, state, by=by, text=text, **facts)[1]
            assert sent is not None
            unit.counters.add(f"drafts_{state}")
            return sent

        return self.store.run(work)

    def _may_answer(self, unit: Unit, thread: Thread, draft: Draft) -> None:
        if thread.state != "ai_assisted":
            raise TransitionError(
                f"This conversation is '{thread.state}'; a draft is sent only while it is 'ai_assisted'. Take it over "
                "and write yourself."
            )
        answered = unit.turns.get(draft.turn_id)
        if any(t.role == "user" for t in unit.turns.of(thread.id, after=answered.sequence)):
            raise ConflictError("The help-seeker has written on since this draft; read it, a new draft comes.")
        if draft.expires_at is not None and unit.now() >= draft.expires_at:
            raise ConflictError("This draft is too old; it expired.")

    # ------------------------------------------------------------------ people

    def take_over(self, thread: str, *, by: str) -> Thread:
        """A clinician owns the conversation; whoever comes second is told whose it is.

        Raises:
            ConflictError: somebody else has it.
            TransitionError: it is closed, or `by` is no clinician or supervisor.
        """

        def work(unit: Unit) -> Thread:
            unit.need_person(by, "take a conversation over")
            seen = unit.threads.raise_risk(thread, 0, by=by)
            if seen.state == "human_owned":
                if seen.owner == by:
                    return self._answered(unit, seen, by)
                raise ConflictError("Somebody else has taken this conversation over.", winner=seen.owner)
            crisis.expire_drafts(unit, thread, by=crisis.PROGRAM)
            crisis.end_tasks(unit, thread, ENDED, by=by)
            unit.threads.move(thread, "human_owned", by=by, owner=by)
            unit.counters.add("takeovers")
            return self._happen(unit, unit.threads.get(thread), events.TakenOver(by=by), by=by).thread

        return self.store.run(work)

    def write(self, thread: str, text: str, *, by: str, client_id: str, anyway: bool = False) -> StoredTurn:
        """A message of the owner of the conversation.

        Raises:
            TransitionError: it is not theirs, or the gate wants other words.
            DataError: nothing in it, too long, or an id that is the program's.
        """
        words, own = checked(text), persons_client_id(client_id)

        def work(unit: Unit) -> StoredTurn:
            unit.need_person(by, "write to a help-seeker")
            seen = unit.threads.raise_risk(thread, 0, by=by)
            if seen.state != "human_owned" or seen.owner != by:
                raise TransitionError("Take this conversation over before you write in it.")
            self._pass(unit, seen, words, author="person", anyway=anyway, by=by)
            self._answered(unit, seen, by)
            return unit.turns.add(thread=thread, client_id=own, role="assistant", text=words, author=by)

        return self.store.run(work)

    def give_back(self, thread: str, *, by: str, reason: str) -> Thread:
        """Back to drafts with approval, with a reason."""
        return self._person(thread, events.GivenBack(by=by, reason=reason), by=by, to="ai_assisted", reason=reason)

    def hold(self, thread: str, *, by: str, reason: str) -> Thread:
        """Leave it to whoever is on duty."""
        return self._person(thread, events.Held(by=by, reason=reason), by=by, to="risk_held", reason=reason)

    def close(self, thread: str, *, by: str, reason: str) -> Thread:
        """Close it, with a name and a reason."""

        def also(unit: Unit) -> None:
            crisis.end_tasks(unit, thread, ENDED, by=by)

        event = events.Closed(by=by, reason=reason)
        return self._person(thread, event, by=by, to="closed", reason=reason, also=also)

    def raise_risk(self, thread: str, tier: Tier, *, by: str, reason: str) -> Thread:
        """A person sees more than rules do."""
        return self._person(thread, events.Raised(by=by, tier=tier, reason=reason), by=by, reason=reason)

    def lower_risk(self, thread: str, tier: Tier, *, by: str, reason: str) -> Thread:
        """A person lowers the level, with a reason."""
        return self._person(thread, events.Lowered(by=by, tier=tier, reason=reason), by=by, reason=reason)

    def confirm_risk(self, thread: str, *, by: str) -> Thread:
        """A person has spoken with the help-seeker and confirms the level."""
        return self._person(thread, events.Confirmed(by=by), by=by)

    def follow_up(self, thread: str, at: datetime, *, by: str) -> Thread:
        """Set the time of a follow-up."""
        return self._person(thread, events.FollowUpSet(by=by, at=at), by=by)

    def followed_up(self, thread: str, *, by: str, outcome: str) -> Thread:
        """The follow-up was done; its task is closed with the outcome."""

        def also(unit: Unit) -> None:
            for task in unit.tasks.open(thread=thread):
                if task.kind == crisis.FOLLOW_UP:
                    unit.tasks.done(task.id, by=by, version=task.version, outcome=outcome)

        return self._person(thread, events.FollowedUp(by=by), by=by, also=also)

    def looked(self, task: str, *, by: str, version: int, outcome: str) -> Task:
        """A look, or what was asked of a person, is done. Where nothing else of the kind waits, its clock ends.

        Raises:
            ConflictError: changed since `version`, or done already.
        """

        def work(unit: Unit) -> Task:
            done = unit.tasks.done(task, by=by, version=version, outcome=outcome)
            person = done.kind in crisis.PERSONS
            kinds = crisis.PERSONS if person else (crisis.TAKEOVER, crisis.LOOK)
            if done.thread_id is not None:
                seen = unit.threads.raise_risk(done.thread_id, 0, by=by)
                waits = any(t.kind in kinds for t in unit.tasks.open(thread=seen.id))
                if seen.state != "closed" and not waits:
                    self._happen(unit, seen, events.Looked(by=by, what="person" if person else "look"), by=by)
            return done

        return self.store.run(work)

    def tick(self) -> int:
        """Time went by: clocks of conversations that wait, drafts that are too old. Run every few seconds.

        Returns:
            How many conversations something was done in.
        """
        with self.store.read() as unit:
            ids = [
                t.id
                for t in unit.threads.in_state("ai_assisted", "risk_held", "human_owned")
                if crisis.waits(t, unit.now())
            ]

        def work(id: str) -> Callable[[Unit], int]:
            def one(unit: Unit) -> int:
                # Its row is ours until the end: another server process may look at the same clock.
                now = unit.threads.raise_risk(id, 0, by=crisis.PROGRAM)
                if now.state == "closed" or not crisis.waits(now, unit.now()):
                    return 0
                before = crisis.known(unit, now)
                outcome = self._happen(unit, now, events.Tick())
                return int(outcome.state.asked != before.asked or outcome.state.reminded_at != before.reminded_at)

            return one

        done = 0
        for id in ids:
            try:
                done += self.store.run(work(id))
            except (DataError, NotFoundError, TransitionError):  # one conversation stops no clock of another
                self.store.run(lambda unit: unit.counters.add("ticks_failed"))
        self.store.run(lambda unit: unit.drafts.expire(by=crisis.PROGRAM))
        return done

    # ------------------------------------------------------------------ inside

    def _answered(self, unit: Unit, thread: Thread, by: str) -> Thread:
        """The owner is there: what waited for them in their conversation waits no more."""
        known = crisis.known(unit, thread)
        if known.due_at is None and known.person_at is None:
            return thread
        return self._happen(unit, thread, events.Looked(by=by), by=by).thread

    def _person(
        self,
        thread: str,
        event: events.Event,
        *,
        by: str,
        to: Any = None,
        reason: str | None = None,
        also: Callable[[Unit], None] | None = None,
    ) -> Thread:
        def work(unit: Unit) -> Thread:
            unit.need_person(by, "do this")
            seen = unit.threads.raise_risk(thread, 0, by=by)
            others = seen.state == "human_owned" and to is not None and seen.owner != by
            if others and not _supervises(unit, by) and not (to == "risk_held" and _left_waiting(unit, thread)):
                raise ConflictError("This conversation belongs to somebody else.", winner=seen.owner)
            if to is not None:
                seen = unit.threads.move(thread, to, by=by, reason=reason)
            elif reason is not None:
                unit.threads.notes.add(thread=thread, kind=type(event).__name__.lower(), text=reason, by=by)
            if also is not None:
                also(unit)
            if to in ("closed", "risk_held"):
                crisis.expire_drafts(unit, thread, by=crisis.PROGRAM)
            return self._happen(unit, seen, event, by=by).thread

        return self.store.run(work)

    def _happen(
        self,
        unit: Unit,
        thread: Thread,
        event: events.Event,
        *,
        by: str = crisis.PROGRAM,
        turn: StoredTurn | None = None,
    ) -> Outcome:
        setting = self.policy.setting(unit.now())
        found = crisis.happen(
            unit, thread, event, setting=setting, lines=self.policy.lines, by=by, turn=turn, local=self.policy.local
        )
        self.stop_if_due(unit, found.thread)
        return found

    def stop_if_due(self, unit: Unit, thread: Thread) -> bool:
        """Let the stop rule of a protocol speak, where there is one; whether it stopped the drafts now."""
        return self.policy.stop is not None and stopping.apply(unit, thread, self.policy.stop)

    def _own(self, unit: Unit, thread: str, user: str) -> Thread:
        found = unit.threads.find(thread)
        if found is None or found.help_seeker != user:
            raise NotFoundError("There is no conversation of yours with this id.")
        return found

    def _gate(self, unit: Unit, thread: Thread, text: str, *, author: Author) -> Verdict:
        return self.gate(
            text, said=conversation(unit, thread.id, last=SAID).turns, state=crisis.state_of(thread), author=author
        )

    def _pass(self, unit: Unit, thread: Thread, text: str, *, author: Author, anyway: bool, by: str) -> None:
        verdict = self._gate(unit, thread, text, author=author)
        rules = ", ".join(verdict.rules)
        if verdict.outcome == "block":
            raise TransitionError(f"These words are not sent ({rules}); write others.")
        if verdict.outcome != "pass":
            if not anyway:
                raise TransitionError(f"Look at these words again ({rules}): edit them, or send them all the same.")
            unit.audit.add(by, "gate.overruled", f"thread:{thread.id}", rules=[as_name(r) for r in verdict.rules])


def checked(text: str) -> str:
    """A message as it is kept.

    Raises:
        DataError: no text, nothing to see in it, too long, or half characters.
    """
    if not isinstance(text, str) or any("\ud800" <= c <= "\udfff" for c in text) or "\x00" in text:
        raise DataError("A message is text in UTF-8; what came is something else.")
    words = text.strip()
    if not words:
        raise DataError("There is nothing in this message.")
    if len(words) > LONGEST:
        raise DataError(f"A message has at most {LONGEST:,} characters; this one has {len(words):,}. Send it in parts.")
    return words


def _left_waiting(unit: Unit, thread: str) -> bool:
    """Whether a colleague was told that the owner does not react: they may take it out of the owner's hands."""
    return any(task.kind == crisis.PERSON_WAITS for task in unit.tasks.open(thread=thread))


def _supervises(unit: Unit, user: str) -> bool:
    return unit.users.get(user).role == "supervisor"


def open_tasks(store: Store) -> tuple[Task, ...]:
    """What people have to do, the most urgent first."""
    with store.read() as unit:
        return unit.tasks.open()
