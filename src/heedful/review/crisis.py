"""Actions of the crisis path, carried out in the store, in the transaction of whatever caused them.

`heedful.safety.state` decides and keeps nothing; this module keeps and decides nothing. A message, its assessment, what
it led to and the new state of the conversation are kept together or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from heedful.errors import DataError
from heedful.review.reports import yearly
from heedful.safety import events, texts
from heedful.safety.crisis import TIERS
from heedful.safety.state import State, rung_of, step
from heedful.store.records import StoredTurn, Task, Thread
from heedful.store.unit import Unit

PROGRAM = "crisis-path"
"""Who acts in the audit where no person did."""
TAKEOVER, LOOK, FOLLOW_UP = "takeover", "look", "follow_up"
PERSON_ASKED, PERSON_WAITS = "person_asked", "person_waits"
"""Tasks: a help-seeker asked for a person; the owner of their conversation did not react, so somebody else is told."""
PERSONS = (PERSON_ASKED, PERSON_WAITS)
WAITED_FOR = (events.TakenOver, events.Looked, events.Lowered, events.Closed)
"""What a person does that can end a clock, and with it the tasks that it belongs to."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an event of the crisis path came to.

    Args:
        state: what is known about the risk now.
        said: turns that the program wrote to the help-seeker, from fixed texts.
        resources, interrupt: whether crisis lines, or the card that cannot be scrolled past, are to be shown now.
        tasks: for people, made just now.
    """

    thread: Thread
    state: State
    said: tuple[StoredTurn, ...] = ()
    resources: bool = False
    interrupt: bool = False
    tasks: tuple[Task, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Lines:
    """What stands in the places of the texts: the first line of the clinic's resource table, the emergency number."""

    line: str = field(repr=False)
    emergency: str = field(repr=False)


def state_of(thread: Thread) -> State:
    """The state of the crisis path of a conversation.

    Raises:
        DataError: what is stored is damaged; a person has to look.
    """
    found = (thread.risk_state or {}).get("crisis")
    return State(highest=TIERS[thread.risk_highest]) if found is None else State.from_dict(found)


def known(unit: Unit, thread: Thread) -> State:
    """The state of a conversation; a new one begins in the language of the account.

    Where what is stored is damaged, it is made again from what stands beside it, with a clock that has run out: a
    person looks with the next tick.
    """
    user = unit.users.find(thread.help_seeker)
    language = user.language if user else "en"
    if (thread.risk_state or {}).get("crisis") is None:
        return replace(state_of(thread), language=language)
    if not damaged(thread):
        return state_of(thread)
    tier, highest = TIERS[thread.risk_level], TIERS[thread.risk_highest]
    return State(
        thread=thread.state,  # type: ignore[arg-type]
        tier=tier,
        highest=highest,
        rung=rung_of(tier, 0, "none"),
        owner=thread.owner if thread.state == "human_owned" else None,
        resources_open=tier != "none",
        due_at=unit.now(),
        language=language,
    )


def damaged(thread: Thread) -> bool:
    """Whether the stored state of a conversation cannot be read."""
    try:
        state_of(thread)
    except DataError:
        return True
    return False


def read_up_to(thread: Thread) -> int:
    """Sequence of the last turn that the crisis rules have read; a turn is read once."""
    return int((thread.risk_state or {}).get("read", 0))


def waits(thread: Thread, now: datetime) -> bool:
    """Whether a clock of this conversation has run out, or nobody knows."""
    if damaged(thread):
        return True
    state = state_of(thread)
    times = (state.again_at, state.due_at, state.follow_up_at, state.passes_on_at)
    return any(at is not None and at <= now for at in times)


def last_here(unit: Unit, thread: Thread) -> datetime:
    """When the owner of a conversation last did something in it: wrote, or took it."""
    turns = [t.created_at for t in unit.turns.last(thread.id, 50) if t.author == thread.owner and t.role != "user"]
    acts = [event.at for event in unit.risk_events.of(thread.id) if event.person == thread.owner]
    return max(turns + acts, default=thread.opened_at)


def clock_time(at: datetime) -> str:
    """A time where no clinic says how it shows one.

    >>> from datetime import timezone
    >>> clock_time(datetime(2026, 11, 22, 9, 30, tzinfo=timezone.utc))
    '2026-11-22 09:30 UTC'
    """
    return at.strftime("%Y-%m-%d %H:%M %Z")


def happen(
    unit: Unit,
    thread: Thread,
    event: events.Event,
    *,
    setting: events.Setting,
    lines: Callable[[str], Lines],
    by: str = PROGRAM,
    turn: StoredTurn | None = None,
    local: Callable[[datetime], str] = clock_time,
) -> Outcome:
    """Let an event happen to a conversation and carry out what follows.

    Args:
        lines: what to fill into texts of a language.
        by: the person, where one did it.
        turn: the message that is the event, if it is one.
        local: how a text names a time.

    Raises:
        TransitionError: a change that the table of transitions does not have.
    """
    before, broken = known(unit, thread), damaged(thread)
    if broken:
        unit.audit.add(PROGRAM, "risk_state.damaged", f"thread:{thread.id}")
        unit.counters.add("risk_states_damaged")
    state, actions = step(before, event, unit.now(), setting=setting)
    run = _Doing(unit=unit, thread=thread, by=by, turn=turn, state=state, setting=setting, lines=lines)
    # What the event is, for exactly once: a message, or the version that it found. Each event that says something
    # leaves a higher version, and one that is done again after a rollback finds the same. No second of a clock does.
    run.about = turn.id if turn else f"v{unit.threads.get(thread.id).version}"
    run.local = local
    for action in actions:
        run.do(action)
    same = not (run.tasks or run.said or broken) and replace(state, clock=before.clock) == before
    if same and isinstance(event, events.Tick):
        return Outcome(thread=thread, state=before)  # nothing happened: nothing is written
    if isinstance(event, WAITED_FOR) and state.due_at is None:
        end_tasks(unit, thread.id, (TAKEOVER, LOOK), by=by)
    if before.person_at is not None and state.person_at is None:
        end_tasks(unit, thread.id, PERSONS, by=by)
    if run.resources:
        yearly.count(unit, yearly.REFERRALS, state.tier)
    if isinstance(event, events.Said) and run.acted and run.logged:
        yearly.count(unit, yearly.PROTOCOLS, state.tier)
    read = max(read_up_to(thread), turn.sequence if turn else 0)
    return Outcome(
        thread=_keep(unit, thread, state, read, by=by, reason=getattr(event, "reason", "")),
        state=state,
        said=tuple(run.said),
        resources=run.resources,
        interrupt=run.interrupt,
        tasks=tuple(run.tasks),
    )


def _keep(unit: Unit, thread: Thread, state: State, read: int, *, by: str, reason: str) -> Thread:
    """Write the state, and up to which message it was read."""
    kept = {"crisis": state.to_dict(), "read": read}
    if state.risk_level >= thread.risk_level:
        return unit.threads.raise_risk(thread.id, state.risk_level, by=by, state=kept)
    now = unit.threads.get(thread.id)
    return unit.threads.lower_risk(thread.id, state.risk_level, by=by, reason=reason, version=now.version, state=kept)


@dataclass(kw_only=True)
class _Doing:
    unit: Unit
    thread: Thread
    by: str
    turn: StoredTurn | None
    state: State
    setting: events.Setting
    lines: Callable[[str], Lines]
    about: str = ""
    said: list[StoredTurn] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    resources: bool = False
    interrupt: bool = False
    acted: bool = False
    logged: bool = False
    local: Callable[[datetime], str] = clock_time

    def do(self, action: events.Action) -> None:
        """One action."""
        self.acted = self.acted or not isinstance(action, events.Log)
        match action:
            case events.Ask(question=question, language=language):
                self.write(f"ask:{question}", texts.load(texts.nearest_language(language)).question(question), language)
            case events.Say(id=id, language=language):
                # To whoever is in a person's hands it is a notice: it takes no question from that person's mouth.
                notice = self.state.thread == "human_owned"
                words = self.words(id, language)
                self.write(f"say:{id}", words, language, role="system" if notice else "assistant")
            case events.ShowResources():
                self.resources = True
            case events.InterruptCard():
                self.resources = self.interrupt = True
            case events.HoldThread():
                if self.unit.threads.get(self.thread.id).state != "risk_held":
                    self.unit.threads.move(self.thread.id, "risk_held", by=self.by, reason=None)
                expire_drafts(self.unit, self.thread.id, by=PROGRAM)
                self.unit.counters.add("threads_held")
            case events.QueueTakeover(kind=kind, due=due, overdue=overdue, facts=facts):
                self.queue(kind, due, overdue=overdue, facts=facts)
            case events.QueuePerson(due=due, owner=owner):
                self.queue_person(due, owner)
            case events.FollowUp(due=due, by=by):
                if not self.open(FOLLOW_UP):
                    self.tasks.append(
                        self.unit.tasks.add(
                            kind=FOLLOW_UP, due_at=due, by=by or self.by, thread=self.thread.id, owner=by or None
                        )
                    )
            case events.Log(event=event, facts=facts):
                self.log(event, facts)

    def words(self, id: str, language: str) -> str:
        found = self.lines(language)
        return texts.load(texts.nearest_language(language)).say(
            id,
            minutes=self.setting.response_minutes,
            line=found.line,
            emergency=found.emergency,
            seen=self.local(last_here(self.unit, self.thread)) if id in ("owner-told", "next-told") else "",
        )

    def write(
        self, what: str, words: str, language: str, *, role: Literal["assistant", "system"] = "assistant"
    ) -> None:
        """A fixed text, to the help-seeker; the same event never writes it twice in a language.

        What was kept stands, also where a crisis line in it was changed since.
        """
        id = f"crisis:{self.about}:{what}:{texts.nearest_language(language)}"
        kept = self.unit.turns.kept(self.thread.id, id)
        if kept is not None:
            self.said.append(kept)
            return
        turn = self.unit.turns.add(thread=self.thread.id, client_id=id, role=role, text=words)
        self.said.append(turn)
        version = texts.load(texts.nearest_language(self.state.language)).version
        self.unit.audit.add(PROGRAM, "crisis.said", f"turn:{turn.id}", what=what, version=version)

    def queue(self, kind: str, due: Any, *, overdue: bool, facts: Any) -> None:
        waiting = self.open(kind) or (overdue and (self.open(TAKEOVER) or self.open(LOOK)))
        if overdue:
            self.unit.audit.add(PROGRAM, "task.overdue", f"thread:{self.thread.id}", kind=kind)
            self.unit.counters.add("takeovers_overdue")
        if waiting:
            return  # the clock that runs is the one that counts
        made = self.unit.tasks.add(
            kind=kind, due_at=due, by=self.by, thread=self.thread.id, text=json.dumps(dict(facts), sort_keys=True)
        )
        self.tasks.append(made)
        self.unit.counters.add(f"{kind}s_queued")

    def queue_person(self, due: datetime, owner: str | None) -> None:
        kind = PERSON_WAITS if self.state.person_passed else PERSON_ASKED
        if self.open(kind):
            return
        by = PROGRAM if kind == PERSON_WAITS else self.thread.help_seeker
        self.tasks.append(self.unit.tasks.add(kind=kind, due_at=due, by=by, thread=self.thread.id, owner=owner))
        if kind == PERSON_ASKED:
            self.unit.counters.add("persons_asked_for")

    def open(self, kind: str) -> list[Task]:
        return [task for task in self.unit.tasks.open(thread=self.thread.id) if task.kind == kind]

    def log(self, event: str, facts: Any) -> None:
        self.logged = True
        person = self.by if self.by != PROGRAM else None
        self.unit.risk_events.add(
            thread=self.thread.id,
            turn=self.turn.id if self.turn else None,
            level=self.state.risk_level,
            source="person" if person is not None else "model" if event == "believed" else "rules",
            action=event,
            rules=names(facts.get("rules", ""), facts.get("versions", "")),
            person=person,
        )


def names(rules: str, versions: str) -> tuple[str, ...]:
    """`en/plan@1.0+ab12`: each rule with the version of its file, as the log takes them."""
    of = dict(part.split(" ", 1) for part in versions.split(", ") if " " in part)
    return tuple(
        f"{rule}@{of[rule.split('/')[0]].replace(' ', '+')}" if rule.split("/")[0] in of else rule
        for rule in rules.split(", ")
        if rule
    )


def end_tasks(unit: Unit, thread: str, kinds: Sequence[str], *, by: str) -> None:
    """Open tasks of these kinds are done, by a person."""
    for task in unit.tasks.open(thread=thread):
        if task.kind in kinds:
            unit.tasks.done(task.id, by=by, version=task.version)


def expire_drafts(unit: Unit, thread: str, *, by: str, keep: Iterable[str] = ()) -> int:
    """No draft of this conversation waits any more, and none is being made; how many were let go."""
    kept = set(keep)
    late = [draft for draft in unit.drafts.of(thread, state="drafted") if draft.id not in kept]
    for draft in late:
        unit.drafts.decide(draft.id, "expired", by=by)
    for job in unit.jobs.of(thread):
        if job.kind == "draft":
            unit.jobs.cancel(job.id, by=by)
    return len(late)
