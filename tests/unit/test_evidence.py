"""The words that a scorer's answer rests on: left out, the answer changes."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import scorer_kit

from heedful.classify import Item, LabelModel
from heedful.classify.evidence import LEAST, LONGEST, read


@pytest.fixture(scope="module")
def model() -> LabelModel:
    return scorer_kit.fitted().model


def test_the_word_that_decides_is_named_as_it_stands(model: LabelModel) -> None:
    found = read(model, Item(text="The door, again: FURIOUS! and nothing else."))
    assert found.label == "anger"
    assert found.evidence == "FURIOUS!"
    assert found.loss > LEAST
    assert found.probabilities.sum() == pytest.approx(1)


def test_without_the_evidence_the_label_loses_what_is_said(model: LabelModel) -> None:
    text = "so glad today here again"
    found = read(model, Item(text=text))
    k = model.labels.index(found.label)
    without = text
    for words in found.evidence.split(" \u2026 "):
        without = without.replace(words, "")
    assert model.logits([without])[0][k] < model.logits([text])[0][k]
    assert found.loss > LEAST


def test_equal_questions_have_equal_answers(model: LabelModel) -> None:
    item = Item(text="furious here and annoyed there")
    first = read(model, item)
    model.forget()
    again = read(model, item)
    assert (first.evidence, first.loss) == (again.evidence, again.loss)


def test_a_long_message_is_narrowed_down_to_few_words(model: LabelModel) -> None:
    """2,000 words, three of which say something."""
    words = ["lorem"] * 2000
    words[1300:1303] = ["furious", "annoyed", "shouting"]
    found = read(model, Item(text=" ".join(words)))
    assert len(found.evidence) <= LONGEST
    assert {"furious", "annoyed", "shouting"} & set(found.evidence.split())
    assert len(model._seen) < 200, "few questions, however long a message is"


@pytest.mark.parametrize("text", ["", "   ", "\U0001f642", "qqqq " * 5])
def test_where_no_word_moves_it_nothing_is_named(model: LabelModel, text: str) -> None:
    assert read(model, Item(text=text)).evidence == ""


def test_a_text_without_blanks_is_taken_apart_too(model: LabelModel) -> None:
    text = "我" * 30 + "furious" + "我" * 30
    found = read(model, Item(text=text))
    assert found.evidence == "" or found.evidence.split(" … ")[0] in text
    assert len(found.evidence) < len(text)
