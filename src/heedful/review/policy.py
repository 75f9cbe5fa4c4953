"""What a clinic and its profile decide, as the review layer needs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from heedful.review import crisis, stopping
from heedful.review.crisis import Lines
from heedful.safety import events
from heedful.store.states import Purpose

Paper = Literal["plan-signature", "note-review"]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the clinic and its profile decide.

    Args:
        drafts: whether a model drafts at all (off in profiles that allow administration only).
        draft_minutes: after so long a draft is stale and expires.
        country: whose crisis lines are shown.
        on_duty: whether somebody could take over now.
        lines: what stands in crisis texts of a language. local: how they name a time.
        response_minutes, look_minutes: see `heedful.safety.events.Setting`.
        consents: purposes that need a yes of their own: `care` before a conversation begins, `recording` before a
            transcript is used for anything else.
        notes: whether a model may draft notes and plans.
        papers: what notes and plans need before they count, see `heedful.review.notes`.
        stop: the stop rule of a protocol; None = none.
    """

    drafts: bool = True
    draft_minutes: int = 60
    country: str = "US"
    on_duty: Callable[[datetime], bool] = field(default=lambda now: True, repr=False)
    lines: Callable[[str], Lines] = field(repr=False)
    local: Callable[[datetime], str] = field(default=crisis.clock_time, repr=False)
    response_minutes: int = 15
    look_minutes: int = 60
    profile: str = "strict"
    consents: frozenset[Purpose] = frozenset()
    notes: bool = False
    papers: frozenset[Paper] = frozenset()
    stop: stopping.StopRule | None = None

    def setting(self, now: datetime) -> events.Setting:
        """What the crisis path is told."""
        on_duty = self.on_duty(now)
        return events.Setting(
            response_minutes=self.response_minutes,
            look_minutes=self.look_minutes,
            on_duty=on_duty,
            nobody_since=None if on_duty else self._nobody_since(now),
            country=self.country,
        )

    def _nobody_since(self, now: datetime) -> datetime:
        """About when the last duty ended: to a quarter of an hour, four days back at most."""
        quarter, n = timedelta(minutes=15), 4 * 24 * 4
        past = (now - k * quarter for k in range(1, n))
        return next((at for at in past if self.on_duty(at)), now - (n - 1) * quarter)
