"""The stop rule of a protocol: from a sign on, or after some reports, the study's part of a conversation ends.

Drafts stop for good in that conversation, a person is asked to go on, and the help-seeker is told. The talk itself goes
on: nobody is sent away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from heedful.errors import ConfigError
from heedful.review import crisis
from heedful.safety.crisis import TIERS, Tier
from heedful.store.records import Thread
from heedful.store.unit import Unit

STOP: Final = "stop-rule"
TASK: Final = "stop_rule"
"""Kind of the task that asks a person to go on."""
COUNTED: Final = frozenset({"wrong", "hurtful", "unsafe"})
"""Kinds of reports that speak of what the service did to somebody, not of a page that did not load."""


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """When the study's part ends.

    Args:
        tier: at this tier of the crisis path, or above.
        reports: after so many reports of the help-seeker; 0 = reports do not count.
        text: what the help-seeker is told, by language.
        minutes: until a person goes on.
    """

    tier: Tier = "immediate"
    reports: int = 3
    text: Callable[[str], str] = field(repr=False)
    minutes: int = 15

    def __post_init__(self) -> None:
        if self.tier not in TIERS[1:] or self.reports < 0:
            raise ConfigError("A stop rule needs a tier (thoughts, immediate) and a number of reports, 0 for none.")


def apply(unit: Unit, thread: Thread, rule: StopRule) -> bool:
    """Stop where the rule says so; whether it did so now. A conversation is stopped once."""
    if thread.state == "closed" or not _met(unit, thread, rule):
        return False
    if not unit.threads.stop_drafts(thread.id, STOP, by=crisis.PROGRAM):
        return False
    crisis.expire_drafts(unit, thread.id, by=crisis.PROGRAM)
    language = unit.users.get(thread.help_seeker).language
    unit.turns.add(thread=thread.id, client_id=f"stop:{thread.id}", role="system", text=rule.text(language))
    if unit.threads.get(thread.id).state == "ai_assisted":  # held or taken over: a person is on the way already
        due = unit.now() + timedelta(minutes=rule.minutes)
        unit.tasks.add(kind=TASK, due_at=due, by=crisis.PROGRAM, thread=thread.id)
    unit.counters.add("stop_rules_met")
    return True


def _met(unit: Unit, thread: Thread, rule: StopRule) -> bool:
    if TIERS.index(crisis.state_of(thread).tier) >= TIERS.index(rule.tier):
        return True
    if not rule.reports:
        return False
    return sum(report.kind in COUNTED for report in unit.reports.of(thread.help_seeker)) >= rule.reports
