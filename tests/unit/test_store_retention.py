"""Words whose time is over are deleted, and a conversation that is still open goes on counting."""

from __future__ import annotations

from datetime import timedelta

import pytest

pytest.importorskip("sqlalchemy", reason="run: pip install 'heedful[serve]'")

from heedful.store import Store, audit
from heedful.store.retention import expire
from store_kit import SECRET, Cast, Clock, cast, fill


def test_nothing_happens_before_its_time(store: Store, clock: Clock) -> None:
    fill(store, cast(store))
    assert expire(store, clock.at - timedelta(days=365)) == 0


def test_old_words_go_and_young_ones_stay(store: Store, clock: Clock) -> None:
    who = cast(store)
    fill(store, who)
    clock.forward(days=400)
    with store.begin() as unit:
        unit.turns.add(thread=who.thread, client_id="young", role="user", text="Here again.", author=who.anna)
        unit.memory.add(help_seeker=who.anna, text="young")
    assert expire(store, clock.at - timedelta(days=365)) > 0
    with store.read() as unit:
        assert [t.text for t in unit.turns.of(who.thread)] == ["Here again."]
        assert [m.text for m in unit.memory.of(who.anna)] == ["young"]
        assert (unit.drafts.of(who.thread), unit.checkins.of(who.anna), unit.exercises.of(who.anna)) == ((), (), ())
        assert [d.action for d in unit.decisions.of(who.thread)] == ["draft.edited"]
        assert unit.users.get(who.anna).name is not None  # the account is still hers
    assert audit.verify(store).state == "ok"


@pytest.mark.parametrize("held", [True, False])
def test_a_conversation_with_an_open_risk_keeps_its_words(store: Store, clock: Clock, who: Cast, held: bool) -> None:
    fill(store, who)
    with store.begin() as unit:
        unit.threads.raise_risk(who.thread, 2, by="rules")
        if held:
            unit.threads.move(who.thread, "risk_held", by="rules", reason=None)
        else:
            unit.threads.move(who.thread, "human_owned", by=who.clara, owner=who.clara, reason=None)
    with store.read() as unit:
        said = unit.turns.of(who.thread)
        assert len(said) > 1
    clock.forward(days=400)
    expire(store, clock.at)
    with store.read() as unit:
        assert unit.turns.of(who.thread) == said
        assert unit.checkins.of(who.anna) == ()


def test_the_reason_for_lowering_a_risk_stays(store: Store, clock: Clock, who: Cast) -> None:
    with store.begin() as unit:
        unit.threads.raise_risk(who.thread, 2, by="rules")
        version = unit.threads.get(who.thread).version
        unit.threads.lower_risk(who.thread, 0, by=who.clara, reason="It was a song.", version=version)
    clock.forward(days=400)
    expire(store, clock.at)
    with store.read() as unit:
        assert [n.text for n in unit.notes.of(who.thread)] == ["It was a song."]


def test_a_conversation_counts_on_where_all_its_words_are_gone(store: Store, clock: Clock, who: Cast) -> None:
    with store.read() as unit:
        before = unit.turns.last(who.thread, 1)[0].sequence
    clock.forward(days=400)
    expire(store, clock.at)
    with store.begin() as unit:
        (left,) = unit.turns.of(who.thread)
        assert (left.sequence, left.text) == (before, "")
        assert SECRET not in str([t.text for t in unit.turns.of(who.thread)])
        made = unit.turns.add(thread=who.thread, client_id="next", role="user", text="Hello again.")
        assert made.sequence == before + 1
    assert expire(store, clock.at) == 1  # the empty one is not the newest any more
    assert expire(store, clock.at) == 0


@pytest.fixture
def who(store: Store) -> Cast:
    return cast(store)
