"""What reads beside the model that writes: emotions, the usual strategy, knowledge, and the second reader of the crisis
path. Each is named in the configuration or does not run; each runs in a process of its own.

    heedful serve belief=runs/belief emotion=runs/emotion strategy=runs/next knowledge=cases
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from heedful.agents import Planners, needed
from heedful.agents.plan import settle_talk_plan
from heedful.classify.belief import RiskBelief
from heedful.errors import ConfigError
from heedful.formats import make
from heedful.profiles import Profile
from heedful.safety.policy import Belief, OperatingPoint
from heedful.server.config import ServeConfig
from heedful.server.engine.base import Engine, Request
from heedful.server.engine.find import format_of
from heedful.server.engine.host import Limits, WorkerEngine
from heedful.server.engine.readers import emotion_scorer, planner_of, strategy_scorer
from heedful.server.house import House
from heedful.types import Conversation, Turn

WAIT: Final = 120.0
"""Seconds that a reading may wait for its process: it loads a sentence encoder when it starts."""
_NO_WORDS: Final = "reading"

Standing = Literal["none", "counsel", "runs"]
"""No belief is named; the profile asks for counsel's word, which `clinic.toml` lacks; it runs."""


@dataclass(frozen=True, kw_only=True)
class SecondReader:
    """The belief of this server, for the clinic and for the admin's page.

    Args:
        engine: its process, where it runs.
        limit: seconds that one message may take.
    """

    standing: Standing = "none"
    name: str = ""
    point: OperatingPoint | None = None
    engine: Engine | None = field(default=None, repr=False)
    limit: float = 20.0

    def believes(self) -> ReadBelief | None:
        """What the clinic asks; None where it does not run."""
        if self.engine is None or self.point is None:
            return None
        return ReadBelief(self.engine, point=self.point, limit=self.limit)


class ReadBelief:
    """A belief whose model runs in another process. See `heedful.review.clinic.Believes`."""

    def __init__(self, engine: Engine, *, point: OperatingPoint, limit: float) -> None:
        self.engine, self.point, self.limit = engine, point, limit

    def __call__(self, said: Sequence[Turn]) -> Belief:
        """What it believes of the last message.

        Raises:
            EngineError: its process is gone, or took too long.
        """
        talk = Conversation(id="belief", turns=tuple(said), source="clinic")
        request = Request(conversation=talk, caller=_NO_WORDS, time_limit=self.limit, wait_limit=WAIT)
        why = self.engine.run(request, timeout=self.limit + WAIT).why
        return Belief(thoughts=float(why["thoughts"]), immediate=float(why["immediate"]), model=str(why["model"]))


class Readers:
    """Asks the readers about a conversation.

    Args:
        named: what they were started for: `emotion`, `strategy`, `knowledge`.
        limit: seconds for all of them together.
    """

    def __init__(self, engine: Engine, *, named: frozenset[str], limit: float) -> None:
        self.engine, self.named, self.limit = engine, named, limit

    def read(self, conversation: Conversation) -> Mapping[str, Any]:
        """`emotion`, `strategy` and `sources`, as far as they are named.

        Raises:
            EngineError: their process is gone, or took too long.
        """
        request = Request(conversation=conversation, caller=_NO_WORDS, time_limit=self.limit, wait_limit=WAIT)
        return self.engine.run(request, timeout=self.limit + WAIT).why


def second_reader(config: ServeConfig, profile: Profile, house: House) -> SecondReader:
    """The belief that a configuration names, not started yet.

    Raises:
        UserError: there is none in the folder, or it is damaged.
    """
    if config.belief is None:
        return SecondReader()
    found = RiskBelief.load(config.belief)
    if profile.switches["risk_belief"] == "counsel" and house.risk_belief is None:
        return SecondReader(standing="counsel", name=found.name, point=found.point)
    engine = _engine("belief", {"model": config.belief}, limit=config.belief_seconds)
    return SecondReader(standing="runs", name=found.name, point=found.point, engine=engine, limit=config.belief_seconds)


def readers(config: ServeConfig, profile: Profile) -> Readers | None:
    """The readers that a configuration names and the profile allows, not started yet."""
    options = {name: getattr(config, name) for name in ("emotion", "strategy", "knowledge")}
    if profile.switches["emotion_shown"] == "off":
        options["emotion"] = None  # nothing is inferred that may not be shown
    options = {name: value for name, value in options.items() if value is not None}
    if not options:
        return None
    engine = _engine("readers", options, limit=config.reading_seconds)
    return Readers(engine, named=frozenset(options), limit=config.reading_seconds)


def check(config: ServeConfig) -> None:
    """Open everything that is named once, so that a wrong folder ends the start with one sentence.

    Raises:
        UserError: a folder that is not what its option wants, or knowledge that the model could not be told.
    """
    runs = config.engine != "openai"
    fmt = (format_of(config.model) if runs else None) or make("chat")
    if config.plan is not None and not runs:
        raise ConfigError("plan= is for a run folder with strategies; the model behind engine=openai chooses none.")
    if config.plan is not None:
        settle_talk_plan(config.plan, fmt, model=config.model)
    if config.belief is not None:
        RiskBelief.load(config.belief)
    if config.emotion is not None:
        emotion_scorer(config.emotion)
    if config.strategy is not None:
        strategy_scorer(config.strategy)
    if config.knowledge is not None:
        planner = planner_of(config.knowledge)
        if fmt.name != "chat":  # a chat is told in the words of prompts/knowledge.txt
            needed(Planners((planner,)), fmt)


def _engine(backend: str, options: Mapping[str, Any], *, limit: float) -> WorkerEngine:
    limits = Limits(queue_length=256, time_limit=limit, wait_limit=WAIT, grace=5.0)
    return WorkerEngine(backend, options, model=backend, limits=limits)
