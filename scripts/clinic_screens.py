"""Pictures of the clinic's pages for docs/clinic.md: fills a demo clinic with invented talk and photographs each page.

    PYTHONPATH=tests:tests/unit python scripts/clinic_screens.py [docs/pictures/clinic]

It needs the serve extra, Chromium and Playwright. Every word of the demo is our own; no corpus is read. No model runs:
the drafts and their reasons are written down here, so the pictures show the pages and say nothing about any model.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import browser_kit
from clinic_kit import Clinic, make_clinic

from heedful.review import checkins, instruments, notes, problems
from heedful.server.auth.second_factor import Factor
from heedful.store.unit import Unit
from server_kit import PASSWORD, running
from store_kit import Clock

ROOT = Path(__file__).parents[1]
HOUSE = """
name = "Counselling service Nordstadt"
responsible = "Dr. Rowan Vale"
contact = "office@nordstadt.example, 555 0123"
place = "our own computer in the house"
timezone = "Europe/Berlin"
[hours]
mon = ["08:00-20:00"]
tue = ["08:00-20:00"]
wed = ["08:00-20:00"]
thu = ["08:00-20:00"]
fri = ["08:00-18:00"]
"""
MARA = (
    ("user", "I could not sleep again. It is the fourth night."),
    ("draft", "Four nights is a lot. What are the nights like when you lie awake?"),
    ("user", "I go through work in my head, everything I might have got wrong. In the morning I am grey and slow."),
)
DRAFT = "Going through every mistake at night sounds exhausting. Is there one that comes back more than the others?"
REASONS: dict[str, Any] = {
    "strategy": {
        "name": "Reflection of feelings",
        "distribution": {"Reflection of feelings": 0.52, "Question": 0.31, "Affirmation": 0.12, "Information": 0.05},
        "by": "model",
        "rule": "argmax",
    },
    "emotion": [
        {"turn": 1, "values": {"sadness": 0.42, "fear": 0.31}, "evidence": "could not sleep again"},
        {"turn": 3, "values": {"sadness": 0.55, "fear": 0.63}, "evidence": "everything I might have got wrong"},
    ],
    "sources": [
        {
            "id": "case:17",
            "title": "Lying awake",
            "text": "Ask what the nights are like before any advice.",
            "score": 0.61,
            "index": "knowledge/v1#4be1c0a2",
            "vetted_by": "R. Vale",
            "date": "2026-10-01",
        }
    ],
    "plan": ["Name what the nights are like", "One open question"],
    "prompt": {"name": "draft.txt", "hash": "b71c2f0a93d4e815"},
    "uncertainty": 0.38,
}


def fill(clinic: Clinic, clock: Clock) -> dict[str, str]:
    """Four help-seekers at different points of their way; addresses of what is photographed."""
    clinic.writer.reasons = REASONS
    clara, susan = clinic.site.ids["clinician"], clinic.site.ids["supervisor"]
    past(clinic, clock, clara, susan)
    seekers = {name: person(clinic, name) for name in ("Mara", "Jonas", "Lea")}
    mara = talk(clinic, clock, seekers["Mara"], clara, MARA)
    clinic.writer.reply = DRAFT
    clinic.draft()
    clock.forward(minutes=4)
    lea = clinic.desk.clinic.open(seekers["Lea"]).id
    say(clinic, lea, seekers["Lea"], "Could I speak with a person some time today?")
    clinic.desk.clinic.ask_person(lea, by=seekers["Lea"])
    with clinic.store.begin() as unit:
        admin = clinic.site.ids["admin"]
        factor = replace(Factor.new(), state="on").write()
        unit.users.add(role="clinician", name="Nils Ahrend", by=admin, password_hash="-", totp_secret=factor)
    clinic.draft()
    clock.forward(minutes=6)
    jonas = clinic.desk.clinic.open(seekers["Jonas"]).id
    say(
        clinic,
        jonas,
        seekers["Jonas"],
        "I cannot do this any more. I am going to kill myself tonight.",
    )
    record(clinic, clock, seekers["Mara"], mara)
    return {"mara": mara, "jonas": jonas, **{f"seeker-{name}": user for name, user in seekers.items()}}


def person(clinic: Clinic, name: str) -> str:
    """An account of a help-seeker who has read what is said before first use."""
    return str(clinic.site.accounts.add(role="help_seeker", name=name, password=PASSWORD, by="setup").id)


def say(clinic: Clinic, thread: str, user: str, text: str) -> None:
    """One message."""
    clinic.desk.clinic.receive(thread, by=user, client_id=f"demo-{thread}-{len(text)}", text=text)


def talk(clinic: Clinic, clock: Clock, user: str, by: str, turns: tuple[tuple[str, str], ...]) -> str:
    """A conversation; a `draft` was approved by a clinician."""
    thread = str(clinic.desk.clinic.open(user).id)
    for role, text in turns:
        clock.forward(minutes=3)
        if role == "user":
            say(clinic, thread, user, text)
            continue
        clinic.writer.reply = text
        clinic.draft()
        with clinic.store.read() as unit:
            draft = next(d for d in unit.drafts.of(thread) if d.state == "drafted")
        clinic.desk.clinic.approve(draft.id, by=by)
    return thread


def past(clinic: Clinic, clock: Clock, clara: str, susan: str) -> None:
    """Ten weeks of decisions and handovers, so that the supervisor's page has something to count."""
    ida = person(clinic, "Ida")
    for week in range(10):
        for n in range(5):
            thread = clinic.desk.clinic.open(ida).id
            clinic.desk.clinic.receive(thread, by=ida, client_id=f"w{week}-{n}", text="Today was a long day.")
            clinic.writer.reply = "Long days add up. What was the longest part of it?"
            clinic.draft()
            clock.forward(minutes=4 + n)
            with clinic.store.read() as unit:
                draft = next(d for d in unit.drafts.of(thread) if d.state == "drafted")
            by = clara if n % 2 else susan
            if (week + n) % 5 == 0:
                clinic.desk.clinic.reject(draft.id, by=by, reason="Asks too early")
            elif n < 2:
                clinic.desk.clinic.edit(draft.id, "A long day, again. How are you now?", by=by)
            else:
                clinic.desk.clinic.approve(draft.id, by=by)
        if week % 3 == 0:
            clinic.desk.clinic.hold(thread, by=clara, reason="I want a second look")
            clock.forward(minutes=5 + week)
            clinic.desk.clinic.take_over(thread, by=clara)
            clinic.desk.clinic.give_back(thread, by=clara, reason="It was clear after a talk")
        clock.forward(days=7)


def record(clinic: Clinic, clock: Clock, user: str, thread: str) -> None:
    """Check-ins over some weeks, a note, a consent, an exercise."""
    today = clock.at
    phq9 = instruments.get("phq9")
    for days, answers in enumerate(
        ([2, 2, 3, 2, 1, 2, 1, 0, 0], [2, 2, 2, 2, 1, 1, 1, 0, 0], [1, 2, 2, 1, 1, 1, 0, 0, 0])
    ):
        clock.at = today - timedelta(days=28 - 14 * days)
        checkins.keep(clinic.desk.clinic, phq9, answers, by=user)
    clock.at = today

    def work(unit: Unit) -> None:
        turn = unit.turns.of(thread)[0]
        unit.memory.add(help_seeker=user, text="Sleeps badly when work is heavy", turn=turn.id)
        unit.exercises.add(help_seeker=user, kind="values-card", answers={"area": "Friends", "value": "Listening"})
        text, version = "We keep your messages so that the team can answer you.", "pages-1.0"
        unit.consents.add(
            user=user, purpose="care", action="given", wording=text, version=version, language="en", by=user
        )

    clinic.store.run(work)
    papers(clinic, clock, thread, user)


def papers(clinic: Clinic, clock: Clock, thread: str, user: str) -> None:
    """A signed note by hand, one that a model drafted and nobody signed yet, and a report."""
    clara = clinic.site.ids["clinician"]
    made = notes.write(clinic.desk.clinic, thread, "note", "Came because of bad nights; work on her mind.", by=clara)
    notes.sign(clinic.desk.clinic, made.id, by=clara, version=made.version)
    clock.forward(minutes=1)
    with clinic.store.begin() as unit:
        words = "Fourth night without sleep. She goes through work in her head. Agreed: a closer look at the evenings."
        unit.case_notes.add(thread=thread, kind="note", text=words, by=clara, model="demo-model")
    words = "The answer came very late on Tuesday."
    problems.report(clinic.desk.clinic, user=user, role="help_seeker", kind="other", text=words)


PICTURES: tuple[tuple[str, str | None, str, dict[str, Any]], ...] = (
    ("sign-in", None, "/sign-in", {}),
    ("sign-in-german", None, "/sign-in", {"locale": "de-DE"}),
    ("resources", None, "/resources", {}),
    ("protocol", None, "/protocol", {}),
    ("first-use", "Ida", "/talk", {}),
    ("talk", "Mara", "/talk", {}),
    ("talk-phone", "Mara", "/talk", {"viewport": {"width": 390, "height": 800}}),
    ("talk-dark", "Mara", "/talk", {"color_scheme": "dark"}),
    ("talk-german", "Mara", "/talk", {"language": "de"}),
    ("interrupt", "Jonas", "/talk", {}),
    ("check-ins", "Mara", "/check-ins", {}),
    ("phq9", "Mara", "/check-ins/phq9", {}),
    ("exercise", "Mara", "/exercises/thought-record", {}),
    ("record", "Mara", "/me", {}),
    ("delete", "Mara", "/me/delete", {}),
    ("consents", "Mara", "/consents", {}),
    ("consent", "Mara", "/consents/training", {}),
    ("report", "Mara", "/report", {}),
    ("inbox", "clinician", "/inbox", {}),
    ("conversation", "clinician", "/inbox/{mara}", {}),
    ("conversation-dark", "clinician", "/inbox/{mara}", {"color_scheme": "dark"}),
    ("conversation-phone", "clinician", "/inbox/{mara}", {"viewport": {"width": 390, "height": 800}}),
    ("held", "clinician", "/inbox/{jonas}", {}),
    ("notes", "clinician", "/inbox/{mara}/notes", {}),
    ("tasks", "clinician", "/tasks", {}),
    ("people", "clinician", "/people", {}),
    ("colleagues", "clinician", "/colleagues", {}),
    ("supervision", "supervisor", "/supervision", {}),
    ("problems", "supervisor", "/problems", {}),
    ("admin", "admin", "/admin", {}),
    ("account", "admin", "/account", {}),
    ("reports", "supervisor", "/reports", {}),
    ("line", "admin", "/admin/resources/us-988", {}),
)
"""Name of the picture, who looks, at what, and what is special about the window."""


@contextmanager
def window(browser: Any, clinic: Clinic, address: str, who: str | None, options: dict[str, Any]) -> Iterator[Any]:
    """A page of a signed-in browser."""
    settings = {"viewport": {"width": 1180, "height": 820}, "locale": "en-GB", "color_scheme": "light", **options}
    language = settings.pop("language", None)
    context = browser.new_context(**settings)
    if who is not None:
        with clinic.store.begin() as unit:
            user = unit.users.get(clinic.site.ids[who]) if who in clinic.site.ids else unit.users.by_name(who)
            unit.users.change(user.id, by=user.id, language=language or "en")
            if user.role == "help_seeker" and who != "Ida" and unit.notices.last(user.id, "before-first-use") is None:
                unit.notices.add(moment="before-first-use", wording="", version="1.0", language="en", user=user.id)
        login = clinic.site.accounts._open(user, device="", stage="full")
        context.add_cookies([{"name": "heedful", "value": login.token, "url": address}])
    yield context.new_page()
    context.close()


def main(target: Path) -> None:
    """Take all pictures."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser_kit.chromium() as browser:
        clock = Clock()
        clock.at = datetime(2026, 9, 14, 8, 0, tzinfo=UTC)
        year = 366 * 86_400
        clinic = make_clinic(Path(folder), clock=clock, house=HOUSE, session_idle=year, session_absolute=year)
        places = fill(clinic, clock)
        desk = clinic.desk
        for worker in desk.workers:
            worker.pause = 3600  # the demo's clock stands still
        with running(clinic.site.app) as address:
            for name, who, path, options in PICTURES:
                with window(browser, clinic, address, who, dict(options)) as page:
                    page.goto(address + path.format(**places))
                    page.wait_for_load_state("networkidle")
                    page.screenshot(path=str(target / f"{name}.png"), full_page=True)
        clinic.store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures" / "clinic")
