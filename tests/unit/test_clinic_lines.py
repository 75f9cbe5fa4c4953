"""The crisis lines on top of every page are those of the house's country, whatever language a reader has."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from clinic_kit import HOUSE, make_clinic, send

from heedful.errors import ConfigError
from heedful.safety import resources
from heedful.server import house, words
from heedful.server.config import ServeConfig
from heedful.server.directory import Directory, country_of

COUNTRIES = sorted({line.country for line in resources.load().lines} - {resources.DEFAULT})
BROWSERS = ("de-DE,de;q=0.9", "en-US,en;q=0.8", "es-MX", "fr-FR,fr", "zh-TW", "", "*")


def bar(page: Any) -> str:
    """The words of the bar, without the links that are called something else in each language."""
    found = re.search(r'<aside class="help".*?</aside>', page.text, re.DOTALL)
    assert found, "a page without crisis lines"
    return html.unescape(re.sub(r"<[^>]*>", " ", found[0]))


def numbers(page: Any) -> list[str]:
    return sorted(re.findall(r'href="tel:([^"]+)"', page.text[: page.text.index("</aside>")]))


@pytest.mark.parametrize("country", COUNTRIES)
@pytest.mark.parametrize("language", words.LANGUAGES)
def test_each_country_has_its_own_lines_in_every_language(country: str, language: str) -> None:
    found = Directory(None, country=country)
    lines = found.bar(language)
    assert lines
    assert {line.country for line in lines} == {country}
    assert {line.id for line in lines} == {line.id for line in found.bar("en")}
    assert all(line.audience == "anyone" for line in lines)
    first = next(line for line in found.table().lines if line.country == country and line.audience == "anyone")
    assert first.name in found.fill(language).line
    assert found.fill(language).emergency == found.table().emergency(country) != ""


def test_a_line_in_another_language_leaves_the_bar_to_nobody(tmp_path: Path) -> None:
    """With more lines than the bar holds, the reader's language once chose which ones were left."""
    clinic = make_clinic(tmp_path, country="DE")
    for n, language in enumerate(("es", "en", "de", "es", "es")):
        entry = {
            "languages": [language],
            "name": f"Line {n}",
            "number": f"555 010{n}",
            "hours": "24/7",
            "audience": "anyone",
            "source": "us",
        }
        clinic.store.run(
            lambda unit, n=n, language=language, entry=entry: unit.resources.put(
                id=f"own-{n}", country="DE", language=language, entry=entry, by="x", checked_on="2026-11-01"
            )
        )
    clinic.desk.directory.forget()
    shown = {language: {line.id for line in clinic.desk.directory.bar(language)} for language in words.LANGUAGES}
    assert shown["en"] == shown["de"] == shown["es"]
    assert {"de-telefonseelsorge-1", "de-telefonseelsorge-2"} <= shown["es"]
    clinic.store.close()


@pytest.mark.parametrize(("country", "there", "not_there"), [("DE", "0800 1110111", "988"), ("ES", "024", "988")])
def test_no_browser_and_no_switch_of_language_changes_the_lines(
    tmp_path: Path, country: str, there: str, not_there: str
) -> None:
    clinic = make_clinic(tmp_path, house=HOUSE + f'country = "{country}"\n', country=None)
    want = numbers(clinic.site.client().get("/sign-in"))
    assert there.replace(" ", "") in want
    for browser in BROWSERS:
        client = clinic.site.client()
        client.headers["accept-language"] = browser
        for path in ("/sign-in", "/resources", "/nowhere"):
            page = client.get(path, follow_redirects=True)
            assert numbers(page) == want, (browser, path)
            assert not re.search(rf"\b{not_there}\b", bar(page))
        for language in words.LANGUAGES:
            assert send(client, "/language", {"language": language}, page="/sign-in").status_code == 303
            page = client.get("/sign-in")
            assert f'<html lang="{language}">' in page.text
            assert numbers(page) == want, (browser, language)
    anna = clinic.begun()
    for language in words.LANGUAGES:
        send(anna, "/language", {"language": language}, page="/talk")
        assert numbers(anna.get("/talk")) == want, language
    clinic.store.close()


def test_pages_before_the_clinic_is_made_show_them_too(tmp_path: Path) -> None:
    (tmp_path / "clinic.toml").write_text('country = "DE"\n', "utf-8")
    site = server_kit.make_site(tmp_path, country=None, people=False)
    with site.client() as client:
        del site.app.state._state["desk"]  # as it is until the first page that needs it
        assert "08001110111" in numbers(client.get("/setup"))
    site.store.close()


def test_where_nobody_said_a_country_nothing_is_guessed_and_the_admin_is_told(tmp_path: Path) -> None:
    clinic = make_clinic(tmp_path, country=None)
    page = clinic.site.client().get("/sign-in")
    assert "findahelpline.com" in page.text
    assert "988" not in bar(page)
    assert numbers(page) == ["112"]
    assert "in which country this service is" in clinic.client("admin").get("/admin").text
    clinic.store.close()


@pytest.mark.parametrize(
    ("said", "home", "profiles", "country"),
    [
        ("AT", "DE", ("us-ny",), "AT"),
        (None, "DE", ("us-ny",), "DE"),
        (None, "", ("us-ny", "us-wa"), "US"),
        (None, "", ("us-ny", "eu"), "default"),
        (None, "", ("strict",), "default"),
    ],
)
def test_the_country_is_said_not_guessed(said: str | None, home: str, profiles: tuple[str, ...], country: str) -> None:
    assert country_of(said, home, profiles) == country


@pytest.mark.parametrize("wrong", ["de", "Germany", 49, "DEU", " DE"])
def test_a_country_is_two_capital_letters(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="two capital letters"):
        house.parse({"country": wrong}, where="clinic.toml")
    assert ServeConfig().country is None
