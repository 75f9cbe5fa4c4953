"""Known minors: by what staff said at the invitation, or by the year of birth that the person gave; no more is kept.

What is kept is one number: the year from which the account counts as an adult's. By the year alone somebody is 18 for
certain from the year of birth + 19 on; until then the account counts as a minor's. Of an adult no year is kept.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from heedful.errors import DataError
from heedful.store.records import User

ADULT: Final = 0
"""Kept in place of a year where somebody is an adult."""
UNTIL_SAID: Final = 9999
"""A minor of whom nobody gave the year of birth: a minor until staff says otherwise."""
OLDEST: Final = 120


def adult_from(born: int, now: datetime) -> int:
    """What is kept of a year of birth.

    Raises:
        DataError: no year in which somebody who writes here was born.

    >>> now = datetime(2026, 11, 22)
    >>> adult_from(1980, now), adult_from(2012, now), adult_from(2008, now)
    (0, 2031, 2027)
    """
    if not now.year - OLDEST <= born <= now.year:
        raise DataError(f"A year of birth lies between {now.year - OLDEST} and {now.year}.")
    return born + 19 if born + 19 > now.year else ADULT


def is_minor(user: User, now: datetime) -> bool:
    """Whether an account is known to be a minor's now."""
    return user.adult_from is not None and now.year < user.adult_from
