"""What people are told about the software, when, and the proof that they were (docs/decisions/0056-disclosures.md).

The texts are those of `heedful.profiles`; the switches of the profile decide which moments there are. Each showing is
kept with wording, version and time before the page leaves.

>>> asks_whether_ai("Wait, are you a robot?"), asks_whether_ai("I feel like a robot.")
(True, False)
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any, Final

from heedful.profiles import LANGUAGES as TEXT_LANGUAGES
from heedful.profiles import MOMENTS, load_texts
from heedful.review.minors import is_minor
from heedful.server import words
from heedful.server.clinic import Desk
from heedful.store.records import StoredTurn
from heedful.store.unit import Unit

FIRST: Final = "before-first-use"
MINORS: Final = "minors"
TOLD: Final = ("start", "timer", "return", "daily", MINORS)
"""Moments that say that this is AI: after any of them the clocks begin anew."""
INTERRUPT: Final = "interrupt-seen"
DAY: Final = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A text that is shown now."""

    moment: str
    text: str = field(repr=False)


def text_of(desk: Desk, moment: str, language: str) -> tuple[str, str]:
    """The words of a moment, filled in, and their version."""
    found = load_texts(language if language in TEXT_LANGUAGES else "en")
    lines = desk.directory.fill(language)
    say = words.load(language if language in words.LANGUAGES else "en").say
    house, days = desk.house, desk.switch("transcript_days")
    values = {
        "line": lines.line,
        "emergency": lines.emergency,
        "minutes": house.response_minutes,
        "responsible": house.responsible or say("house.responsible"),
        "contact": house.contact or say("house.contact"),
        "place": house.place or say("house.place"),
        "days": say("house.at_most", days=days) if days else say("house.unlimited"),
    }
    # A day on which the notice comes again says what a start says.
    named = "start" if moment == "daily" else moment
    return found.text(named, **{name: values[name] for name in MOMENTS[named]}), found.version


def first_use(unit: Unit, desk: Desk, user: str) -> bool:
    """Whether this person still has to see what is said before first use."""
    return desk.switch("notice_before_use") != "none" and FIRST not in unit.notices.times(user)


def age_asked(unit: Unit, desk: Desk, user: str) -> bool:
    """Whether this person still has to say how old they are: once, where minors get a notice of their own."""
    return desk.on("notice_minors") and unit.users.get(user).adult_from is None


def due(unit: Unit, desk: Desk, user: str) -> tuple[str, ...]:
    """Moments whose text has to be shown to a help-seeker who is here now."""
    now = unit.now()
    shown = unit.notices.times(user)
    last = max((at for moment, at in shown.items() if moment in TOLD), default=None)
    start = shown.get("start")
    ended = max((t.closed_at for t in unit.threads.of(user) if t.closed_at is not None), default=None)
    out: list[str] = []
    asked = desk.on("notice_minors") or bool(desk.switch("timer_minutes_minors"))
    minor = asked and is_minor(unit.users.get(user), now)
    if minor and desk.on("notice_minors") and MINORS not in shown:
        out.append(MINORS)
    if desk.on("notice_at_start") and (start is None or (ended is not None and start < ended)):
        out.append("start")
    elif last is not None and not out:
        out += ["return"] if _returned(unit, desk, user, shown) else _again(desk, now, last, minor=minor)
    if "start" in out and desk.clinic.policy.drafts:
        out.append("co-pilot")
    duty = shown.get("nobody-on-duty")
    if not desk.on_duty and (duty is None or now - duty >= DAY):
        out.append("nobody-on-duty")
    return tuple(out)


def _returned(unit: Unit, desk: Desk, user: str, shown: Mapping[str, datetime]) -> bool:
    """Whether this person was away for so many days that they are told again, as far as the record says."""
    days = desk.switch("return_days")
    assert isinstance(days, int)
    away = timedelta(days=days)
    if not days or unit.now() - max(shown.values()) < away:
        return False
    wrote = unit.turns.newest_by(user)
    return wrote is None or unit.now() - wrote >= away


def _again(desk: Desk, now: datetime, last: datetime, *, minor: bool) -> list[str]:
    minutes, young = (desk.switch(name) for name in ("timer_minutes", "timer_minutes_minors"))
    assert isinstance(minutes, int)
    assert isinstance(young, int)
    if desk.on("notice_daily") and now - last >= DAY:
        return ["daily"]
    # The text for minors speaks of a break, whichever of the two timers is the shorter.
    if minor and young and now - last >= timedelta(minutes=min(young, minutes or young)):
        return [MINORS]
    # Somebody who was away was not talking for three hours; whoever is here again after it reads it again.
    return ["timer"] if minutes and now - last >= timedelta(minutes=minutes) else []


def show(unit: Unit, desk: Desk, user: str, moments: tuple[str, ...], *, language: str) -> tuple[Shown, ...]:
    """The texts of these moments, with the proof kept."""
    open_thread = next((t.id for t in unit.threads.of(user) if t.state != "closed"), None)
    out = []
    for moment in moments:
        text, version = text_of(desk, moment, language)
        # The clocks need the time; only a profile that wants proof keeps the words.
        wording = text if desk.on("notice_proof") else ""
        unit.notices.add(
            moment=moment, wording=wording, version=version, language=language, user=user, thread=open_thread
        )
        out.append(Shown(moment=moment, text=text))
    return tuple(out)


def answer_question(unit: Unit, desk: Desk, turn: StoredTurn, *, language: str) -> StoredTurn | None:
    """A straight yes to the question whether this is AI; the same message is answered once.

    Where a person has taken the conversation a program must not answer for them: None, and the person does.
    """
    thread = unit.threads.get(turn.thread_id)
    if not desk.on("notice_on_question") or thread.state in ("human_owned", "closed") or not asks_whether_ai(turn.text):
        return None
    client_id = f"notice:{turn.id}:when-asked"
    kept = [t for t in unit.turns.of(thread.id, after=turn.sequence) if t.client_id == client_id]
    if kept:
        return kept[0]
    yes, version = text_of(desk, "when-asked", language)
    more, _ = text_of(desk, "co-pilot", language)
    text = f"{yes} {more}" if desk.clinic.policy.drafts else yes
    unit.notices.add(
        moment="when-asked",
        wording=text if desk.on("notice_proof") else "",
        version=version,
        language=language,
        user=thread.help_seeker,
        thread=thread.id,
    )
    # As a turn of the system: a "yes" that the help-seeker writes next still answers the question of the crisis path.
    return unit.turns.add(thread=thread.id, client_id=client_id, role="system", text=text)


def asks_whether_ai(text: str) -> bool:
    """Whether a message asks if a machine writes. Only its first 2,000 characters and its last ones are read."""
    plain = _plain(text if len(text) <= 4000 else f"{text[:2000]} {text[-2000:]}")
    return any(pattern.search(plain) for pattern in _patterns())


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(_plain(p)) for about in cases().values() for p in about["patterns"])


@cache
def cases() -> Mapping[str, Mapping[str, Any]]:
    """Patterns and cases of each language, as they stand in `asked.toml`."""
    found = tomllib.loads(files("heedful.server").joinpath("asked.toml").read_text("utf-8"))
    return {name: about for name, about in found.items() if isinstance(about, dict)}


def _plain(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text.lower())
    return " ".join("".join(c for c in apart if not unicodedata.combining(c)).split())
