"""Decisions become training data: with consent, without names, in a form that training reads."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="run: pip install 'heedful[serve]'")

from review_kit import Service, service

from heedful.errors import DataError, TamperError, TransitionError
from heedful.review.preferences import export_preferences, open_export
from heedful.store.erasure import erase
from heedful.training.preferences import read_file


@pytest.fixture
def at(tmp_path: Path) -> Service:
    made = service(tmp_path)
    made.say("I'm Anna, my sister Bettina does not call. Mail me at anna@example.org.")
    made.writer.reply = "Calm down, Anna."
    made.drafter.once()
    made.clinic.edit(made.drafts("drafted")[0].id, "That hurts. What was she like before, your Bettina?", by=made.clara)
    made.say("Kind. She was kind.")
    made.writer.reply = "People change."
    made.drafter.once()
    made.clinic.reject(made.drafts("drafted")[0].id, by=made.carl, reason="cold")
    made.clinic.take_over(made.thread, by=made.carl)
    made.clinic.write(made.thread, "You miss her kindness.", by=made.carl, client_id="k-1")
    return made


def agree(at: Service, action: str = "given") -> None:
    with at.store.begin() as unit:
        unit.consents.add(
            user=at.anna, purpose="training", action=action, wording="May we?", version="1", language="en", by=at.anna
        )  # type: ignore[arg-type]


def test_nothing_leaves_without_consent(at: Service, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 decided drafts are of people who have not agreed"):
        export_preferences(at.store, tmp_path / "x.jsonl", by=at.clara, plain=True)
    agree(at)
    agree(at, "withdrawn")
    with pytest.raises(DataError):
        export_preferences(at.store, tmp_path / "x.jsonl", by=at.clara, plain=True)
    assert not list(tmp_path.glob("x*"))


def test_pairs_are_what_training_reads_and_name_nobody(at: Service, tmp_path: Path) -> None:
    agree(at)
    made = export_preferences(at.store, tmp_path / "x.jsonl", by=at.clara, plain=True)
    assert (made.lines, made.people) == (2, 1)
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    text = made.path.read_text()
    for name in ("Anna", "Bettina", "anna@example.org", "Clara", at.anna, at.thread):
        assert name not in text
    edited, rejected = read_file(made.path)
    assert edited.chosen.text == "That hurts. What was she like before, your [NAME_2]?"
    assert edited.rejected.text == "Calm down, [NAME_1]."
    assert rejected.chosen.text == "You miss her kindness."
    assert rejected.rejected.text == "People change."
    assert [t.role for t in rejected.context.turns] == ["user", "assistant", "user"]
    assert edited.conversation_id == rejected.conversation_id


def test_answers_say_what_was_good_and_what_not(at: Service, tmp_path: Path) -> None:
    agree(at)
    made = export_preferences(at.store, tmp_path / "x.jsonl", by=at.clara, form="answers", plain=True)
    found = [(json.loads(line)["completion"], json.loads(line)["label"]) for line in made.path.read_text().splitlines()]
    assert [label for _, label in found] == [False, True, False]
    assert read_file(made.path)


def test_a_sealed_export_opens_with_the_keys_and_under_its_name_only(at: Service, tmp_path: Path) -> None:
    agree(at)
    made = export_preferences(at.store, tmp_path / "x.jsonl", by=at.clara)
    assert made.path.name == "x.jsonl.sealed"
    assert b"kindness" not in made.path.read_bytes()
    assert b"kindness" in open_export(made.path, at.store.keys)
    other = made.path.rename(tmp_path / "y.jsonl.sealed")
    with pytest.raises(TamperError):
        open_export(other, at.store.keys)


def test_a_deletion_names_the_files_that_hold_the_data(at: Service, tmp_path: Path) -> None:
    agree(at)
    export_preferences(at.store, tmp_path / "x.jsonl", by=at.clara)
    receipt = erase(at.store, at.anna, by=at.anna)
    assert "x.jsonl.sealed" in json.dumps(dict(receipt.receipt))


def test_only_staff_export_and_nothing_is_overwritten(at: Service, tmp_path: Path) -> None:
    agree(at)
    for nobody in (at.anna, "nobody"):
        with pytest.raises(TransitionError):
            export_preferences(at.store, tmp_path / "x.jsonl", by=nobody)
    (tmp_path / "there.jsonl").write_text("mine")
    with pytest.raises(DataError, match="is there already"):
        export_preferences(at.store, tmp_path / "there.jsonl", by=at.clara, plain=True)
