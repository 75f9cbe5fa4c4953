"""What a profile asks for before help-seekers may begin: papers on file, and names without protected titles.

A paper that lacks closes the pages on which help-seekers begin something, not the server: staff works on, crisis lines
and one's own record stay open, and so does a conversation that was begun before (docs/decisions/0070-conditions.md).
"""

from __future__ import annotations

from typing import Final

from anyio import to_thread

from heedful.errors import UserError
from heedful.server import titles
from heedful.server.access import Called
from heedful.server.clinic import At, Desk
from heedful.server.house import Paper
from heedful.server.words import refusal

NEEDS: Final = {"impact_assessment": "on", "approval_number": "needed"}
"""Switch -> its value that asks for a paper of the same name in `clinic.toml`."""


class ClosedError(UserError):
    """Help-seekers cannot begin here now."""


def papers(desk: Desk) -> dict[str, tuple[Paper | None, bool]]:
    """Every paper that the profile asks for or that is on file -> it, and whether it is good today."""
    today = desk.now().date()
    found = {name: getattr(desk.house, name) for name in NEEDS}
    asked = {name for name, value in NEEDS.items() if desk.switch(name) == value}
    return {
        name: (paper, paper is not None and paper.good(today))
        for name, paper in found.items()
        if name in asked or paper is not None
    }


def missing(desk: Desk) -> tuple[str, ...]:
    """Papers that the profile asks for and that are not on file, or not good any more."""
    asked = (name for name, value in NEEDS.items() if desk.switch(name) == value)
    found = papers(desk)
    return tuple(name for name in asked if not found[name][1])


async def fulfilled(caller: Called, desk: At) -> None:
    """For the routes on which help-seekers begin something.

    Raises:
        ClosedError: a paper lacks, and this person has no conversation that is open.
    """
    if missing(desk) and not await to_thread.run_sync(_begun, desk, caller.user or ""):
        raise refusal(ClosedError, "refusal.closed")


def _begun(desk: Desk, user: str) -> bool:
    with desk.clinic.store.read() as unit:
        return any(thread.state != "closed" for thread in unit.threads.of(user))


def check_account(desk: Desk, name: str) -> None:
    """Refuse a protected title in the name of an account that is to be made, where the profile asks for that.

    Raises:
        ConfigError: see `heedful.server.titles.check`.
    """
    if desk.on("name_filter"):
        titles.check(name, what="account")


def titled(desk: Desk) -> tuple[str, ...]:
    """Names of accounts that were made before the filter was on, for the page of the admin."""
    if not desk.on("name_filter"):
        return ()
    with desk.clinic.store.read() as unit:
        people = [user for user in unit.users.all() if user.role != "help_seeker" and user.name]
    return tuple(user.name or "" for user in people if titles.found(user.name or ""))
