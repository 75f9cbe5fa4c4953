"""Every switch of a profile, with every value that it can have, shows in the server or the console.

Each line of `SHOWS` looks at a clinic whose profile has one value of one switch, everything else as in `BASE`, and says
what somebody meets there. `test_values_differ` asks that two values never show the same, except where `SAME` says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from belief_kit import VEILED, toy_belief
from clinic_kit import HOUSE, Clinic, make_clinic, say, send

from heedful.profiles import SWITCHES, Value, matrix
from heedful.review import watching
from store_kit import Clock

OTHERS = {"protocol_page", "name_filter", "impact_assessment", "approval_number", "reports"}
"""Switches whose effects have tests of their own, elsewhere."""
ALWAYS = {
    "retention_tricks": "heedful has no streaks, no counts of days and sends no come-back message under any profile",
    "advertising": "heedful shows no advertising and loads nothing from outside under any profile",
    "audit_years": "the audit only grows: nothing deletes a row of it, so every number of years is kept",
}
"""Switches that ask for what is always so. What they forbid is tested to be absent."""
SAME = {
    ("drafts", "unreviewed", "approved"): "no way leads from a draft to a help-seeker without a person",
    ("emotion_shown", "per-protocol", "clinician"): "help-seekers are never shown what a model reads about emotions",
}
"""Pairs of values that come to the same, because heedful is as strict as the second under both."""
BASE = {
    **{name: switch.values[0] for name, switch in SWITCHES.items() if switch.kind != "all-of"},
    "reports": (),
    "approval_number": "not-needed",
}
"""The loosest of everything."""
DANGER = "I am going to kill myself tonight."


@contextmanager
def clinic_with(folder: Path, name: str, value: Value, **more: Any) -> Iterator[Clinic]:
    """A clinic whose profile is `BASE` with one switch set, and with whatever else a case needs."""
    switches = {**BASE, **more.pop("switches", {}), name: value}
    lines = [f"{key} = {_toml(found)}" for key, found in switches.items()]
    head = (
        'name = "own"\ntitle = "t"\nversion = "1"\ncitation = "c"\nchecked = ""\nchecker = ""\nnotes = []\n[switches]\n'
    )
    (folder / "own.toml").write_text(head + "\n".join(lines) + "\n", "utf-8")
    clock = Clock()
    clinic = make_clinic(
        folder,
        clock=clock,
        profiles=(str(folder / "own.toml"),),
        session_idle=10**8,
        session_absolute=10**8,
        **more,
    )
    clinic.clock = clock  # type: ignore[attr-defined]
    try:
        yield clinic
    finally:
        clinic.store.close()


def _toml(value: Value) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{part}"' for part in value) + "]"
    return str(value) if isinstance(value, int) else f'"{value}"'


# ---------------------------------------------------------------------- what somebody meets


def anna(clinic: Clinic) -> Any:
    """The help-seeker, past whatever comes before the conversation."""
    client = clinic.client("help_seeker")
    if "/talk/begin" in client.get("/talk").text:
        send(client, "/talk/begin", page="/talk")
    return client


def drafted(clinic: Clinic) -> str:
    """The console's page of a conversation for which a draft was asked."""
    say(anna(clinic), "I slept badly, and everything is grey.", "m-1")
    while (
        len(clinic.desk.workers) > 1
        and clinic.desk.workers[1].name.startswith("drafts")
        and clinic.desk.workers[1].work()
    ):
        pass
    return str(clinic.client("clinician").get(f"/inbox/{clinic.thread().id}").text)


def client_replies(clinic: Clinic) -> object:
    page = clinic.client("admin").get("/admin").text
    return re.findall(r"allows no replies|a passed crisis evaluation|number of an ethics approval", page)


def drafts(clinic: Clinic) -> object:
    page, at = drafted(clinic), f"/inbox/{clinic.thread().id}/notes"
    notes = clinic.client("clinician").get(at).text
    return clinic.writer.reply in page, "Let a model draft a note" in notes, [w.name for w in clinic.desk.workers]


def note_review(clinic: Clinic) -> object:
    drafted(clinic)
    clara, at = clinic.client("clinician"), f"/inbox/{clinic.thread().id}/notes"
    clinic.desk.noter.writer = clinic.writer
    send(clara, f"{at}/draft", {"kind": "note"}, page=at)
    clinic.note()
    with clinic.store.read() as unit:
        note = unit.case_notes.of(clinic.thread().id)[0]
    send(clara, f"{at}/{note.id}/sign", {"version": "1"}, page=at)
    return "waits for a second person" in clara.get(at).text


def emotion_shown(clinic: Clinic) -> object:
    page = drafted(clinic)
    (draft,) = clinic.drafts()
    assert "sadness" not in clinic.client("help_seeker").get("/talk").text
    return "sadness" in page, "emotion" in draft.reasons


def emotion_evidence(clinic: Clinic) -> object:
    return "anger" in drafted(clinic)


def risk_belief(clinic: Clinic) -> object:
    for engine in clinic.desk.engines:
        engine.start()
    try:
        say(anna(clinic), VEILED, "m-1")
        for worker in clinic.desk.workers:
            if worker.name == "belief":
                worker.work()
        page = clinic.client("admin").get("/admin").text
        return clinic.thread().risk_level, "the profile asks for counsel" in page
    finally:
        for engine in clinic.desk.engines:
            engine.stop()


def notice_before_use(clinic: Clinic) -> object:
    page = clinic.client("help_seeker").get("/talk").text
    return "/talk/begin" in page, 'id="written"' in page


def notice_at_start(clinic: Clinic) -> object:
    return "What is marked as program is a fixed text" in clinic.client("help_seeker").get("/talk").text


def notice_on_question(clinic: Clinic) -> object:
    say(anna(clinic), "Are you a robot?", "m-1")
    return [role for role, _ in clinic.turns()]


def again_after(clinic: Clinic, *, minor: bool = False, **time: float) -> object:
    """Which notices come after a time, to somebody who wrote before it."""
    client = anna(clinic)
    if minor:
        clinic.store.run(lambda unit: unit.users.set_age(clinic.site.ids["help_seeker"], 9999, by="test"))
    client.get("/talk")
    say(client, "Hello", "m-1")
    clinic.clock.forward(**time)  # type: ignore[attr-defined]
    client.get("/talk")
    with clinic.store.read() as unit:
        return [n.moment for n in unit.notices.of(clinic.site.ids["help_seeker"])]


def notice_proof(clinic: Clinic) -> object:
    anna(clinic).get("/talk")
    with clinic.store.read() as unit:
        return [bool(n.wording) for n in unit.notices.of(clinic.site.ids["help_seeker"])]


def notice_minors(clinic: Clinic) -> object:
    return 'name="born"' in anna(clinic).get("/talk").text


def recording_consent(clinic: Clinic) -> object:
    asked = "May we use a transcript?" in anna(clinic).get("/talk").text
    drafted(clinic)
    notes = clinic.client("clinician").get(f"/inbox/{clinic.thread().id}/notes").text
    return asked, "has not agreed that a transcript is used" in notes


def plan_signature(clinic: Clinic) -> object:
    drafted(clinic)
    clara, at = clinic.client("clinician"), f"/inbox/{clinic.thread().id}/notes"
    send(clara, at, {"text": "Get up at seven.", "kind": "plan"})
    with clinic.store.read() as unit:
        plan = unit.case_notes.of(clinic.thread().id)[0]
    return send(clara, f"{at}/{plan.id}/share", {"version": "1"}, page=at).status_code


def sensitive_data_consent(clinic: Clinic) -> object:
    page = anna(clinic).get("/talk").text
    return 'name="text"' in page, "explicit yes" in page, 'class="help"' in page


def consent_ledger(clinic: Clinic) -> object:
    return clinic.client("help_seeker").get("/consents").status_code


def interruption_card(clinic: Clinic) -> object:
    client = anna(clinic)
    say(client, DANGER, "m-1")
    return 'class="interrupt"' in client.get("/talk").text


def report_button(clinic: Clinic) -> object:
    return 'href="/report"' in clinic.client("clinician").get("/inbox").text


def erasure(clinic: Clinic) -> object:
    return clinic.client("help_seeker").get("/me/delete").status_code


def staff_monitoring(clinic: Clinic) -> object:
    drafted(clinic)
    clinic.clock.forward(minutes=3)  # type: ignore[attr-defined]
    page = clinic.client("clinician").get("/inbox").text
    with clinic.store.read() as unit:
        assert len(watching.unwatched(unit)) == 1
    return "nobody is looking" in page


def stop_rule(clinic: Clinic) -> object:
    say(anna(clinic), DANGER, "m-1")
    return clinic.thread().drafts_stopped


def transcript_days(clinic: Clinic) -> object:
    """What is still there after 366 days, and what was said about it before."""
    text = clinic.client("help_seeker").get("/talk").text
    told = re.findall(r"(without a limit in time|\d+ days); where: [^.]+\. Backups", text)
    say(anna(clinic), "Hello", "m-1")
    say(anna(clinic), "Hello again", "m-2")
    clinic.clock.forward(days=366)  # type: ignore[attr-defined]
    if clinic.desk.keeping is not None:
        clinic.desk.keeping.work()
    return told, [text for _, text in clinic.turns() if text.startswith("Hello")]


SHOWS: dict[str, Callable[[Clinic], object]] = {
    "client_replies": client_replies,
    "drafts": drafts,
    "note_review": note_review,
    "emotion_shown": emotion_shown,
    "emotion_evidence": emotion_evidence,
    "risk_belief": risk_belief,
    "notice_before_use": notice_before_use,
    "notice_at_start": notice_at_start,
    "notice_on_question": notice_on_question,
    "notice_daily": lambda clinic: again_after(clinic, hours=25),
    "notice_proof": notice_proof,
    "notice_minors": notice_minors,
    "recording_consent": recording_consent,
    "plan_signature": plan_signature,
    "sensitive_data_consent": sensitive_data_consent,
    "consent_ledger": consent_ledger,
    "interruption_card": interruption_card,
    "report_button": report_button,
    "erasure": erasure,
    "staff_monitoring": staff_monitoring,
    "stop_rule": stop_rule,
    "transcript_days": transcript_days,
}
"""Switch -> what somebody meets in a clinic with it."""
NEEDS: dict[str, dict[str, Any]] = {
    "notice_daily": {"switches": {"notice_at_start": "on"}},
    "notice_proof": {"switches": {"notice_at_start": "on"}},
    "transcript_days": {"switches": {"notice_before_use": "screen"}},
    "note_review": {"switches": {"drafts": "notes-only"}},
}
"""What a case needs beside its switch."""
TIMED: dict[str, tuple[bool, dict[int, dict[str, float]]]] = {
    "return_days": (False, {30: {"days": 30}, 7: {"days": 7}}),
    "timer_minutes": (False, {180: {"minutes": 180}, 60: {"minutes": 60}}),
    "timer_minutes_minors": (True, {180: {"minutes": 180}, 60: {"minutes": 60}}),
}
"""Number -> whether a minor sees it, and after which time each value shows."""


def met(folder: Path, name: str, value: Value) -> object:
    """What one value of one switch shows."""
    folder.mkdir()
    more = dict(NEEDS.get(name, {}))
    if name == "risk_belief":
        toy_belief(folder / "belief")
        more["belief"] = str(folder / "belief")
    with clinic_with(folder, name, value, **more) as clinic:
        return SHOWS[name](clinic)


def test_no_switch_is_forgotten() -> None:
    told = [*SHOWS, *TIMED, *ALWAYS, *OTHERS]
    assert sorted(told) == sorted(SWITCHES)
    assert len(told) == len(set(told))


@pytest.mark.parametrize("name", SHOWS)
def test_values_differ(tmp_path: Path, name: str) -> None:
    values = [value for switch, value in matrix() if switch == name]
    found = [met(tmp_path / str(n), name, value) for n, value in enumerate(values)]
    for n, value in enumerate(values):
        for m in range(n):
            same = (name, values[m], value) in SAME
            assert (found[m] == found[n]) is same, (name, values[m], value, found[m], found[n])


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, times) in TIMED.items() for value in (0, *times)]
)
def test_numbers_are_times(tmp_path: Path, name: str, value: int) -> None:
    """The notice comes at the time that the number names, and not before; at 0 it does not come."""
    minor, times = TIMED[name]
    assert {0, *times} == {v for switch, v in matrix() if switch == name}
    needs = {"notice_at_start": "on"}
    for part, (at, time) in enumerate(times.items()):
        folder = tmp_path / str(part)
        folder.mkdir()
        with clinic_with(folder, name, value, switches=needs) as clinic:
            seen = again_after(clinic, minor=minor, **time)
        assert isinstance(seen, list)
        came = bool({"return", "timer", "minors"} & set(seen))
        assert came is (value != 0 and at >= value), (name, value, time, seen)


def test_what_is_forbidden_is_nowhere(tmp_path: Path) -> None:
    """Under the loosest values too: nothing from outside, no streak, no guilt, no come-back message."""
    with clinic_with(tmp_path, "retention_tricks", "allowed", switches={"advertising": "allowed"}) as clinic:
        client = anna(clinic)
        say(client, "Hello", "m-1")
        for path in ("/talk", "/me", "/check-ins", "/exercises", "/resources"):
            page = client.get(path).text
            assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=\"https?:", page), path
            plain = re.sub(r"<[^>]+>", " ", page).lower()
            assert not re.search(r"streak|in a row|we miss you|come back soon|sponsored|advert", plain), path
        clinic.clock.forward(days=90)  # type: ignore[attr-defined]
        before = clinic.turns()
        clinic.tick()
        assert clinic.turns() == before  # nobody is called back


def test_the_audit_is_kept_whatever_else_is_deleted(tmp_path: Path) -> None:
    with clinic_with(tmp_path, "transcript_days", 365) as clinic:
        say(anna(clinic), "Hello", "m-1")
        with clinic.store.read() as unit:
            before = unit.audit.all()
        clinic.clock.forward(days=7 * 366)  # type: ignore[attr-defined]
        clinic.desk.keeping.work()
        with clinic.store.read() as unit:
            assert unit.audit.all()[: len(before)] == before


def test_counsel_lets_the_classifier_run(tmp_path: Path) -> None:
    toy_belief(tmp_path / "belief")
    word = '[risk_belief]\ncounsel = "K. Example"\nconfirmed = 2026-11-20\n'
    with clinic_with(tmp_path, "risk_belief", "counsel", belief=str(tmp_path / "belief"), house=HOUSE + word) as clinic:
        assert clinic.desk.clinic.belief is not None
