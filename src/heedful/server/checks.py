"""Who compared a profile with the text of its law, and when: entered by a clinic, kept in the store, never changed.

A check counts for the file it was made of, by its hash: another version has to be checked again.
"""

from __future__ import annotations

from datetime import date
from typing import Final

from heedful.errors import ConfigError, unknown
from heedful.profiles import Profile
from heedful.server.words import refusal
from heedful.store import Store

LONGEST: Final = 120


def applied(store: Store, profile: Profile) -> Profile:
    """A profile with the newest check of each source: that of the store, or that of its own file."""
    with store.read() as unit:
        found = unit.profile_checks.all()
    for source in profile.sources:
        mine = [check for check in found if (check.profile, check.hash) == (source.name, source.hash)]
        if not mine:
            continue
        last = mine[-1]
        day = date.fromisoformat(last.checked)
        if source.checked is None or not source.checker or source.checked <= day:
            profile = profile.with_check(source.name, checked=day, checker=last.checker)
    return profile


def enter(store: Store, profile: Profile, name: str, *, checker: str, checked: str, by: str) -> None:
    """Write down a check of one source of `profile`.

    Args:
        name: of the source. checker: who compared it. checked: the day, as 2026-11-22. by: who enters it.

    Raises:
        NotFoundError: no such source.
        ConfigError: no name, or no day, or one that lies in the future.
    """
    source = next((source for source in profile.sources if source.name == name), None)
    if source is None:
        raise unknown("profile", name, [source.name for source in profile.sources])
    plain = " ".join(checker.split())
    if not 1 <= len(plain) <= LONGEST:
        raise refusal(ConfigError, "refusal.checker", most=LONGEST)
    try:
        day = date.fromisoformat(checked.strip())
    except ValueError:
        raise refusal(ConfigError, "refusal.check_day") from None
    if day > store.clock().date():
        raise refusal(ConfigError, "refusal.check_day")
    version, hash = source.version, source.hash
    store.run(
        lambda unit: unit.profile_checks.add(
            profile=name, version=version, hash=hash, checker=plain, checked=day, by=by
        )
    )
