"""Notes, plans, signatures and reports in the store: sealed, audited without words, gone with their person."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("sqlalchemy", reason="run: pip install 'heedful[serve]'")

from sqlalchemy import text

from heedful.errors import ConflictError, DataError, StoreError, TamperError, TransitionError
from heedful.store import Store, audit
from heedful.store.erasure import erase
from heedful.store.unit import Unit
from store_kit import SECRET, Cast, cast


@pytest.fixture
def who(store: Store) -> Cast:
    return cast(store)


def test_other_words_have_no_signature(store: Store, who: Cast) -> None:
    with store.begin() as unit:
        note = unit.case_notes.add(thread=who.thread, kind="note", text=f"Slept badly. {SECRET}", by=who.clara)
        unit.signatures.add(object=f"note:{note.id}", kind="author", words=note.text, by=who.clara)
        assert unit.signatures.valid(f"note:{note.id}", note.text) is not None
        changed = unit.case_notes.change(note.id, "Slept well.", by=who.clara, version=1)
        assert unit.signatures.valid(f"note:{note.id}", changed.text) is None
        assert unit.signatures.valid("note:another", note.text) is None
        assert unit.signatures.valid(f"note:{note.id}", note.text, kind="review") is None
    with store.read() as unit:
        (signed,) = unit.signatures.of(f"note:{note.id}")
        (entry,) = [e for e in unit.audit.of(f"note:{note.id}") if e.action == "signature.author"]
        assert (entry.actor, entry.facts["digest"]) == (who.clara, signed.digest)
        assert SECRET not in str(unit.audit.all())
        assert SECRET not in repr((note, signed))
    assert audit.verify(store).state == "ok"


def test_a_signature_cannot_be_changed(store: Store, who: Cast) -> None:
    with store.begin() as unit:
        unit.signatures.add(object="note:1", kind="author", words="a", by=who.clara)
    for statement in ("UPDATE signatures SET by = 'x'", "DELETE FROM signatures"):
        with pytest.raises((StoreError, TamperError)), store.begin() as unit:
            unit.execute(text(statement))


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (lambda unit, who: unit.case_notes.add(thread=who.thread, kind="note", text="x", by=who.anna), TransitionError),
        (lambda unit, who: unit.case_notes.add(thread=who.thread, kind="poem", text="x", by=who.clara), DataError),
        (
            lambda unit, who: unit.signatures.add(object="note:1", kind="author", words="x", by=who.admin),
            TransitionError,
        ),
        (lambda unit, who: unit.reports.add(user=who.anna, role="help_seeker", kind="fun", text="x"), DataError),
        (lambda unit, who: unit.threads.watched(who.thread, by=who.anna), TransitionError),
    ],
)
def test_what_is_refused(store: Store, who: Cast, work: Callable[[Unit, Cast], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        store.run(lambda unit: work(unit, who))


def test_only_the_author_changes_a_note_and_nobody_shows_it(store: Store, who: Cast) -> None:
    with store.begin() as unit:
        note = unit.case_notes.add(thread=who.thread, kind="note", text="one", by=who.clara)
        with pytest.raises(TransitionError, match="Only its author"):
            unit.case_notes.change(note.id, "two", by=who.carl, version=1)
        with pytest.raises(TransitionError, match="never shown"):
            unit.case_notes.share(note.id, by=who.clara, version=1)
        plan = unit.case_notes.add(thread=who.thread, kind="plan", text="one", by=who.clara)
        unit.case_notes.share(plan.id, by=who.clara, version=1)
        with pytest.raises(ConflictError):
            unit.case_notes.change(plan.id, "two", by=who.clara, version=1)
        assert unit.case_notes.change(plan.id, "two", by=who.clara, version=2).shared_at is None


def test_a_report_is_closed_once_with_an_outcome(store: Store, who: Cast) -> None:
    with store.begin() as unit:
        made = unit.reports.add(user=who.anna, role="help_seeker", kind="hurtful", text=SECRET)
        with pytest.raises(TransitionError, match="what came of it"):
            unit.reports.close(made.id, by=who.clara, outcome=" ", version=1)
        unit.reports.close(made.id, by=who.clara, outcome="Spoken about.", version=1)
        with pytest.raises(ConflictError):
            unit.reports.close(made.id, by=who.carl, outcome="Again.", version=1)
        assert [r.state for r in unit.reports.all()] == ["closed"]


def test_stopped_drafts_stay_stopped_and_the_first_reason_stands(store: Store, who: Cast) -> None:
    with store.begin() as unit:
        assert unit.threads.stop_drafts(who.thread, "stop-rule", by="program")
        assert not unit.threads.stop_drafts(who.thread, "consent", by="program")
        assert unit.threads.get(who.thread).drafts_stopped == "stop-rule"


def test_a_deletion_reaches_all_of_it(store: Store, who: Cast) -> None:
    with store.begin() as unit:
        note = unit.case_notes.add(thread=who.thread, kind="note", text=SECRET, by=who.clara)
        unit.signatures.add(object=f"note:{note.id}", kind="author", words=SECRET, by=who.clara)
        unit.reports.add(user=who.anna, role="help_seeker", kind="other", text=SECRET)
        unit.users.set_age(who.anna, 2033, by=who.anna)
    erase(store, who.anna, by=who.anna)
    with store.read() as unit:
        assert unit.case_notes.of(who.thread) == ()
        assert [(r.kind, r.text) for r in unit.reports.of(who.anna)] == [("other", None)]
        assert unit.users.get(who.anna).adult_from is None
        assert len(unit.signatures.of(f"note:{note.id}")) == 1  # a digest without its words says nothing
    with pytest.raises(ConflictError, match="erased"):
        store.run(lambda unit: unit.reports.add(user=who.anna, role="help_seeker", kind="other", text="late"))
