"""What tests of the store share: cheap keys, people, a conversation, and a clock that can be set."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the tests of other parts run without the extra that these belong to
    from heedful.privacy import Keys
    from heedful.store import Store

PHRASE = "correct horse battery staple"
CHEAP = {"memory_kib": 64, "iterations": 1, "lanes": 1}
SECRET = "ZZplantedZZ"
"""A word that must not show up anywhere outside of an opened field."""


class Clock:
    """A clock that only tests move."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def forward(self, **by: float) -> None:
        self.at += timedelta(**by)


def make_keys(folder: Path) -> Keys:
    """A key file that opens quickly."""
    from heedful.privacy import Keys

    return Keys.create(folder / "keys.json", PHRASE, cost=CHEAP)


def open_store(url: str, keys: Keys, clock: Clock | None = None) -> Store:
    """A store with a clock that stands still, or with that of the machine."""
    from heedful.store import Store

    return Store.open(url, keys, clock=clock) if clock else Store.open(url, keys)


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Ids of people and of one conversation between them."""

    anna: str
    clara: str
    carl: str
    admin: str
    thread: str


def cast(store: Store) -> Cast:
    """Anna seeks help; Clara and Carl are clinicians; one conversation of two turns."""
    with store.begin() as unit:
        admin = unit.users.add(role="admin", name="root admin", by="setup")
        anna = unit.users.add(role="help_seeker", name=f"Anna {SECRET}", by=admin.id, language="de")
        clara = unit.users.add(role="clinician", name="Clara", by=admin.id, password_hash="$argon2id$x")
        carl = unit.users.add(role="clinician", name="Carl", by=admin.id)
        thread = unit.threads.open(help_seeker=anna.id, by=anna.id)
        unit.turns.add(thread=thread.id, client_id="a-1", role="user", text=f"I slept badly. {SECRET}", author=anna.id)
        unit.turns.add(
            thread=thread.id, client_id="p-1", role="assistant", text="What kept you awake?", author=clara.id
        )
    return Cast(anna=anna.id, clara=clara.id, carl=carl.id, admin=admin.id, thread=thread.id)


def together(*work: Callable[[], object]) -> list[BaseException | None]:
    """Run all at once, in threads; what each raised."""
    raised: list[BaseException | None] = [None] * len(work)
    start = threading.Barrier(len(work))

    def one(n: int) -> None:
        start.wait()
        try:
            work[n]()
        except BaseException as err:
            raised[n] = err

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return raised
