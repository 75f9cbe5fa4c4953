"""Deletion of one help-seeker: no word is left, the facts are, and a signed receipt says so."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="run: pip install 'heedful[serve]'")

from sqlalchemy import select

from heedful.errors import ConflictError, NotFoundError, TransitionError
from heedful.privacy import Keys
from heedful.store import Store, audit, engines
from heedful.store.columns import Base
from heedful.store.erasure import erase, verify_receipt
from heedful.store.rows import sealed_columns
from heedful.types import Label
from store_kit import SECRET, Cast, cast, fill


@pytest.fixture
def who(store: Store) -> Cast:
    return cast(store)


def test_deletion_leaves_no_word_and_a_signed_receipt(store: Store, who: Cast, tmp_path: Path) -> None:
    fill(store, who)
    receipt = erase(store, who.anna, by=who.anna)
    assert receipt.receipt["rows"] == {
        "checkins": 1, "drafts": 1, "exercises": 1, "jobs": 1, "labels": 1, "memory_items": 1, "scores": 1,
        "sessions": 1, "tasks": 1, "threads": 1, "traces": 1, "turns": 3, "users": 1,
    }  # fmt: skip
    assert [a["name"] for a in receipt.receipt["adapters"]] == ["runs/dpo-1"]
    assert [e["name"] for e in receipt.receipt["exports"]] == ["pairs.jsonl"]
    assert verify_receipt(store, receipt)
    changed = dataclasses.replace(receipt, receipt={**receipt.receipt, "adapters": []})
    assert not verify_receipt(store, changed)
    with store.read() as unit:
        assert unit.erasures.of(who.anna) == (receipt,)
        for table in Base.metadata.sorted_tables:
            for name in sealed_columns(table):
                left = unit.execute(select(table.c.id).where(table.c[name].is_not(None))).scalars().all()
                assert set(left) <= {who.admin, who.clara, who.carl}, (table.name, name)
        assert unit.users.get(who.anna).name is None
        assert unit.users.by_name(f"Anna {SECRET}") is None
        assert (unit.threads.get(who.thread).state, unit.threads.get(who.thread).risk_highest) == ("closed", 2)
    assert audit.verify(store).state == "ok"


def test_what_others_need_stays_without_words(store: Store, who: Cast) -> None:
    """Ledgers and facts of the crisis path stay under the bare id."""
    fill(store, who)
    erase(store, who.anna, by=who.admin)
    with store.read() as unit:
        assert [c.purpose for c in unit.consents.of(who.anna)] == ["training"]
        assert [e.level for e in unit.risk_events.of(who.thread)] == [3]
        assert [d.action for d in unit.decisions.of(who.thread)] == ["draft.edited"]
        assert len(unit.notices.of(who.anna)) == 1
        found = {task.kind: task.text for task in unit.tasks.open()}
        assert found == {"follow_up": None, "erased_at_risk": None}
        assert unit.counters.all() == {("referrals", "2026"): 7}


def test_the_deleted_bytes_are_gone_from_the_disk(tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Freed pages are overwritten, the journal is cut off. Looked at in a file that SQLCipher left in clear."""
    pytest.importorskip("sqlcipher3", reason="run: pip install 'heedful[serve]'")
    monkeypatch.setattr(engines, "_unlock", lambda raw, key: None)
    store = Store.open(f"sqlite:///{tmp_path}/store.db", keys)
    who = cast(store)
    with store.begin() as unit:
        for n in range(50):
            unit.turns.add(thread=who.thread, client_id=f"n{n}", role="user", text="words " * 50)
    with store.read() as unit:
        blobs = [bytes(b) for b in unit.execute(select(Base.metadata.tables["turns"].c.text)).scalars()]

    def on_disk() -> list[bytes]:
        data = b"".join(path.read_bytes() for path in sorted(tmp_path.glob("store.db*")))
        return [blob for blob in blobs if blob[:100] in data]

    assert len(on_disk()) == 52
    erase(store, who.anna, by=who.admin)
    assert on_disk() == []
    store.close()


def test_nothing_is_kept_about_somebody_who_was_erased(store: Store, who: Cast) -> None:
    """A worker that was still writing a draft, a page that was still open: too late."""
    fill(store, who)
    erase(store, who.anna, by=who.admin)
    label = Label(set="mesc_emotion", value="sadness")
    for late in (
        lambda unit: unit.checkins.add(help_seeker=who.anna, instrument="phq9", answers={}),
        lambda unit: unit.labels.add(thread=who.thread, label=label),
        lambda unit: unit.turns.add(thread=who.thread, client_id="late", role="user", text="words"),
        lambda unit: unit.threads.open(help_seeker=who.anna, by=who.clara),
        lambda unit: unit.memory.add(help_seeker=who.anna, text="words"),
        lambda unit: unit.jobs.add(kind="reply", key="reply:2", thread=who.thread),
        lambda unit: unit.users.change(who.anna, by=who.admin, name="Anna"),
    ):
        with pytest.raises((ConflictError, TransitionError), match=r"erased|closed"):
            store.run(late)


def test_only_help_seekers_are_erased_and_only_once(store: Store, who: Cast) -> None:
    with pytest.raises(TransitionError, match="Only help-seekers"):
        erase(store, who.clara, by=who.admin)
    with pytest.raises(NotFoundError):
        erase(store, "nobody", by=who.admin)
    erase(store, who.anna, by=who.admin)
    with pytest.raises(ConflictError, match="erased before"):
        erase(store, who.anna, by=who.admin)


def test_others_keep_their_data(store: Store, who: Cast) -> None:
    with store.begin() as unit:
        berta = unit.users.add(role="help_seeker", name="Berta", by=who.admin)
        hers = unit.threads.open(help_seeker=berta.id, by=berta.id)
        unit.turns.add(thread=hers.id, client_id="1", role="user", text="My own words.")
        unit.checkins.add(help_seeker=berta.id, instrument="gad7", answers={"1": 1}, total=1)
    erase(store, who.anna, by=who.admin)
    with store.read() as unit:
        assert [t.text for t in unit.turns.of(hers.id)] == ["My own words."]
        assert len(unit.checkins.of(berta.id)) == 1
        assert unit.users.by_name("berta") == berta
