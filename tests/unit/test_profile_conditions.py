"""Switches of a profile that ask for something before help-seekers begin, or publish something: each both ways."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from clinic_kit import HOUSE, Clinic, make_clinic, say, send

from heedful.errors import ConfigError
from heedful.review import exercises
from heedful.safety import crisis, policy
from heedful.server import house, titles, words
from server_kit import PASSWORD, make_site, post

PAPER = '[impact_assessment]\nnumber = "DPIA-7"\nperson = "R. Adeyemi"\nday = 2026-01-15\n'
APPROVAL = PAPER.replace("impact_assessment", "approval_number").replace("DPIA-7", "EC-9")


def made(folder: Path, house: str = HOUSE, **switches: str) -> Clinic:
    """A clinic under a profile that is `strict` but for these switches."""
    text = files("heedful.profiles").joinpath("strict.toml").read_text("utf-8")
    for name, value in switches.items():
        text, n = re.subn(rf"(?m)^{name} = .*$", f'{name} = "{value}"', text)
        assert n == 1
    (folder / "own.toml").write_text(text, "utf-8")
    return make_clinic(folder, house=house, profiles=(str(folder / "own.toml"),))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    clinics = []

    def make(*args: Any, **kwargs: Any) -> Clinic:
        clinics.append(made(tmp_path, *args, **kwargs))
        return clinics[-1]

    yield make
    for clinic in clinics:
        clinic.store.close()


# ---------------------------------------------------------------------- papers


@pytest.mark.parametrize(
    ("switch", "value", "paper"), [("impact_assessment", "on", PAPER), ("approval_number", "needed", APPROVAL)]
)
def test_without_the_paper_no_help_seeker_begins_and_with_it_everybody(
    tmp_path: Path, switch: str, value: str, paper: str
) -> None:
    loose = {"impact_assessment": "off", "approval_number": "not-needed"}[switch]
    for position, text, status in ((value, "", 503), (value, paper, 200), (loose, "", 200)):
        folder = tmp_path / f"{position}-{len(text)}"
        folder.mkdir()
        clinic = made(folder, HOUSE + text, **{switch: position})
        anna = clinic.client("help_seeker") if status == 503 else clinic.begun()
        for path in ("/talk", "/check-ins", "/exercises", "/check-ins/mood", "/api/talk/turns"):
            assert anna.get(path).status_code == status, (position, path)
        for path in ("/me", "/resources", "/account", "/me/record.json"):
            assert anna.get(path).status_code == 200, "help, and what is one's own, stay open"
        assert clinic.client("clinician").get("/inbox").status_code == 200
        page = clinic.client("admin").get("/admin").text
        assert ("Until then no help-seeker can begin" in page) == (status == 503)
        assert ("R. Adeyemi" in page) == bool(text)
        clinic.store.close()


def test_the_closed_page_says_so_with_help_on_top(opened: Any) -> None:
    anna = opened(impact_assessment="on").client("help_seeker", "de")
    page = anna.get("/talk").text
    assert "cannot begin new conversations" in page
    assert 'class="help"' in page
    assert anna.get("/api/talk/turns").json()["error"]["code"] == "closed"


def test_an_open_conversation_goes_on_when_a_paper_runs_out(opened: Any) -> None:
    """Nobody is cut off in the middle: a condition is about beginning."""
    clinic = opened(HOUSE + PAPER + "until = 2999-01-01\n", impact_assessment="on")
    anna = clinic.begun()
    say(anna, "I slept badly.", "m-1")
    clinic.desk.house = house.parse(
        {"impact_assessment": {"number": "7", "person": "R", "day": date(2020, 1, 1), "until": date(2020, 2, 1)}},
        where="x",
    )
    assert anna.get("/talk").status_code == 200
    clara = clinic.client("clinician")
    send(clara, f"/inbox/{clinic.thread().id}/close", {"reason": "done"}, page=f"/inbox/{clinic.thread().id}")
    assert clinic.thread().state == "closed"
    assert anna.get("/talk").status_code == 503


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"number": "1", "day": "2026-01-01"}, "the person who answers"),
        ({"person": "R", "day": "2026-01-01"}, "a number or a file"),
        ({"number": "1", "person": "R"}, "and its day"),
        ({"number": "1", "person": "R", "day": "soon"}, "'day' is a day, as 2026-12-25, but it is 'soon'"),
        ({"number": "1", "person": "R", "day": "2026-01-01", "dya": 1}, "unknown key 'dya'. Did you mean 'day'"),
        ("DPIA", "is a table"),
    ],
)
def test_a_paper_that_cannot_be_used_says_so(found: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        house.parse({"impact_assessment": found}, where="clinic.toml")


def test_a_paper_counts_from_its_day_to_its_last_day_and_its_file_has_to_be_there(tmp_path: Path) -> None:
    paper = house.Paper(number="1", person="R", day=date(2026, 3, 1), until=date(2026, 6, 30))
    days = (date(2026, 2, 28), date(2026, 3, 1), date(2026, 6, 30), date(2026, 7, 1))
    assert [paper.good(day) for day in days] == [False, True, True, False]
    (tmp_path / "clinic.toml").write_text('[approval_number]\nfile = "vote.pdf"\nperson = "R"\nday = 2026-01-01\n')
    with pytest.raises(ConfigError, match=r"no file 'vote\.pdf'"):
        house.load(tmp_path)
    (tmp_path / "vote.pdf").write_bytes(b"%PDF")
    assert house.load(tmp_path).approval_number is not None


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize("language", titles.LANGUAGES)
def test_titles_are_found_in_disguise_and_other_words_are_not(language: str) -> None:
    found = titles.load(language)
    assert [name for name in found.names if titles.found(name) is None] == []
    assert [name for name in found.others if titles.found(name) is not None] == []


def test_with_the_filter_names_with_a_title_are_refused_and_without_it_not(tmp_path: Path) -> None:
    for position, status in (("on", 400), ("off", 200)):
        folder = tmp_path / position
        folder.mkdir()
        clinic = made(folder, name_filter=position)
        for role, path, values in (
            ("admin", "/admin/users", {"role": "clinician", "language": "en"}),
            ("clinician", "/people", {"language": "en"}),
        ):
            page = {"/admin/users": "/admin"}.get(path, path)
            answer = send(clinic.client(role), path, {**values, "name": f"Dr. Calm {role}"}, page=page)
            assert answer.status_code == status, (position, path)
            assert ("&#39;dr&#39; is a protected title" in answer.text) == (status == 400)
            assert send(clinic.client(role), path, {**values, "name": f"Cora {role}"}, page=page).status_code == 200
        clinic.store.close()


@pytest.mark.parametrize(
    ("settings", "name", "says"),
    [
        ({}, "Your AI therapist", "clinic.toml: name: 'therapist' is a protected title"),
        ({"model_name": "psychologist-8b"}, "Test", "model_name: 'psychologist'"),
        ({"model": "models/doctor.gguf"}, "Test", "model: 'doctor'"),
    ],
)
def test_a_clinic_or_model_with_a_title_does_not_start_under_the_filter(
    tmp_path: Path, settings: dict[str, Any], name: str, says: str
) -> None:
    text = HOUSE.replace("Test service", name)
    with pytest.raises(ConfigError, match=re.escape(says)):
        make_clinic(tmp_path, house=text, profiles=("us-nv",), **settings)


def test_without_the_filter_it_starts(tmp_path: Path) -> None:
    clinic = make_clinic(tmp_path, house=HOUSE.replace("Test service", "Your AI therapist"))
    assert clinic.client("admin").get("/admin").status_code == 200
    clinic.store.close()


def test_the_first_accounts_and_those_from_before_are_looked_at_too(tmp_path: Path) -> None:
    site = make_site(tmp_path, people=False, profiles=("us-nv",))
    values = {"code": "aaaa-bbbb", "admin_name": "Root", "admin_password": PASSWORD}
    more = {"clinician_name": "Doctor Clara", "clinician_password": "seven lazy yellow kites"}
    answer = post(site.client(), "/setup", {**values, **more})
    assert answer.status_code == 400
    assert "protected title" in answer.text
    site.accounts.add(role="admin", name="root", password=PASSWORD, by="setup")
    site.ids["admin"] = site.accounts.add(role="admin", name="nurse joy", password=PASSWORD, by="setup").id
    assert "not allow: nurse joy." in site.signed_in("admin").get("/admin").text
    site.store.close()


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_no_title_of_a_page_and_no_exercise_carries_one(language: str) -> None:
    templates = Path(words.__file__).parents[1] / "templates"
    keys = {
        key
        for path in templates.glob("*.j2")
        for block in re.findall(r"\{% block title %\}(.*?)\{% endblock %\}", path.read_text("utf-8"))
        for key in re.findall(r"t\('([a-z_.]+)'", block)
    }
    assert len(keys) > 15
    assert {key for key in keys if titles.found(words.load(language).say(key, **ANY))} == set()
    assert [e.id for e in exercises.known().values() if any(titles.found(t) for t in e.title.values())] == []


ANY = dict.fromkeys(("name", "n", "what", "year"), "")


# ---------------------------------------------------------------------- the published protocol


def test_the_protocol_is_public_where_it_is_published_and_nowhere_else(tmp_path: Path) -> None:
    for position, status in (("on", 200), ("off", 404)):
        folder = tmp_path / position
        folder.mkdir()
        clinic = made(folder, protocol_page=position)
        anonymous = clinic.site.client()
        assert anonymous.get("/protocol").status_code == status
        assert ('href="/protocol"' in anonymous.get("/resources").text) == (status == 200)
        clinic.store.close()


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_the_protocol_says_what_the_files_and_the_settings_say(opened: Any, language: str) -> None:
    hours = '[hours]\nmon = ["08:00-12:00", "13:30-18:00"]\n'
    clinic = opened(HOUSE.replace('hours = "always"', "response_minutes = 23") + hours, protocol_page="on")
    page = clinic.site.client().get("/protocol", headers={"accept-language": language}).text
    rules, say = policy.load(), words.load(language).say
    for level, rung in rules.levels.items():
        assert f"{say(f'level.{level}')}</th><td>{say(f'rung.{rung}')}" in page
    for group, table in (("behaviour", rules.behaviours), ("sign", rules.classes)):
        for name, rung in table.items():
            assert f"{say(f'{group}.{name}')}</th><td>{say(f'rung.{rung}')}" in page
    assert rules.hash in page
    assert all(crisis.load(name).hash in page for name in crisis.LANGUAGES)
    assert " 23 " in page
    assert "08:00–12:00, 13:30–18:00" in page
    assert "Europe/Berlin" in page
    assert "Dr. Rowan Vale" in page
    assert "<h1>" in page
