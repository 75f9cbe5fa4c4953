"""The pages around signing in, in every language: before anybody is known, between the factors, and after."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from clinic_kit import Clinic, make_clinic

from heedful.errors import UnlockError
from heedful.server import here, words
from heedful.server.problems import KINDS, Problem, explained, of_error
from server_kit import PASSWORD, csrf, make_site, post

HEADINGS = {
    "/sign-in": "nav.sign_in",
    "/second-factor/enrol": "enrol.title",
    "/account": "nav.account",
    "/account/tokens": "tokens.title",
    "/setup": "setup.title",
    "/nothing-here": "problem.title",
}


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    made = make_clinic(tmp_path)
    yield made
    made.store.close()


def halfway(clinic: Clinic) -> Any:
    """Somebody of staff who has given a password and no code."""
    client = clinic.site.client()
    post(client, "/sign-in", {"name": "clara", "password": PASSWORD})
    return client


def heading(page: str) -> str:
    found = re.search(r"<h1>(.*?)</h1>", page)
    assert found
    return found[1]


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_every_page_speaks_the_language_of_the_browser(tmp_path: Path, language: str) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "old").mkdir()
    empty, clinic = make_site(tmp_path / "new", people=False), make_clinic(tmp_path / "old")
    wish = {"accept-language": language}
    admin = clinic.client("admin")
    with clinic.store.read() as unit:
        assert unit.users.get(clinic.site.ids["admin"]).language == "en"
    clinic.store.run(
        lambda unit: [unit.users.change(id, by="setup", language=language) for id in clinic.site.ids.values()]
    )
    clients = {
        "/sign-in": clinic.site.client(),
        "/second-factor/enrol": halfway(clinic),
        "/account": admin,
        "/account/tokens": admin,
        "/setup": empty.client(),
        "/nothing-here": admin,
    }
    for path, client in clients.items():
        page = client.get(path, headers=wish).text
        assert f'<html lang="{language}">' in page, path
        assert heading(page) == words.load(language).say(HEADINGS[path]), path
        assert 'action="/language"' in page, path
    empty.store.close()
    clinic.store.close()


def test_the_switch_works_without_an_account_and_comes_back_to_the_page(clinic: Clinic) -> None:
    client = clinic.site.client()
    page = client.get("/sign-in?next=/account").text
    assert 'name="back" value="/sign-in?next=/account"' in page
    answer = client.post("/language", data={"language": "es", "back": "/sign-in?next=/account", "csrf": csrf(page)})
    assert answer.headers["location"] == "/sign-in?next=/account"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    german = {"accept-language": "de"}
    assert '<html lang="es">' in client.get("/sign-in", headers=german).text, "a choice counts more than the browser"
    wrong = post(client, "/sign-in", {"name": "clara", "password": "another one of mine"})
    assert "no son correctos" in wrong.text
    assert 'name="back" value=""' in wrong.text, "an answer to a form is no address to come back to"


def test_the_choice_lasts_through_the_second_factor_and_then_the_account_counts(clinic: Clinic) -> None:
    client = clinic.site.client()
    post(client, "/language", {"language": "de"}, page="/sign-in")
    post(client, "/sign-in", {"name": "clara", "password": PASSWORD})
    assert "Zweiten Faktor einrichten" in client.get("/second-factor/enrol").text
    with clinic.store.read() as unit:
        assert unit.users.get(clinic.site.ids["clinician"]).language == "en", "a password alone changes no account"
    other = clinic.site.client()
    post(other, "/language", {"language": "de"}, page="/sign-in")
    post(other, "/sign-in", {"name": "anna", "password": PASSWORD})
    assert '<html lang="en">' in other.get("/account").text
    post(other, "/language", {"language": "es"}, page="/account")
    assert '<html lang="es">' in other.get("/account").text
    with clinic.store.read() as unit:
        assert unit.users.get(clinic.site.ids["help_seeker"]).language == "es"


def test_the_switch_leads_nobody_elsewhere_and_takes_no_token(clinic: Clinic) -> None:
    client = clinic.site.client()
    token = csrf(client.get("/sign-in").text)
    for back in ("https://evil.example", "//evil.example", "/\\evil.example"):
        answer = client.post("/language", data={"language": "de", "back": back, "csrf": token})
        assert answer.headers["location"] == "/"
    assert client.post("/language", data={"language": "fr", "csrf": token}).status_code == 400
    assert client.post("/language", data={"language": "de"}).status_code == 403
    bearer = clinic.site.bearer("clinician")
    assert clinic.site.client().post("/language", data={"language": "de"}, headers=bearer).status_code == 303
    with clinic.store.read() as unit:
        assert unit.users.get(clinic.site.ids["clinician"]).language == "en", "a key changes no account"


@pytest.mark.parametrize(
    ("role", "places"),
    [("help_seeker", ("/talk", "/me")), ("clinician", ("/inbox", "/tasks")), ("admin", ("/admin",)), ("annotator", ())],
)
def test_the_account_has_the_navigation_of_all_pages(clinic: Clinic, role: str, places: tuple[str, ...]) -> None:
    client = clinic.client(role)
    for path in ("/account", *(("/account/tokens",) if role != "help_seeker" else ())):
        page = client.get(path).text
        assert 'href="/account" aria-current="page"' in page
        assert all(f'<a href="{place}">' in page for place in places)
        assert 'action="/sign-out"' in page


def test_between_password_and_second_factor_there_is_no_navigation(clinic: Clinic) -> None:
    assert "<nav" not in halfway(clinic).get("/resources").text


def test_refusals_are_said_in_the_language_of_the_page_and_stay_english_in_the_api(clinic: Clinic) -> None:
    client = clinic.client("clinician")
    post(client, "/language", {"language": "de"}, page="/account")
    page = post(client, "/account/password", {"old": PASSWORD, "new": "short"}, page="/account")
    assert page.status_code == 400
    assert "Ein Passwort braucht 12 bis" in page.text
    err = words.refusal(UnlockError, "refusal.password_common")
    assert str(err) == words.load("en").say("refusal.password_common")
    assert of_error(err).body()["error"]["message"] == str(err)
    assert here.told(UnlockError("Some other sentence.")) == "Some other sentence."


def test_an_error_page_explains_itself_and_marks_what_is_english(clinic: Clinic) -> None:
    client = clinic.site.client()
    german = {"accept-language": "de"}
    page = client.get("/invitation/x.1.y", headers=german)
    assert page.status_code == 404
    assert "Diese Einladung gilt nicht mehr" in page.text
    assert "This invitation" not in page.text
    page = client.post("/sign-in", data={"name": "x", "password": "y"}, headers=german)
    assert "Dieses Formular ist veraltet" in page.text
    assert "form is out of date" not in page.text
    admin = clinic.client("admin")
    clinic.store.run(lambda unit: unit.users.change(clinic.site.ids["admin"], by="setup", language="de"))
    page = admin.get("/admin/resources/nothing-here")
    assert '<span lang="en">There is no crisis line with this id.</span>' in page.text
    assert "Hier ist nichts." in page.text


def test_every_kind_of_error_has_a_text() -> None:
    codes = {kind.removesuffix("_error") for kind in KINDS.values()} | {"server", "engine_full", "no-such-code"}
    for code in codes:
        said, _ = explained(Problem(status=400, message="An English sentence.", code=code))
        assert said in words.load("en").texts.values()


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_the_set_up_says_that_whoever_types_the_clinicians_password_reads(tmp_path: Path, language: str) -> None:
    site = make_site(tmp_path, people=False)
    with site.client() as client:
        page = client.get("/setup", headers={"accept-language": language}).text
    assert words.load(language).say("setup.first_reader") in unescape(page)
    assert page.index('id="first_reader"') < page.index('name="clinician_password"')
    assert page.count('aria-describedby="rule first_reader"') == 1
    site.store.close()
