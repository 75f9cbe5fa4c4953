"""Jurisdiction profiles: the table of the law notes, combinations that are never looser, checks that get old, texts."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful import profiles
from heedful.errors import ConfigError, NotFoundError
from heedful.profiles import SWITCHES, Conditions, Profile, combine, load, load_texts, matrix, parse
from heedful.profiles._texts import parse_texts

TODAY = date(2026, 11, 22)
SOURCE = files("heedful.profiles").joinpath("eu.toml").read_text("utf-8")


def test_the_bundled_profiles() -> None:
    assert profiles.names() == [
        "eu", "research", "strict", "us-ca", "us-il", "us-me", "us-nv", "us-ny", "us-or", "us-ut", "us-wa",
    ]  # fmt: skip
    assert load().name == "strict"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "strict",
            {
                "client_replies": "off",
                "drafts": "approved",
                "emotion_shown": "clinician",
                "emotion_evidence": "required",
                "return_days": 7,
                "timer_minutes": 180,
                "protocol_page": "on",
                "consent_ledger": "on",
            },
        ),
        (
            "us-il",
            {
                "client_replies": "off",
                "drafts": "notes-only",
                "emotion_shown": "off",
                "risk_belief": "counsel",
                "notice_before_use": "written",
                "recording_consent": "on",
                "plan_signature": "on",
            },
        ),
        (
            "us-me",
            {
                "client_replies": "off",
                "drafts": "approved",
                "emotion_shown": "clinician",
                "notice_before_use": "written",
                "recording_consent": "on",
            },
        ),
        (
            "us-nv",
            {
                "client_replies": "off",
                "drafts": "off",
                "emotion_shown": "off",
                "note_review": "independent",
                "name_filter": "on",
            },
        ),
        (
            "us-ut",
            {
                "client_replies": "by-policy",
                "notice_before_use": "screen",
                "notice_on_question": "on",
                "return_days": 7,
                "advertising": "forbidden",
                "reports": ("dossier",),
                "report_button": "on",
            },
        ),
        ("us-ny", {"notice_at_start": "on", "notice_daily": "on", "timer_minutes": 180}),
        (
            "us-ca",
            {
                "notice_at_start": "on",
                "timer_minutes": 0,
                "timer_minutes_minors": 180,
                "protocol_page": "on",
                "reports": ("yearly-counts",),
            },
        ),
        ("us-or", {"interruption_card": "on", "retention_tricks": "forbidden", "reports": ("yearly-counts",)}),
        (
            "us-wa",
            {"timer_minutes_minors": 60, "interruption_card": "on", "retention_tricks": "forbidden", "reports": ()},
        ),
        (
            "eu",
            {
                "notice_at_start": "on",
                "notice_proof": "on",
                "timer_minutes": 180,
                "sensitive_data_consent": "on",
                "impact_assessment": "on",
                "erasure": "on",
            },
        ),
        (
            "research",
            {
                "client_replies": "ethics-approval",
                "approval_number": "needed",
                "staff_monitoring": "on",
                "stop_rule": "on",
            },
        ),
    ],
)
def test_what_the_law_notes_say(name: str, said: dict[str, Any]) -> None:
    """The table of safety-and-law.md, section 7."""
    found = load(name).switches
    assert {key: found[key] for key in said} == said


def test_everywhere() -> None:
    for name in profiles.names():
        found = load(name).switches
        assert found["notice_on_question"] == "on", "a straight yes, in every mode"
        assert found["drafts"] != "unreviewed", "every draft is approved"
        assert found["audit_years"] >= 6  # type: ignore[operator]
        assert load(name).sources[0].citation


# ---------------------------------------------------------------------- together


def value(name: str) -> st.SearchStrategy[Any]:
    switch = SWITCHES[name]
    if switch.kind == "choice":
        return st.sampled_from(switch.values)
    if switch.kind == "all-of":
        return st.sets(st.sampled_from(switch.values)).map(lambda found: tuple(sorted(found)))
    return st.integers(0, 4000)


def any_profile() -> st.SearchStrategy[Profile]:
    base = [load(name) for name in profiles.names()]
    return st.builds(
        lambda like, switches: Profile(sources=like.sources, switches=switches),
        st.sampled_from(base),
        st.fixed_dictionaries({name: value(name) for name in SWITCHES}),
    )


@given(any_profile(), any_profile(), any_profile())
@settings(max_examples=60, deadline=None)
def test_the_stricter_of_each(a: Profile, b: Profile, c: Profile) -> None:
    both = combine(a, b)
    assert both == combine(b, a)
    assert combine(combine(a, b), c) == combine(a, combine(b, c)) == combine(a, b, c)
    assert combine(a, a) == combine(a)
    assert combine(both, a) == both
    assert both.at_least_as_strict(a)
    assert both.at_least_as_strict(b)
    for name in SWITCHES:
        if SWITCHES[name].kind != "all-of":
            assert both.switches[name] in (a.switches[name], b.switches[name]), "no value that neither asked for"


def test_a_combination_by_name() -> None:
    both = combine(load("us-il"), load("eu"))
    assert both.name == "eu + us-il"
    assert both.switches["drafts"] == "notes-only"
    assert both.switches["sensitive_data_consent"] == "on"
    assert combine(load("us-ca"), load("us-ut")).switches["reports"] == ("dossier", "yearly-counts")
    with pytest.raises(ConfigError, match="at least one"):
        combine()


def test_none_is_the_loosest_number() -> None:
    timer, audit = SWITCHES["timer_minutes"], SWITCHES["audit_years"]
    assert timer.stricter(0, 180) == 180
    assert timer.stricter(60, 180) == 60
    assert audit.stricter(6, 3) == 6
    assert audit.stricter(0, 3) == 3


def test_the_matrix_names_every_value() -> None:
    pairs = set(matrix())
    for switch in SWITCHES.values():
        assert switch.meaning
        seen = {found for name, found in pairs if name == switch.name}
        assert len(seen) >= 2, "a switch with one value is none"
        for found in seen:
            assert switch.read(found) == found
    assert len(pairs) > 70


# ---------------------------------------------------------------------- by policy


def test_replies_by_policy_need_people() -> None:
    """A named professional, a staffed queue and a passed crisis set."""
    utah = load("us-ut")
    assert len(utah.missing_for_client_replies(Conditions())) == 3
    ready = Conditions(responsible="Dr. Adeyemi", takeover_staffed=True, crisis_set_passed=True)
    assert utah.missing_for_client_replies(ready) == ()
    assert load("research").missing_for_client_replies(ready) == (
        "the number of an ethics approval",
        "a member of staff who watches the conversation",
    )
    watched = replace(ready, approval="EK-17", watched=True)
    assert load("research").missing_for_client_replies(watched) == ()
    for name in ("strict", "us-il", "us-me", "us-nv"):
        assert load(name).missing_for_client_replies(ready), "nothing opens what is off"
    assert combine(utah, load("strict")).missing_for_client_replies(ready)


# ---------------------------------------------------------------------- checks


def test_a_check_that_is_missing_or_old_warns() -> None:
    fresh = load("eu")
    assert "never checked" in fresh.warnings(TODAY)[0]
    checked = fresh.with_check("eu", checked=TODAY, checker="R. Adeyemi")
    assert checked.warnings(TODAY) == ()
    assert checked.warnings(TODAY + timedelta(days=180)) == ()
    assert "last checked on 2026-11-22" in checked.warnings(TODAY + timedelta(days=181))[0]
    assert checked.warnings(TODAY - timedelta(days=1)), "a check in the future is none"
    with pytest.raises(NotFoundError):
        fresh.with_check("us-ny", checked=TODAY, checker="x")
    with pytest.raises(ConfigError, match="name of whoever"):
        fresh.with_check("eu", checked=TODAY, checker=" ")


def test_the_older_check_counts() -> None:
    one = load("eu").with_check("eu", checked=TODAY, checker="a")
    assert combine(one, load("eu")).warnings(TODAY)
    assert combine(one, load("us-ny")).warnings(TODAY)[0].startswith("The profile 'us-ny'")


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('drafts = "approved"', 'drafts = "aproved"', "Did you mean 'approved'"),
        ('drafts = "approved"\n', "", "does not say 'drafts'"),
        ('drafts = "approved"', 'drafts = "approved"\ndraft = "off"', "unknown switch 'draft'"),
        ("timer_minutes = 180", "timer_minutes = -1", "whole number"),
        ("timer_minutes = 180", "timer_minutes = true", "whole number"),
        ("reports = []", 'reports = ["monthly"]', "is a list of"),
        ('title = ', 'titel = ', "unknown key 'titel'|KeyError"),
        ('checked = ""', 'checked = "yesterday"', "cannot be used"),
        ('version = "1.0"', "version =", "cannot be used"),
    ],
)  # fmt: skip
def test_a_damaged_profile_is_one_sentence(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(SOURCE.replace(old, new, 1), where="eu.toml")


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(SOURCE.replace('name = "eu"', 'name = "ours"').replace('checked = ""', "checked = 2026-11-01"))
    assert load(str(path)).name == "ours"
    assert load(str(path)).sources[0].checked == date(2026, 11, 1)
    with pytest.raises(NotFoundError, match="no profile"):
        load(str(tmp_path / "absent.toml"))
    with pytest.raises(NotFoundError, match="Did you mean 'us-ny'"):
        load("us-nyc")


# ---------------------------------------------------------------------- disclosures

VALUES = {
    "responsible": "Dr. Adeyemi", "contact": "555 0100", "place": "our own building", "days": 365, "line": "988",
    "emergency": "911", "minutes": 15, "day": "2027-01-01",
}  # fmt: skip
SAYS_AI = {"en": "not a human being", "es": "no un ser humano", "de": "kein Mensch"}


@pytest.mark.parametrize("language", profiles.LANGUAGES)
def test_every_moment_has_its_text(language: str) -> None:
    """Section 8: what must be said when."""
    texts = load_texts(language)
    assert texts.version
    for moment in profiles.MOMENTS:
        said = texts.text(moment, **VALUES)
        assert "{" not in said
        assert len(said) < 700
    for moment in ("timer", "return", "when-asked", "minors"):
        assert SAYS_AI[language] in texts.text(moment, **VALUES)
    assert texts.text("when-asked").split()[0].strip(",") in ("Yes", "Sí", "Ja"), "a straight yes"
    for moment in ("start", "timer", "return", "risk-held", "nobody-on-duty", "minors"):
        assert "988" in texts.text(moment, **VALUES)


@pytest.mark.parametrize("language", profiles.LANGUAGES)
def test_what_is_said_is_what_happens(language: str) -> None:
    """A person sends what carries a name; the program sends fixed texts, also while a conversation is held."""
    texts, person = load_texts(language), {"en": "person", "de": "Mensch", "es": "persona"}[language]
    fixed = {"en": "fixed", "de": "fest", "es": "fij"}[language]
    for moment in ("before-first-use", "start", "timer", "return", "when-asked", "minors"):
        assert person in texts.text(moment, **VALUES)
    for moment in ("start", "risk-held"):
        assert fixed in texts.text(moment, **VALUES)


def test_nothing_is_shown_with_a_hole() -> None:
    with pytest.raises(ConfigError, match="'line'"):
        load_texts("en").text("start")
    with pytest.raises(NotFoundError):
        load_texts("en").text("end")
    with pytest.raises(NotFoundError):
        load_texts("fr")
    source = files("heedful.profiles.texts").joinpath("en.toml").read_text("utf-8")
    for old, new, message in (
        ("{line} answers.", "somebody answers.", "must use line"),
        ("when-asked =", "asked =", "must hold"),
        ('language = "en"', "", "cannot be used"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_texts(source.replace(old, new, 1), where="en")
