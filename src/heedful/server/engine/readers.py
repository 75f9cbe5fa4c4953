"""Back ends that read and write nothing: a second reader of messages (`belief`), and what else stands beside a draft
(`readers`: emotions, the strategy that usually follows, knowledge).

They run in a worker process like the model, so that a slow or broken one holds up nobody. What they find goes back as
`why`; no word is emitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from heedful import classify
from heedful.agents.base import Planner
from heedful.agents.support import CasesPlanner, SupportPlanner
from heedful.classify.belief import RiskBelief
from heedful.classify.evidence import read
from heedful.classify.model import LabelModel
from heedful.errors import ConfigError, EngineError
from heedful.knowledge.index import Index
from heedful.server.engine.worker import Job, Written
from heedful.types import Conversation, Turn

READ_TURNS: Final = 8
"""So many of the help-seeker's last messages are read for emotions."""
SHOWN: Final = 6
"""So many labels are kept: those that are strongest anywhere."""
ITEMS: Final = 2
"""So many items of knowledge are looked up."""
FLOOR: Final = 0.25
"""Least cosine of message and item."""


class BeliefBackend:
    """How likely a help-seeker's last words speak of danger. Options: `model`, a folder of `heedful train
    method=belief`.

    Raises:
        UserError: it cannot be opened.
    """

    streams = 1

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._belief = RiskBelief.load(options["model"])
        self.name = self.version = self._belief.name

    def write(self, job: Job, emit: Callable[[str], None], cancelled: Callable[[], bool]) -> Written:
        """See `Backend`."""
        found = self._belief(_conversation(job).turns)
        why = {"thoughts": found.thoughts, "immediate": found.immediate, "model": found.model}
        return Written(finish="stop", why=why)


class ReadersBackend:
    """What stands beside a draft. Options, each may be missing: `emotion`, `strategy` (folders of scorers),
    `knowledge` (an index).

    Raises:
        UserError: one of them cannot be opened.
    """

    name, streams = "readers", 1

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._emotion = emotion_scorer(options["emotion"]) if options.get("emotion") else None
        self._strategy = strategy_scorer(options["strategy"]) if options.get("strategy") else None
        self._knowledge = planner_of(options["knowledge"]) if options.get("knowledge") else None

    def write(self, job: Job, emit: Callable[[str], None], cancelled: Callable[[], bool]) -> Written:
        """See `Backend`."""
        conversation, why = _conversation(job), dict[str, Any]()
        if self._knowledge is not None:
            why["sources"] = [dict(s) for s in self._knowledge.plan([conversation])[0].sources()]
        if self._strategy is not None:
            why["strategy"] = follows(self._strategy, conversation)
        if self._emotion is not None and not cancelled():
            why["emotion"] = course(self._emotion, conversation.turns)
        return Written(finish="stop", why=why)


def _conversation(job: Job) -> Conversation:
    if job.conversation is None:
        raise EngineError("This reader needs a conversation.", code="refused")
    return Conversation.from_dict(job.conversation)


# ---------------------------------------------------------------------- opening, with one sentence where it fails


def emotion_scorer(folder: str | Path) -> LabelModel:
    """A scorer of a help-seeker's emotions.

    Raises:
        UserError: no scorer, or one of something else.
    """
    model = classify.load(folder)
    roles = model.record.get("roles") or ("user",)
    if not model.label_set.endswith("emotion") or model.predicts_next or "user" not in roles:
        raise ConfigError(
            f"emotion= needs a scorer of emotions in a help-seeker's messages, but '{folder}' is one of "
            f"'{model.label_set}' for {', '.join(map(str, roles))}; train one: heedful train method=scorer "
            "label_set=mesc_emotion."
        )
    return model


def strategy_scorer(folder: str | Path) -> LabelModel:
    """A scorer of the strategy that follows.

    Raises:
        UserError: no scorer, or one of something else.
    """
    model = classify.load(folder)
    if not model.label_set.endswith("strategy") or not model.predicts_next:
        raise ConfigError(
            f"strategy= needs a scorer of the strategy that comes next, but '{folder}' is one of '{model.label_set}'"
            f"{'' if model.predicts_next else ' that judges replies'}; train one: heedful train method=scorer "
            "label_set=esconv_strategy target=next roles=[assistant] features=state."
        )
    return model


def planner_of(index: str | Path) -> Planner:
    """Whatever looks things up in an index.

    Raises:
        UserError: no index, a damaged one, or one that holds nothing to show to a clinician.
    """
    opened = Index.open(index)
    if "case" in opened.kinds:
        method = "embedding" if opened.manifest["encoder"] else "bm25"
        return CasesPlanner(index=str(index), k=ITEMS, method=method, floor=FLOOR if method == "embedding" else None)
    if "stressor" in opened.kinds:
        return SupportPlanner(index=str(index), k=ITEMS, floor=FLOOR)
    raise ConfigError(
        f"knowledge= needs an index of cases or a support graph, but '{index}' holds {', '.join(opened.kinds)}; make "
        "one: heedful knowledge build cases.jsonl."
    )


# ---------------------------------------------------------------------- reading


def course(model: LabelModel, turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The emotions of a help-seeker's last messages, oldest first, as `heedful.server.reasons` reads them."""
    found = []
    theirs = [at for at, turn in enumerate(turns) if turn.role == "user" and turn.text.strip()][-READ_TURNS:]
    for at in theirs:
        before = tuple(t.text for t in turns[max(0, at - model.settings.context) : at])
        item = classify.Item(
            text=turns[at].text, context=before, role="user" if model.settings.speaker else "assistant"
        )
        found.append((int(turns[at].extra.get("sequence", at + 1)), read(model, item)))
    model.forget()  # what people wrote is not kept in memory
    highest = {k: max(float(r.probabilities[k]) for _, r in found) for k in range(len(model.labels))} if found else {}
    shown = sorted(highest, key=lambda k: (-highest[k], k))[:SHOWN]
    marks = []
    for turn, reading in found:
        order = sorted(shown, key=lambda k, r=reading: (-r.probabilities[k], k))  # type: ignore[misc]
        values = {model.labels[k]: round(float(reading.probabilities[k]), 3) for k in order}
        marks.append({"turn": turn, "values": values, "about": reading.label, "evidence": reading.evidence})
    return marks


def follows(model: LabelModel, conversation: Conversation) -> dict[str, Any]:
    """The strategy that usually follows such a conversation, with the probability of each."""
    row = model.next_probabilities([conversation])[0]
    model.forget()
    distribution = {label: round(float(p), 4) for label, p in zip(model.labels, row, strict=True)}
    return {
        "name": max(distribution, key=lambda label: distribution[label]),
        "set": model.label_set,
        "distribution": distribution,
        "by": f"{model.name}@{model.fingerprint}",
    }
