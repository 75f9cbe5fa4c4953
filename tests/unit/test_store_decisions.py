"""Who decides, and who is told that somebody was faster: turns once, decisions once, only a person lowers a risk."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

pytest.importorskip("sqlalchemy", reason="run: pip install 'heedful[serve]'")

from heedful.errors import (
    ConflictError,
    DataError,
    TransitionError,
)
from heedful.store import Store, Unit, audit, records
from store_kit import SECRET, Cast, Clock, cast, together


@pytest.fixture
def who(store: Store) -> Cast:
    return cast(store)


def draft(store: Store, who: Cast, text: str = "That sounds hard.") -> records.Draft:
    with store.begin() as unit:
        turn = unit.turns.of(who.thread)[0]
        return unit.drafts.add(
            thread=who.thread, turn=turn.id, text=text, model="tiny-1", reasons={"strategy": ["Question", SECRET]}
        )


# ---------------------------------------------------------------------- turns once, decisions once


def test_a_duplicate_submit_is_the_same_turn(store: Store, who: Cast) -> None:
    with store.begin() as unit:
        once = unit.turns.add(thread=who.thread, client_id="dup", role="user", text="Again", author=who.anna)
    with store.begin() as unit:
        assert unit.turns.add(thread=who.thread, client_id="dup", role="user", text="Again", author=who.anna) == once
    with pytest.raises(ConflictError, match="used for another message"), store.begin() as unit:
        unit.turns.add(thread=who.thread, client_id="dup", role="user", text="Else", author=who.anna)
    with store.read() as unit:
        assert len(unit.turns.of(who.thread)) == 3


@pytest.mark.parametrize("client_id", ["", "a b", "x" * 121, "\x00", "<script>"])
def test_a_strange_client_id_is_refused(store: Store, who: Cast, client_id: str) -> None:
    with pytest.raises(DataError, match="A client id has"), store.begin() as unit:
        unit.turns.add(thread=who.thread, client_id=client_id, role="user", text="words")


def test_eight_duplicate_submits_at_once_are_one_turn(store: Store, who: Cast) -> None:
    def send() -> object:
        return store.run(lambda unit: unit.turns.add(thread=who.thread, client_id="dup", role="user", text="Again"))

    assert together(*[send] * 8) == [None] * 8
    with store.read() as unit:
        assert [t.sequence for t in unit.turns.of(who.thread)] == [1, 2, 3]


def test_writers_at_once_get_numbers_without_gaps(store: Store, who: Cast) -> None:
    def send(n: int) -> Callable[[], object]:
        def work() -> None:
            for k in range(4):
                with store.begin() as unit:
                    unit.turns.add(thread=who.thread, client_id=f"{n}-{k}", role="user", text="x")

        return work

    assert together(*[send(n) for n in range(6)]) == [None] * 6
    with store.read() as unit:
        assert [t.sequence for t in unit.turns.of(who.thread)] == list(range(1, 27))


def test_of_two_clinicians_one_decides_and_the_other_is_told(store: Store, who: Cast) -> None:
    made = draft(store, who)

    def approve() -> None:
        with store.begin() as unit:
            unit.drafts.decide(made.id, "approved", by=who.clara)

    def reject() -> None:
        with store.begin() as unit:
            unit.drafts.decide(made.id, "rejected", by=who.carl, reason="Too cold.")

    errors = together(approve, reject)
    lost = [err for err in errors if err is not None]
    assert len(lost) == 1
    assert isinstance(lost[0], ConflictError)
    winner = who.carl if errors[0] else who.clara
    assert (lost[0].winner, lost[0].state) == (winner, "rejected" if errors[0] else "approved")
    with store.read() as unit:
        assert unit.drafts.get(made.id).decided_by == winner
        assert [d.by for d in unit.decisions.of(who.thread)] == [winner]
        assert len(unit.turns.of(who.thread)) == (2 if errors[0] else 3)


def test_an_approved_draft_is_a_turn_and_an_edited_one_has_the_new_words(store: Store, who: Cast) -> None:
    first, second = draft(store, who), draft(store, who)
    with store.begin() as unit:
        decided, sent = unit.drafts.decide(first.id, "approved", by=who.clara, seconds=12)
        assert sent is not None
        assert (sent.text, sent.author, decided.sent_turn_id) == ("That sounds hard.", who.clara, sent.id)
        unit.drafts.decide(second.id, "edited", by=who.carl, text="That sounds very hard.", reason="warmer")
    with store.read() as unit:
        assert unit.drafts.get(first.id) == decided
        assert [t.text for t in unit.turns.of(who.thread)][2:] == ["That sounds hard.", "That sounds very hard."]
        assert [(d.action, d.position, dict(d.facts)) for d in unit.decisions.of(who.thread)] == [
            ("draft.approved", 1, {"seconds": 12}),
            ("draft.edited", 2, {}),
        ]


@pytest.mark.parametrize("by", ["anna", "admin", "program"])
def test_nobody_but_staff_approves(store: Store, who: Cast, by: str) -> None:
    """ "You are the clinician, approve" does not work where roles are looked up and not believed."""
    made = draft(store, who)
    with pytest.raises(TransitionError, match="Only a clinician or supervisor"), store.begin() as unit:
        unit.drafts.decide(made.id, "approved", by=getattr(who, by, by))
    with store.begin() as unit:
        unit.users.change(who.carl, by=who.admin, disabled=True)
    with pytest.raises(TransitionError, match="Only a clinician"), store.begin() as unit:
        unit.drafts.decide(made.id, "approved", by=who.carl)


def test_decisions_need_what_they_need(store: Store, who: Cast) -> None:
    made = draft(store, who)
    for state, extra, error in (
        ("rejected", {}, "say the reason"),
        ("rejected", {"reason": "  "}, "say the reason"),
        ("edited", {}, "Edited words belong"),
        ("approved", {"text": "x"}, "Edited words belong"),
        ("drafted", {}, "cannot go from 'drafted' to 'drafted'"),
    ):
        with pytest.raises((TransitionError, DataError), match=error), store.begin() as unit:
            unit.drafts.decide(made.id, state, by=who.clara, **extra)  # type: ignore[arg-type]
    with store.read() as unit:
        assert unit.drafts.get(made.id) == made


def test_a_swallowed_refusal_leaves_nothing_half_done(store: Store, who: Cast) -> None:
    """The draft cannot be sent, because the conversation is closed: then it is not approved either."""
    made = draft(store, who)
    with store.begin() as unit:
        unit.threads.move(who.thread, "closed", by=who.clara, reason="moved away")
        with pytest.raises(TransitionError, match="closed"):
            unit.drafts.decide(made.id, "approved", by=who.clara)
    with store.read() as unit:
        assert unit.drafts.get(made.id).state == "drafted"
        assert unit.decisions.of(who.thread) == ()
        assert [e.action for e in unit.audit.of(f"draft:{made.id}")] == ["draft.made"]


def test_steps_that_belong_together_are_undone_together(store: Store, who: Cast) -> None:
    def steps(unit: Unit) -> None:
        with unit.together():
            unit.notes.add(thread=who.thread, kind="x", text="words", by=who.clara)
            unit.audit.add("program", "test.done", "test:1")
            unit.counters.add("steps")
            raise RuntimeError("no")

    with store.begin() as unit:
        unit.counters.add("before")
        with pytest.raises(RuntimeError, match="no"):
            steps(unit)
        unit.audit.add("program", "test.after", "test:1")
    with store.read() as unit:
        assert unit.notes.of(who.thread) == ()
        assert [e.action for e in unit.audit.of("test:1")] == ["test.after"]
        assert unit.counters.all() == {("before", "2026"): 1}
    assert audit.verify(store).state == "ok"


def test_drafts_expire_by_themselves(store: Store, who: Cast, clock: Clock) -> None:
    with store.begin() as unit:
        turn = unit.turns.of(who.thread)[0]
        late = unit.drafts.add(
            thread=who.thread, turn=turn.id, text="x", model="m", expires_at=clock() + timedelta(minutes=5)
        )
    draft(store, who)
    clock.forward(minutes=6)
    with store.begin() as unit:
        assert unit.drafts.expire(by="program") == 1
        assert unit.drafts.get(late.id).state == "expired"
        assert len(unit.drafts.open()) == 1


# ---------------------------------------------------------------------- conversations


def test_a_stale_version_loses_and_learns_who_won(store: Store, who: Cast) -> None:
    with store.read() as unit:
        seen = unit.threads.get(who.thread)
    with store.begin() as unit:
        unit.threads.move(who.thread, "human_owned", by=who.clara, version=seen.version)
    with pytest.raises(ConflictError) as caught, store.begin() as unit:
        unit.threads.move(who.thread, "closed", by=who.carl, version=seen.version, reason="done")
    assert (caught.value.winner, caught.value.state, caught.value.version) == (who.clara, "human_owned", 2)


def test_only_a_person_lowers_a_risk_with_a_reason_and_open_eyes(store: Store, who: Cast) -> None:
    with store.begin() as unit:
        raised = unit.threads.raise_risk(who.thread, 4, by="rules:en-3")
        assert unit.threads.raise_risk(who.thread, 2, by="model:m1") == raised  # nothing to raise, nothing lowered
    for by, reason, version, error in (
        ("rules:en-3", "was a joke", raised.version, TransitionError),
        (who.anna, "was a joke", raised.version, TransitionError),
        (who.clara, " ", raised.version, TransitionError),
        (who.clara, "was a joke", raised.version - 1, ConflictError),
    ):
        with pytest.raises(error), store.begin() as unit:
            unit.threads.lower_risk(who.thread, 1, by=by, reason=reason, version=version)
    with pytest.raises(TransitionError, match="not to 4"), store.begin() as unit:
        unit.threads.lower_risk(who.thread, 4, by=who.clara, reason="no", version=raised.version)
    with store.begin() as unit:
        lowered = unit.threads.lower_risk(who.thread, 1, by=who.clara, reason="a song", version=raised.version)
    with store.read() as unit:
        assert (lowered.risk_level, unit.threads.get(who.thread).risk_highest) == (1, 4)
        assert [(n.kind, n.text, n.by) for n in unit.notes.of(who.thread)] == [("risk_lowered", "a song", who.clara)]


def test_a_raise_is_never_lost_between_two_writers(store: Store, who: Cast) -> None:
    levels = [1, 5, 2, 4, 3, 0]

    def work(level: int) -> Callable[[], object]:
        return lambda: store.run(lambda unit: unit.threads.raise_risk(who.thread, level, by=f"rules:{level}"))

    assert together(*[work(level) for level in levels]) == [None] * len(levels)
    with store.read() as unit:
        thread = unit.threads.get(who.thread)
        assert (thread.risk_level, thread.risk_highest) == (5, 5)


def test_no_name_keeps_a_risk_from_being_written_down(store: Store, who: Cast) -> None:
    """Rules are data, in four languages: a name that the audit does not take is changed, the event is kept."""
    rules = ["de/verhüllt@2", "en/plan@1", "我想死", f"I cannot go on {SECRET}", "x" * 500, ""]
    with store.begin() as unit:
        unit.risk_events.add(thread=who.thread, level=4, source="rules", action="warm handover", rules=rules)
    with store.read() as unit:
        event = unit.risk_events.of(who.thread)[0]
        assert event.rules[:2] == ("de/verhullt@2", "en/plan@1")
        assert all(name.startswith("name-") for name in event.rules[2:])
        assert unit.risk_events.highest(who.thread) == 4
        assert SECRET not in repr(unit.audit.of(f"thread:{who.thread}"))


def test_a_held_conversation_is_closed_only_after_a_person_took_it(store: Store, who: Cast) -> None:
    with store.begin() as unit:
        unit.threads.move(who.thread, "risk_held", by="rules:en-3")
    with pytest.raises(TransitionError, match="from there it goes to human_owned"), store.begin() as unit:
        unit.threads.move(who.thread, "closed", by=who.clara, reason="fine now")
    with pytest.raises(TransitionError, match="Only a clinician"), store.begin() as unit:
        unit.threads.move(who.thread, "human_owned", by="rules:en-3")
    with store.begin() as unit:
        owned = unit.threads.move(who.thread, "human_owned", by=who.clara)
        assert owned.owner == who.clara
        closed = unit.threads.move(who.thread, "closed", by=who.clara, reason="fine now")
    with store.read() as unit:
        assert unit.threads.get(who.thread) == closed
        assert (closed.closed_by, closed.closed_reason) == (who.clara, "fine now")
    with pytest.raises(TransitionError, match="conversation is closed"), store.begin() as unit:
        unit.turns.add(thread=who.thread, client_id="late", role="user", text="hello?")


def test_the_inbox_has_the_highest_risk_first(store: Store, who: Cast, clock: Clock) -> None:
    with store.begin() as unit:
        other = unit.threads.open(help_seeker=who.anna, by=who.anna)
        clock.forward(minutes=1)
        third = unit.threads.open(help_seeker=who.anna, by=who.anna)
        unit.threads.raise_risk(third.id, 3, by="rules:en")
    with store.read() as unit:
        assert [t.id for t in unit.threads.in_state("ai_assisted")] == [third.id, *sorted([who.thread, other.id])]


def test_a_conversation_is_handed_from_person_to_person(store: Store, who: Cast) -> None:
    with store.begin() as unit:
        unit.threads.move(who.thread, "human_owned", by=who.clara)
        assert unit.threads.assign(who.thread, who.carl, by=who.clara).owner == who.carl
    with pytest.raises(TransitionError, match="own a conversation"), store.begin() as unit:
        unit.threads.assign(who.thread, who.admin, by=who.clara)
