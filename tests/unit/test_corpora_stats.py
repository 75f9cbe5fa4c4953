"""Numbers about conversations, checked by hand, and pictures that any browser reads."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from heedful.corpora import pictures
from heedful.corpora.stats import html, reading, stats
from heedful.types import Conversation, Label, Turn


def supporter(text: str, strategy: str | None) -> Turn:
    labels = (Label(set="esconv_strategy", value=strategy),) if strategy else ()
    return Turn(role="assistant", text=text, labels=labels)


def seeker(text: str) -> Turn:
    return Turn(role="user", text=text, labels=(Label(set="feedback", value="4"),))


TALKS = [
    Conversation(
        id="a",
        split="train",
        turns=(
            supporter("Hello there", "Others"),
            seeker("one"),
            supporter("two words", "Question"),
            seeker("a b c"),
            supporter("x", "Information"),
        ),
    ),
    Conversation(
        id="b",
        turns=(
            seeker("a b c d"),
            supporter("x y z", "Question"),
            supporter("later", None),
            supporter("more", "Information"),
        ),
    ),
]


def test_counts() -> None:
    found = stats(TALKS)
    assert found.dialogues == 2
    assert found.splits == {"train": 1, "none": 1}
    assert found.turns == {"assistant": 6, "user": 3}
    assert found.turns_per_dialogue == 4.5
    assert found.lengths["user"].mean == pytest.approx(8 / 3)
    assert found.lengths["user"].quantiles[0.5] == 3
    assert found.lengths["user"].quantiles[0.25] == 2
    assert found.lengths["user"].histogram[0] == (0, 3)
    assert found.labels["esconv_strategy"] == {"assistant": {"Question": 2, "Information": 2, "Others": 1}}
    assert found.labels["feedback"] == {"user": {"4": 3}}


def test_transitions_need_two_labels_and_ignore_the_seeker() -> None:
    assert stats(TALKS).transitions["esconv_strategy"] == {
        "Question": {"Information": 1},
        "Others": {"Question": 1},
    }


def test_fifths_leave_out_the_opening_turn() -> None:
    # Talk a: 5 turns, targets at 2 and 4; talk b: 4 turns, labelled targets at 1 and 3.
    assert stats(TALKS).fifths["esconv_strategy"] == {"Question": (0, 1, 1, 0, 0), "Information": (0, 0, 0, 1, 1)}


def test_nothing_gives_zeros() -> None:
    found = stats([])
    assert (found.dialogues, found.turns_per_dialogue, dict(found.turns)) == (0, 0.0, {})
    assert reading([]).words == 0


def test_reading_ease_of_known_text() -> None:
    # 6 words, 1 sentence, 6 syllables: 206.835 - 1.015 * 6 - 84.6 = 116.145 (the textbook example).
    talk = Conversation(id="a", turns=(Turn(role="user", text="The cat sat on the mat."),))
    found = reading([talk])
    assert found.flesch == pytest.approx(116.145)
    assert found.words_per_turn == 6
    assert found.type_token == pytest.approx(5 / 6)


def test_page_holds_numbers_and_no_text() -> None:
    page = html(stats(TALKS), title="A <talk>")
    assert "A &lt;talk&gt;" in page
    assert "Hello there" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert page.count("<svg") == page.count("<title>") - 1


def draw(kind: str) -> str:
    title, awkward = "Turns & 'words' <5", 'a<b & "c"'
    if kind == "histogram":
        return pictures.histogram([(awkward, 3), ("y", 0)], title=title, unit="n")
    if kind == "bars":
        return pictures.bars({awkward: 2.5, "y": 0}, title=title)
    return pictures.heat_map({awkward: {"p": 1.0}, "y": {"p": 0.0, "q": 2.0}}, columns=["p", "q"], title=title)


@pytest.mark.parametrize("kind", ["histogram", "bars", "heat_map"])
def test_pictures_are_valid_svg_with_a_title(kind: str) -> None:
    root = ET.fromstring(draw(kind))
    space = "{http://www.w3.org/2000/svg}"
    assert root.findtext(f"{space}title") == "Turns & 'words' <5"
    assert 'a<b & "c"' in [e.text for e in root.iter(f"{space}text")]
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for shape in root.iter(f"{space}rect"):
        if "x" in shape.attrib:
            assert float(shape.attrib["x"]) + float(shape.attrib["width"]) <= width
            assert 0 <= float(shape.attrib["y"]) <= height - float(shape.attrib["height"])


@pytest.mark.parametrize("empty", [pictures.histogram([], title="t"), pictures.bars({}, title="t")])
def test_empty_pictures(empty: str) -> None:
    assert ET.fromstring(empty).attrib["role"] == "img"


def test_heat_map_shows_a_missing_value_as_a_dash() -> None:
    root = ET.fromstring(draw("heat_map"))
    texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("–") == 1


def test_bar_lengths_follow_values() -> None:
    root = ET.fromstring(pictures.bars({"a": 1, "b": 4}, title="t"))
    short, long = (float(r.attrib["width"]) for r in root.iter("{http://www.w3.org/2000/svg}rect") if "x" in r.attrib)
    assert long == pytest.approx(4 * short)
