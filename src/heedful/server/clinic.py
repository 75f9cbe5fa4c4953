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
from typing import Annotated, Any, Final, Literal, cast

from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI, Request

from heedful import profiles
from heedful.profiles import Profile, Value
from heedful.review.believing import Believer
from heedful.review.clinic import Clinic
from heedful.review.drafting import Drafter, Writer
from heedful.review.notes import NoteDrafter
from heedful.review.policy import Policy
from heedful.review.stopping import StopRule
from heedful.safety.crisis import Tier, assess
from heedful.server import house as houses
from heedful.server import readers as beside
from heedful.server import titles, words
from heedful.server.ahead import Ahead
from heedful.server.background import Repeated
from heedful.server.directory import Directory
from heedful.server.engine.base import Engine
from heedful.server.engine.find import format_of
from heedful.server.house import House
from heedful.server.readers import SecondReader
from heedful.server.state import Server
from heedful.server.writer import EngineWriter, NoteWriter, Permitted
from heedful.store import retention

TICK: Final = 5.0
"""Seconds between looks at the clocks of conversations."""
KEEP: Final = 3600.0
"""Seconds between looks for words whose time is over."""
POLL: Final = 1.0
"""Seconds between looks at the queue; a message wakes the worker at once."""
SHOWN_TURNS: Final = 60
"""Turns that the model is shown at most."""
Kind = Literal["drafts", "notes", "belief", "ahead"]
"""Workers that can be woken, by the beginning of their names."""
_MAKING: Final = threading.Lock()


@dataclass(kw_only=True)
class Desk:
    """The clinic of one app, and what its pages need.

    Args:
        workers: the threads: one for the clocks, the others for drafts and notes, one for the second reader.
        keeping: the thread that deletes words whose time is over; None = the profile names no time.
        writer, noter: what is cancelled when the server stops.
        ahead: conversations that the model reads while nobody waits; None = its engine keeps no prompts.
        second: the belief, and whether it runs. engines: processes of readers, which start and stop with the threads.
    """

    clinic: Clinic
    profile: Profile
    house: House
    directory: Directory
    writer: Permitted
    noter: Permitted
    workers: tuple[Repeated, ...] = field(default=(), repr=False)
    keeping: Repeated | None = field(default=None, repr=False)
    ahead: Ahead | None = field(default=None, repr=False)
    second: SecondReader = field(default_factory=SecondReader)
    engines: tuple[Engine, ...] = field(default=(), repr=False)

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
    def ledger(self) -> bool:
        """Whether consents are kept by purpose: by the switch of its own, and wherever a consent is needed."""
        return self.on("consent_ledger") or bool(self.clinic.policy.consents)

    @property
    def on_duty(self) -> bool:
        """Whether somebody could answer now."""
        return self.clinic.policy.on_duty(self.now())

    def start(self) -> None:
        """Load the crisis rules, for which nobody's first message should wait a second, and start the threads."""
        assess("")
        for engine in self.engines:
            engine.start()
        for worker in self._all():
            worker.start()

    def wake(self, first: Kind, *others: Kind) -> None:
        """There is something to do for these workers: of each kind one that waits for work, or all where none does.

        A worker that was not woken looks by itself after `POLL` seconds.
        """
        for kind in (first, *others):
            workers = [worker for worker in self.workers if worker.name.partition("-")[0] == kind]
            idle = [worker for worker in workers if worker.idle]
            for worker in idle[:1] or workers:
                worker.wake()

    def sent(self, thread: str) -> None:
        """A reply was sent: the model may read it before the next message comes."""
        if self.ahead is not None:
            self.ahead.sent(thread)
            self.wake("ahead")

    def stop(self) -> None:
        """Stop the threads; a draft that is being written is given up, its job stays."""
        for worker in self._all():
            worker.stop(timeout=0)
        self.writer.cancel()
        self.noter.cancel()
        for engine in self.engines:
            engine.stop()  # whoever waits for a reading is told; its job stays
        for worker in self._all():
            worker.stop()

    def _all(self) -> tuple[Repeated, ...]:
        return (*self.workers, *([self.keeping] if self.keeping else []))


def profile_of(names: Iterable[str]) -> Profile:
    """The profiles of a configuration, combined.

    Raises:
        NotFoundError, ConfigError: see `heedful.profiles.load`.
    """
    return profiles.combine(*(profiles.load(name) for name in names))


def check_clinic(config: Any) -> None:
    """Read `clinic.toml` and the profiles once, so that a mistake ends the start before anything is made.

    Raises:
        UserError: a profile or `clinic.toml` that cannot be used, or a name that the profile does not allow.
    """
    found, profile = houses.load(config.folder), profile_of(config.profiles)
    if profile.switches["name_filter"] == "on":
        titles.check_installation(config, found)


def policy_of(profile: Profile, house: House, directory: Directory) -> Policy:
    """What the clinic may do under a profile."""
    return Policy(
        drafts=profile.switches["drafts"] in ("approved", "unreviewed"),
        draft_minutes=house.draft_minutes,
        country=directory.country,
        on_duty=house.on_duty,
        lines=directory.fill,
        local=house.local,
        response_minutes=house.response_minutes,
        look_minutes=house.look_minutes,
        profile=profile.name.replace(" ", ""),  # the audit takes names without blanks
        consents=_chosen(profile, {"sensitive_data_consent": "care", "recording_consent": "recording"}),
        notes=profile.switches["drafts"] != "off",
        papers=_chosen(profile, {"plan_signature": "plan-signature", "note_review": "note-review"}),
        stop=stop_rule(house, directory) if profile.switches["stop_rule"] == "on" else None,
    )


def _chosen(profile: Profile, names: dict[str, Any]) -> frozenset[Any]:
    return frozenset(what for switch, what in names.items() if profile.switches[switch] in ("on", "independent"))


def stop_rule(house: House, directory: Directory) -> StopRule:
    """The stop rule of `clinic.toml`."""

    def text(language: str) -> str:
        return words.load(words.known(language) or "en").say("stop.told", line=directory.fill(language).line)

    return StopRule(
        tier=cast(Tier, house.stop_tier), reports=house.stop_reports, text=text, minutes=house.response_minutes
    )


def withheld(profile: Profile) -> frozenset[str]:
    """Reasons that are not even stored under a profile."""
    return frozenset({"emotion"}) if profile.switches["emotion_shown"] == "off" else frozenset()


def make_desk(
    server: Server,
    *,
    writer: Writer | None = None,
    noter: Writer | None = None,
    house: House | None = None,
    clinic: Clinic | None = None,
) -> Desk:
    """The desk of a server.

    Args:
        writer, noter: write drafts of replies, and of notes and plans; None = the server's engine.
        house, clinic: others in tests.

    Raises:
        ConfigError: a profile or `clinic.toml` that cannot be used, or a name that the profile does not allow.
    """
    config = server.config
    found = house or houses.load(config.folder)
    profile = profile_of(config.profiles)
    if profile.switches["name_filter"] == "on":
        titles.check_installation(config, found)
    directory = Directory(server.store, country=server.country)
    second = beside.second_reader(config, profile, found)
    clinic = clinic or Clinic(server.store, policy=policy_of(profile, found, directory), belief=second.believes())
    limit = config.time_limit + config.wait_limit
    read = beside.readers(config, profile) if writer is None else None
    if writer is None:
        fmt = format_of(config.model) if config.engine != "openai" else None
        writer = EngineWriter(server.engine, fmt=fmt, readers=read, timeout=limit)
    evidence: Literal["optional", "required"]
    evidence = "required" if profile.switches["emotion_evidence"] == "required" else "optional"
    wrapped = Permitted(writer, withheld=withheld(profile), evidence=evidence)
    notes = Permitted(noter or NoteWriter(server.engine, timeout=limit), withheld=withheld(profile), evidence=evidence)
    desk = Desk(
        clinic=clinic, profile=profile, house=found, directory=directory, writer=wrapped, noter=notes, second=second,
        engines=tuple(e for e in (second.engine, None if read is None else read.engine) if e is not None),
    )  # fmt: skip
    noting = limit
    if read is not None:
        limit += config.reading_seconds + beside.WAIT
    clocks = Repeated(lambda: _tick(clinic), pause=TICK, name="clocks")
    desk.workers = (
        clocks, *_drafters(desk, config, limit), *_noters(desk, noting), *_believers(desk, config),
        *_readers_ahead(desk, config),
    )  # fmt: skip
    desk.keeping = _keeping(desk)
    return desk


def _believers(desk: Desk, config: Any) -> list[Repeated]:
    if desk.clinic.belief is None:
        return []
    lease = timedelta(seconds=config.belief_seconds + beside.WAIT + 60)
    reader = Believer(desk.clinic, name=f"belief-{uuid.uuid4().hex[:12]}", lease=lease)
    return [Repeated(lambda: reader.once() in ("raised", "heard", "lost"), pause=POLL, name="belief")]


def _readers_ahead(desk: Desk, config: Any) -> list[Repeated]:
    if config.engine != "xllamacpp" or not desk.clinic.policy.drafts:
        return []
    desk.ahead = Ahead(desk.clinic.store, desk.writer.read_ahead, last=SHOWN_TURNS)
    return [Repeated(desk.ahead.once, pause=POLL, name="ahead")]


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


def _keeping(desk: Desk) -> Repeated | None:
    """Help-seekers are told for how many days words are kept; this keeps it true."""
    days = desk.switch("transcript_days")
    assert isinstance(days, int)
    if not days:
        return None

    def work() -> bool:
        retention.expire(desk.clinic.store, desk.now() - timedelta(days=days))
        return False

    return Repeated(work, pause=KEEP, name="keeping")


def _noters(desk: Desk, limit: float) -> list[Repeated]:
    """One worker for notes: they may wait, replies come first."""
    if not desk.clinic.policy.notes:
        return []
    lease = timedelta(seconds=limit + 60)
    drafter = NoteDrafter(desk.clinic, desk.noter, name=f"notes-{uuid.uuid4().hex[:12]}", lease=lease, last=SHOWN_TURNS)
    return [Repeated(_one_job(drafter), pause=POLL, name="notes")]


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


async def _desk(request: Request) -> Desk:
    found = getattr(request.app.state, "desk", None)
    return cast(Desk, found) if found is not None else await to_thread.run_sync(desk_of, request.app)


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
