"""How routes reach the clinic: one desk per app, with the threads that write drafts and watch the clocks.

A route takes a parameter of the type `At`. The desk is made at the first use, or by whoever starts the server; its
threads start and stop with the app (`router`, whose life is that of the app).
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, cast

from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI, Request

from heedful import profiles
from heedful.profiles import Profile, Value
from heedful.review.clinic import Clinic, Policy
from heedful.review.drafting import Drafter, Writer
from heedful.safety.crisis import assess
from heedful.server import house as houses
from heedful.server.background import Repeated
from heedful.server.directory import Directory
from heedful.server.house import House
from heedful.server.state import Server
from heedful.server.writer import EngineWriter, Permitted

TICK: Final = 5.0
"""Seconds between looks at the clocks of conversations."""
POLL: Final = 1.0
"""Seconds between looks at the queue; a message wakes the worker at once."""
SHOWN_TURNS: Final = 60
"""Turns that the model is shown at most."""
_MAKING: Final = threading.Lock()


@dataclass(kw_only=True)
class Desk:
    """The clinic of one app, and what its pages need.

    Args:
        workers: the threads: one for the clocks, the others for drafts.
        writer: what is cancelled when the server stops.
    """

    clinic: Clinic
    profile: Profile
    house: House
    directory: Directory
    writer: Permitted
    workers: tuple[Repeated, ...] = field(default=(), repr=False)

    def now(self) -> datetime:
        """The time of the store's clock."""
        return self.clinic.store.clock()

    def switch(self, name: str) -> Value:
        """A switch of the profile."""
        return self.profile.switches[name]

    def on(self, name: str) -> bool:
        """Whether a switch says `on`."""
        return self.profile.switches[name] == "on"

    @property
    def on_duty(self) -> bool:
        """Whether somebody could answer now."""
        return self.clinic.policy.on_duty(self.now())

    def start(self) -> None:
        """Load the crisis rules, for which nobody's first message should wait a second, and start the threads."""
        assess("")
        for worker in self.workers:
            worker.start()

    def wake(self) -> None:
        """A message came."""
        for worker in self.workers[1:]:
            worker.wake()

    def stop(self) -> None:
        """Stop the threads; a draft that is being written is given up, its job stays."""
        for worker in self.workers:
            worker.stop(timeout=0)
        self.writer.cancel()
        for worker in self.workers:
            worker.stop()


def profile_of(names: Iterable[str]) -> Profile:
    """The profiles of a configuration, combined.

    Raises:
        NotFoundError, ConfigError: see `heedful.profiles.load`.
    """
    return profiles.combine(*(profiles.load(name) for name in names))


def policy_of(profile: Profile, house: House, directory: Directory) -> Policy:
    """What the clinic may do under a profile."""
    return Policy(
        drafts=profile.switches["drafts"] in ("approved", "unreviewed"),
        draft_minutes=house.draft_minutes,
        country=directory.country,
        on_duty=house.on_duty,
        lines=directory.fill,
        response_minutes=house.response_minutes,
        look_minutes=house.look_minutes,
        profile=profile.name.replace(" ", ""),  # the audit takes names without blanks
    )


def withheld(profile: Profile) -> frozenset[str]:
    """Reasons that are not even stored under a profile."""
    return frozenset({"emotion"}) if profile.switches["emotion_shown"] == "off" else frozenset()


def make_desk(
    server: Server, *, writer: Writer | None = None, house: House | None = None, clinic: Clinic | None = None
) -> Desk:
    """The desk of a server.

    Args:
        writer: writes drafts; None = the server's engine.
        house, clinic: others in tests.

    Raises:
        ConfigError: a profile or `clinic.toml` that cannot be used.
    """
    config = server.config
    found = house or houses.load(config.folder)
    profile = profile_of(config.profiles)
    directory = Directory(server.store, country=config.country)
    clinic = clinic or Clinic(server.store, policy=policy_of(profile, found, directory))
    limit = config.time_limit + config.wait_limit
    wrapped = Permitted(writer or EngineWriter(server.engine, timeout=limit), withheld=withheld(profile))
    desk = Desk(clinic=clinic, profile=profile, house=found, directory=directory, writer=wrapped)
    desk.workers = (Repeated(lambda: _tick(clinic), pause=TICK, name="clocks"), *_drafters(desk, config, limit))
    return desk


def _tick(clinic: Clinic) -> bool:
    clinic.tick()
    return False


def _drafters(desk: Desk, config: Any, limit: float) -> list[Repeated]:
    if not desk.clinic.policy.drafts:
        return []
    lease = timedelta(seconds=limit + 60)
    out, own = [], uuid.uuid4().hex[:12]  # a process number is not its own: in two containers both are 1
    for n in range(config.streams):
        drafter = Drafter(desk.clinic, desk.writer, name=f"drafts-{own}-{n}", lease=lease, last=SHOWN_TURNS)
        out.append(Repeated(_one_job(drafter), pause=POLL, name=f"drafts-{n}"))
    return out


def _one_job(drafter: Drafter) -> Any:
    # A job that failed is queued again at once; the pause keeps a model that is down from being asked without end.
    return lambda: drafter.once() in ("drafted", "dropped", "lost")


def desk_of(app: FastAPI) -> Desk:
    """The desk of an app; made at the first use."""
    found = getattr(app.state, "desk", None)
    if found is None:
        with _MAKING:
            found = getattr(app.state, "desk", None)
            if found is None:
                found = app.state.desk = make_desk(app.state.server)
    return cast(Desk, found)


def _desk(request: Request) -> Desk:
    return desk_of(request.app)


At = Annotated[Desk, Depends(_desk)]
"""A parameter of this type is the clinic's desk."""


@asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[None]:
    desk = await to_thread.run_sync(desk_of, app)
    desk.start()
    try:
        yield
    finally:
        await to_thread.run_sync(desk.stop)


router = APIRouter(lifespan=_life)
"""No routes: it gives the threads the life of the app."""
