"""A filled-in questionnaire: kept, and where an answer asks for a person, handed to the crisis path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from heedful.review import crisis, instruments
from heedful.review.clinic import Clinic
from heedful.review.crisis import Outcome
from heedful.review.instruments import Instrument, Result
from heedful.safety import events
from heedful.safety.crisis import TIERS, Assessment, Tier
from heedful.store.records import Checkin
from heedful.store.unit import Unit


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A check-in that was kept; `outcome` of the crisis path where an answer struck."""

    checkin: Checkin
    result: Result
    outcome: Outcome | None = field(default=None)


def keep(
    clinic: Clinic, instrument: Instrument, answers: Sequence[int | None], *, by: str, language: str = "en"
) -> Kept:
    """Keep the answers of a help-seeker. An answer that strikes opens crisis lines and makes a task for a person.

    Args:
        answers: one for each item, None = left out.
        by: id of the help-seeker.
        language: of the page; the question that follows is asked in it.

    Raises:
        DataError: answers that are not on the scale.
    """
    result = instrument.score(answers)
    given = {str(n): answer for n, answer in enumerate(answers, start=1) if answer is not None}
    thread = clinic.open(by).id if result.triggers else None

    def work(unit: Unit) -> Kept:
        kept = unit.checkins.add(help_seeker=by, instrument=instrument.id, answers=given, total=result.total)
        unit.counters.add("checkins")
        if thread is None:
            return Kept(checkin=kept, result=result)
        unit.counters.add("checkins_struck")
        names = [f"{instrument.id}/{trigger}" for trigger in result.triggers]
        unit.audit.add(crisis.PROGRAM, "checkin.struck", f"thread:{thread}", rules=names)
        tier: Tier = max(result.tiers, key=TIERS.index)  # type: ignore[arg-type]
        said = events.Said(assessment=_silent(instrument, language), tier=tier, rung="watch")
        now = unit.threads.raise_risk(thread, 0, by=by)
        setting = clinic.policy.setting(unit.now())
        outcome = crisis.happen(unit, now, said, setting=setting, lines=clinic.policy.lines)
        clinic.stop_if_due(unit, outcome.thread)
        return Kept(checkin=kept, result=result, outcome=outcome)

    return clinic.store.run(work)


@dataclass(frozen=True, kw_only=True)
class Struck:
    """An answer that asks for a person, as staff is shown it.

    Args:
        checkin, instrument: ids. item: its number, from 1.
        value, most: what was answered last, and the highest answer there is.
        before, before_at: the answer before that; None = there is none.
    """

    checkin: str
    instrument: str
    item: int
    value: int
    most: int
    at: datetime
    before: int | None = None
    before_at: datetime | None = None


def struck(unit: Unit, user: str) -> tuple[Struck, ...]:
    """Answers of a help-seeker that ask for a person: the last one to each such item, with the one before.

    One answer below the limit does not hide the one before it; two do. An answer that was left out says nothing.
    """
    out = []
    for instrument in instruments.known().values():
        own = unit.checkins.of(user, instrument=instrument.id) if instrument.triggers else ()
        for trigger in instrument.triggers:
            given = [(kept, kept.answers.get(str(trigger.item))) for kept in own]
            last = [(kept, answer) for kept, answer in given if isinstance(answer, int)][-2:]
            if not any(answer >= trigger.least for _, answer in last):
                continue
            (kept, value), before = last[-1], last[0] if len(last) > 1 else None
            out.append(
                Struck(
                    checkin=kept.id,
                    instrument=instrument.id,
                    item=trigger.item,
                    value=value,
                    most=instrument.scale[-1],
                    at=kept.created_at,
                    before=before[1] if before else None,
                    before_at=before[0].created_at if before else None,
                )
            )
    return tuple(out)


def _silent(instrument: Instrument, language: str) -> Assessment:
    """No words were said: what is known comes from the answer alone."""
    return Assessment(
        tier="none",
        level=0,
        behaviour="none",
        classes=(),
        matches=(),
        noted=(),
        denied=False,
        history_only=False,
        joking=False,
        language=language,
        overflow=False,
        versions={instrument.id: instrument.version},
    )
