"""Profiles ship unchecked; a clinic enters who compared them with the law, and when."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

import server_kit

server_kit.require()

from clinic_kit import Clinic, make_clinic, send

from heedful import profiles
from heedful.errors import ConfigError, NotFoundError
from heedful.privacy import Keys
from heedful.server import checks, dossier, house
from heedful.server.config import ServeConfig
from heedful.settings import check as checked_settings
from heedful.store import Store, audit
from store_kit import CHEAP, PHRASE, Clock

NEVER = "Nobody has checked it for this installation."
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def clinic(tmp_path: Path, clock: Clock) -> Iterator[Clinic]:
    made = make_clinic(tmp_path, clock=clock, profiles=("eu", "us-ny"))
    yield made
    made.store.close()


def entry(clinic: Clinic, **changes: str) -> dict[str, str]:
    today = clinic.store.clock().date().isoformat()
    return {"profile": "eu", "checker": "R. Adeyemi", "checked": today, **changes}


def page(clinic: Clinic) -> str:
    return html.unescape(clinic.client("admin").get("/admin").text)


def test_a_check_is_entered_on_the_page_and_stands_there(clinic: Clinic) -> None:
    assert page(clinic).count(NEVER) == 2
    root = clinic.client("admin")
    answer = send(root, "/admin/profile/check", entry(clinic), page="/admin")
    assert answer.headers["location"] == "/admin#profile"
    found = page(clinic)
    assert found.count(NEVER) == 1  # the other source of the two is another check
    assert f"Checked by R. Adeyemi on {clinic.store.clock().date()}" in found
    assert "The profile 'eu'" not in found  # no warning any more
    assert "The profile 'us-ny'" in found
    with clinic.store.read() as unit:
        (row,) = unit.profile_checks.all()
        said = list(unit.audit.of("profile:eu"))
    assert row.by == clinic.site.ids["admin"]
    assert [(e.action, e.facts["hash"]) for e in said] == [("profile.checked", profiles.load("eu").sources[0].hash)]
    assert audit.verify(clinic.store).state == "ok"


def test_after_180_days_staff_is_warned_again_and_the_newest_check_counts(clinic: Clinic, clock: Clock) -> None:
    root = clinic.client("admin")
    send(root, "/admin/profile/check", entry(clinic), page="/admin")
    clock.forward(days=181)
    assert "This is more than 180 days ago." in page(clinic)
    root = clinic.client("admin")
    send(root, "/admin/profile/check", entry(clinic, checker="K. Brandt"), page="/admin")
    found = page(clinic)
    assert "Checked by K. Brandt" in found
    assert "180 days ago" not in found
    with clinic.store.read() as unit:
        assert [row.checker for row in unit.profile_checks.all()] == ["R. Adeyemi", "K. Brandt"]  # the first one stays


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"checker": "  "}, "needs the name of whoever made it"),
        ({"checked": "last week"}, "The day of the check looks like 2026-11-22"),
        ({"checked": "2999-01-01"}, "does not lie in the future"),
        ({"profile": "us-tx"}, "Unknown profile"),
    ],
)
def test_what_cannot_be_a_check_is_refused_and_what_was_typed_stays(
    clinic: Clinic, changes: dict[str, str], says: str
) -> None:
    root = clinic.client("admin")
    typed = entry(clinic, **{"checker": "R. Adeyemi", **changes})
    answer = send(root, "/admin/profile/check", typed, page="/admin")
    assert answer.status_code == 400
    assert says in html.unescape(answer.text)
    assert f'value="{typed["checker"]}"' in answer.text
    with clinic.store.read() as unit:
        assert unit.profile_checks.all() == ()


def test_a_changed_file_has_to_be_checked_again(clinic: Clinic, tmp_path: Path) -> None:
    text = (Path(profiles.__file__).parent / "eu.toml").read_text("utf-8")
    own = tmp_path / "own.toml"
    own.write_text(text, "utf-8")
    before = profiles.parse(text, where="own")
    checks.enter(clinic.store, before, "eu", checker="R. Adeyemi", checked="2026-01-02", by="op")
    assert checks.applied(clinic.store, before).sources[0].checker == "R. Adeyemi"
    after = profiles.parse(text.replace("transcript_days = 365", "transcript_days = 30"), where="own")
    assert checks.applied(clinic.store, after).sources[0].checker == ""


def test_a_newer_check_in_the_file_itself_counts(clinic: Clinic) -> None:
    own = profiles.load("eu").with_check("eu", checked=date(2026, 1, 5), checker="In the file")
    checks.enter(clinic.store, own, "eu", checker="In the store", checked="2026-01-02", by="op")
    assert checks.applied(clinic.store, own).sources[0].checker == "In the file"


def test_the_dossier_names_who_checked(clinic: Clinic, tmp_path: Path) -> None:
    config, here = ServeConfig(home_folder=tmp_path), house.load(tmp_path)
    assert "profile / sources / eu / checked by" in list(
        dossier.missing(dossier.dossier(clinic.store, config, here, clinic.desk.profile))
    )
    send(clinic.client("admin"), "/admin/profile/check", entry(clinic), page="/admin")
    found = dossier.dossier(clinic.store, config, here, clinic.desk.profile)["profile"]["sources"]
    assert found["eu"]["checked by"] == "R. Adeyemi"
    assert found["eu"]["checked against the primary text"] == clinic.store.clock().date().isoformat()
    assert found["us-ny"]["checked by"] is None


def test_the_command_enters_and_shows_it(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    home, secret = tmp_path / "home", tmp_path / "passphrase"
    home.mkdir()
    secret.write_text(PHRASE)
    secret.chmod(0o600)
    monkeypatch.setenv("HEEDFUL_HOME", str(home))
    monkeypatch.setenv("HEEDFUL_PASSPHRASE_FILE", str(secret))
    config = checked_settings(ServeConfig, {}, where="test")
    Store.open(config.database_url, Keys.create(config.keys_path, PHRASE, cost=CHEAP)).close()
    assert "never checked" in call("profile", "show", "eu")[1]
    code, out, _ = call("profile", "check", "eu", "--checker", "R. Adeyemi", "--on", "2026-01-02")
    assert (code, out.strip()) == (0, "eu 1.0: checked by R. Adeyemi on 2026-01-02")
    assert "checked by R. Adeyemi on 2026-01-02" in call("profile", "show", "eu", "us-ny")[1]
    code, _, err = call("profile", "check", "eu", "--checker", "R. Adeyemi", "--on", "2999-01-02")
    assert code == 2
    assert "future" in err


def test_who_checks_is_one_of_the_sources() -> None:
    with pytest.raises(NotFoundError):
        profiles.load("eu").with_check("us-ny", checked=date(2026, 1, 1), checker="R")
    with pytest.raises(ConfigError):
        profiles.load("eu").with_check("eu", checked=date(2026, 1, 1), checker=" ")


@pytest.mark.parametrize(("language", "never"), [("de", "niemand geprüft"), ("es", "Nadie lo ha comprobado")])
def test_the_page_says_it_in_the_readers_language(clinic: Clinic, language: str, never: str) -> None:
    admin = clinic.site.ids["admin"]
    clinic.store.run(lambda unit: unit.users.change(admin, by=admin, language=language))
    assert never in page(clinic)


def test_a_check_lasts_as_long_as_profiles_say() -> None:
    source = profiles.load("eu").with_check("eu", checked=date(2026, 1, 1), checker="R").sources[0]
    assert not source.old(date(2026, 1, 1) + timedelta(days=profiles.OLD_DAYS))
    assert source.old(date(2026, 1, 1) + timedelta(days=profiles.OLD_DAYS + 1))
