"""What pages say about the house, with its names and without: no sentence has a hole in it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from clinic_kit import HOUSE, make_clinic

from heedful.profiles import MOMENTS, load_texts
from heedful.server import house, words
from heedful.server.disclosure import text_of

NAMES = ("responsible", "contact", "place")
EMPTY = 'name = "  "\nresponsible = ""\ncontact = " "\nhours = "always"\n'
HOLE = re.compile(r"\s[.,;:!?](\s|$)|[:(]\s*[.,;)]|\(\s*\)|\{\w*\}|\bNone\b|  ")
"""A blank before a full stop, nothing after a colon, empty brackets, braces, `None`, two blanks."""
LANGUAGES = words.LANGUAGES


def texts(language: str) -> Iterator[tuple[str, str]]:
    """Every text that names somebody or a place of the house."""
    disclosures = load_texts(language).texts
    for key, text in [*disclosures.items(), *words.load(language).texts.items()]:
        if any(f"{{{name}}}" in text for name in NAMES):
            yield key, text


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_name_stands_after_a_colon_so_that_any_wording_fits(language: str) -> None:
    """`you reach us at {contact}` breaks with "the people who ..."; in German it breaks with any noun at all."""
    found = dict(texts(language))
    assert {"before-first-use", "training-consent", "agreed.reach", "report.without"} <= set(found)
    for key, text in found.items():
        for name in NAMES:
            for before in re.findall(r"(.{0,2})\{" + name + r"\}", text):
                assert before == ": ", (key, name)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("told", [HOUSE, EMPTY], ids=["with-names", "without"])
def test_every_disclosure_is_whole(tmp_path: Path, language: str, told: str) -> None:
    clinic = make_clinic(tmp_path, house=told)
    for moment in MOMENTS:
        if moment == "closing-down":
            continue  # its day is typed by whoever closes the service
        text, _ = text_of(clinic.desk, moment, language)
        assert not HOLE.search(text), (moment, HOLE.search(text))
    first, _ = text_of(clinic.desk, "before-first-use", language)
    say = words.load(language).say
    for name in NAMES:
        there = {"responsible": "Dr. Rowan Vale", "contact": "office@clinic.example", "place": "our own computer"}[name]
        assert (there if told == HOUSE else say(f"house.{name}")) in first
    clinic.store.close()


def plain(page: str) -> str:
    body = page[page.index("<main") :]
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"</?(b|i|span|a|code)\b[^>]*>", "", body)))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("told", [HOUSE, EMPTY], ids=["with-names", "without"])
def test_pages_with_names_of_the_house_are_whole(tmp_path: Path, language: str, told: str) -> None:
    clinic = make_clinic(tmp_path, house=told, profiles=("us-ca", "us-ut", "eu"))
    user = clinic.site.ids["help_seeker"]
    clinic.store.run(lambda unit: unit.users.change(user, by=user, language=language))
    anna, nobody = clinic.client("help_seeker", language), clinic.site.client()
    nobody.headers["accept-language"] = language
    seen: dict[str, Any] = {path: anna.get(path) for path in ("/talk", "/consents", "/consents/training", "/me")}
    seen |= {f"{path} of nobody": nobody.get(path) for path in ("/protocol", "/sign-in", "/resources")}
    for path, page in seen.items():
        assert page.status_code in (200, 503), path
        for sentence in re.findall(r">([^<]+)<", plain(page.text)):
            found = HOLE.search(sentence.strip())
            assert not found, (path, sentence)
    contact = "office@clinic.example" if told == HOUSE else words.load(language).say("house.contact")
    assert contact in html.unescape(seen["/sign-in of nobody"].text)
    clinic.store.close()


def test_a_name_of_blanks_is_none() -> None:
    found = house.parse({"name": "  ", "responsible": " R. Vale ", "contact": ""}, where="clinic.toml")
    assert (found.name, found.responsible, found.contact) == ("", "R. Vale", "")
    assert "contact" in found.gaps
