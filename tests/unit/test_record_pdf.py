"""One's own record as a PDF: read back, it says what the JSON says, in whatever script somebody writes."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import server_kit

server_kit.require()
pypdf = pytest.importorskip("pypdf")

from clinic_kit import Clinic, make_clinic, say, send
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from heedful.server import words
from heedful.server.record_pdf import ATTACHED, Labels, characters, to_pdf

LABELS = Labels(
    title="My record", attached="ATTACHED", missing="MISSING", nothing="none", page="Page", key=lambda key: key
)
SAID = {
    "English": "I slept badly, and nothing helps.",
    "German": "Ich kann nicht schlafen, überall ist Lärm.",
    "Spanish": "¿Qué hago? No puedo más así, mañana lloraré.",
    "Chinese": "你好，我最近睡不好。",
    "Japanese": "眠れません。",
    "Korean": "잠을 못 자요.",
    "Greek and signs": "Καλημέρα ≈ 5 € – “so”",
    "emoji": "I am 😀 today",
    "Hebrew": "שלום",
    "Arabic": "مرحبا",
}
"""Invented for this test."""


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    made = make_clinic(tmp_path)
    yield made
    made.store.close()


def opened(content: bytes) -> Any:
    return pypdf.PdfReader(io.BytesIO(content))


def text_of(content: bytes) -> str:
    """All text of a PDF without blanks: lines are broken where the paper ends."""
    return "".join("".join(page.extract_text().split()) for page in opened(content).pages)


def record(*texts: str) -> dict[str, Any]:
    messages = [{"id": f"m{n}", "from": "you", "text": text} for n, text in enumerate(texts)]
    return {"record": 1, "person": {"name": "anna"}, "conversations": [{"id": "c", "messages": messages}]}


def leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for part in value.values():
            yield from leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part)
    elif value is not None:
        yield str(value)


def test_it_says_everything_that_the_json_says(clinic: Clinic) -> None:
    client = clinic.begun()
    for n, text in enumerate(SAID.values()):
        say(client, text, f"m-{n}")
    send(client, "/check-ins/phq9", {f"q{n}": "1" for n in range(1, 9)})
    send(client, "/exercises/grounding", {"see": "a lamp\na chair"})
    send(client, "/consents/training", {"answer": "given"}, page="/consents/training")
    found = client.get("/me/record.json").json()
    answer = client.get("/me/record.pdf")
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.headers["content-disposition"] == 'attachment; filename="my-record.pdf"'
    text = text_of(answer.content)
    for leaf in leaves({**found, "made": None}):
        assert "".join(leaf.split()) in text, leaf
    attached = json.loads(opened(answer.content).attachments[ATTACHED][0])
    assert {**attached, "made": None} == {**found, "made": None}
    assert "U+" not in text, "every script of this test has a font"


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_it_has_a_title_a_language_and_bookmarks(clinic: Clinic, language: str) -> None:
    client = clinic.begun()
    send(client, "/language", {"language": language}, page="/me")
    assert f'href="/me/record.pdf" download>{words.load(language).say("me.download_pdf")}' in client.get("/me").text
    found = opened(client.get("/me/record.pdf").content)
    say = words.load(language).say
    assert found.metadata.title == say("record.title")
    assert found.trailer["/Root"]["/Lang"] == language
    marks = [mark.title for part in found.outline for mark in (part if isinstance(part, list) else [part])]
    assert [say("record.title"), say("part.person"), say("part.conversations")] == marks[:3]


def test_every_key_of_the_record_has_a_name_in_every_language(clinic: Clinic) -> None:
    def keys(value: Any) -> Iterator[str]:
        for key, part in value.items() if isinstance(value, dict) else ():
            yield key
            if key != "answers":
                yield from keys(part)
        for part in value if isinstance(value, list) else ():
            yield from keys(part)

    client = clinic.begun()
    say(client, "hello", "m-1")
    send(client, "/check-ins/mood", {"q1": "1"})
    send(client, "/consents/training", {"answer": "given"}, page="/consents/training")
    used = set(keys(client.get("/me/record.json").json()))
    assert {"messages", "notices", "instrument", "purpose"} <= used
    assert {key for key in used if not words.load("en").has(f"part.{key}")} == set()


def test_what_no_font_can_draw_stands_as_its_number_and_is_said_once() -> None:
    thai = "นอนไม่หลับ"
    made = to_pdf(record(f"I say {thai}!"), labels=LABELS, language="en")
    text = text_of(made)
    assert text.count("MISSING") == 1
    assert f"[{''.join(f'U+{ord(char):04X}' for char in thai)}]!" in text
    assert thai in opened(made).attachments[ATTACHED][0].decode("utf-8"), "the attachment has it as it was written"
    assert "MISSING" not in text_of(to_pdf(record("I say this."), labels=LABELS, language="en"))


def test_a_clinic_adds_fonts_for_other_scripts(tmp_path: Path) -> None:
    char = "น"
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    pen.lineTo((0, 500))
    pen.lineTo((500, 0))
    pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "no"])
    font.setupCharacterMap({ord(char): "no"})
    font.setupGlyf({".notdef": pen.glyph(), "no": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (600, 0), "no": (600, 0)})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Test", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "thai.ttf")
    (tmp_path / "broken.ttf").write_bytes(b"no font at all")
    assert characters(tmp_path / "thai.ttf") == {ord(char)}
    assert characters(tmp_path / "broken.ttf") == frozenset(), "a record is shown all the same"
    text = text_of(to_pdf(record(f"say {char}"), labels=LABELS, language="en", own=tmp_path))
    assert f"say{char}" in text
    assert "MISSING" not in text


def test_right_to_left_lines_stand_at_the_right_and_keep_their_order() -> None:
    page = opened(to_pdf(record("שלום עולם", "hello"), labels=LABELS, language="en")).pages[0]
    places: dict[str, float] = {}
    page.extract_text(visitor_text=lambda text, cm, tm, *_: places.setdefault(text.strip(), tm[4]))
    hebrew = next(x for text, x in places.items() if "\u05e9" in text)
    assert hebrew > places["hello"] + 200


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_no_words_are_too_strange(text: str) -> None:
    made = to_pdf(record(text), labels=LABELS, language="en")
    kept = json.loads(opened(made).attachments[ATTACHED][0])
    assert kept["conversations"][0]["messages"][0]["text"] == text


def test_a_word_longer_than_the_paper_is_broken_and_kept() -> None:
    assert "x" * 50_000 in text_of(to_pdf(record("x" * 50_000), labels=LABELS, language="en")).replace(
        "Page", ""
    ).translate({ord(digit): None for digit in "0123456789"})


def test_no_word_reaches_a_log(clinic: Clinic, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = clinic.begun()
    say(client, "ZZmarkerZZ นอน", "m-1")
    caplog.clear()
    assert client.get("/me/record.pdf").status_code == 200
    assert [r for r in caplog.records if "ZZmarkerZZ" in r.getMessage() or "น" in r.getMessage()] == []


def test_it_is_drawn_one_at_a_time_beside_the_pages(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    from heedful.server.routes import me

    server, seen = clinic.site.app.state.server, []
    draw = me.to_pdf

    def watched(*args: Any, **kwargs: Any) -> bytes:
        seen.append(server.drawing.borrowed_tokens)
        return draw(*args, **kwargs)

    monkeypatch.setattr(me, "to_pdf", watched)
    assert clinic.begun().get("/me/record.pdf").status_code == 200
    assert seen == [1]


def test_fonts_and_the_engine_load_in_one_process() -> None:
    """Two libraries of compiled Cython once refused each other; a server that exports a model holds both."""
    pytest.importorskip("xllamacpp")
    code = "import uharfbuzz, xllamacpp"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
