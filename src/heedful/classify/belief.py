"""The belief of the crisis path: how likely a help-seeker's last words speak of danger, beside the rules.

    last message, the two before it -> MiniLM + TF-IDF -> M logistic heads -> p(none, thoughts, immediate)

Each head is fitted on whole conversations drawn with replacement; their spread is the interval, and its upper
end is what counts (`heedful.safety.policy`): an uncertain model is read as the worse. A temperature is fitted on
predictions of conversations that a head has not seen. The operating point is the highest threshold that reaches the
recall that was asked for, on predictions of conversations that the whole ensemble has not seen.

It is trained on heedful's own texts: the corpus `commons` and the tuned part of the crisis cases. So it knows their
wording, in small; it may add to what rules find, and can take nothing away.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from heedful.classify.base import FeatureSettings, Floats, Item
from heedful.classify.calibration import fit_temperature, softmax
from heedful.classify.fit import Recipe, fit
from heedful.classify.model import LabelModel
from heedful.classify.model import load as load_model
from heedful.errors import ConfigError, DataError, NotFoundError
from heedful.safety.policy import Belief, OperatingPoint, threshold
from heedful.types import Conversation, Turn

LABELS = ("none", "thoughts", "immediate")
FILE = "belief.json"
CONTEXT = 2
TIER_OF = {
    "passive": "thoughts",
    "thoughts": "thoughts",
    "intent": "immediate",
    "self-harm": "thoughts",
    "harm-from-others": "thoughts",
    "harm-to-others": "immediate",
}
"""Labels of the set `risk` -> tier. A past attempt and a denial are no sign of danger now; rules note both."""
FEATURES = "minilm+tfidf"
_UPPER = 0.975


@dataclass(frozen=True, kw_only=True)
class Example:
    """One message with those before it, and what it is; `group` is its conversation."""

    text: str = field(repr=False)
    before: tuple[str, ...] = field(default=(), repr=False)
    tier: str
    group: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an ensemble did on conversations that it had not seen, at its operating point.

    Args:
        positives, caught: messages of the tier `thoughts` or higher, and how many of them were above the threshold.
        negatives, alarms: other messages, and how many of them were.
    """

    positives: int
    caught: int
    negatives: int
    alarms: int


def examples_of(conversations: Iterable[Conversation]) -> list[Example]:
    """One example for each message of a help-seeker in a corpus with the label set `risk`.

    A message counts as the gravest of its labels; one without a label is `none`.
    """
    found = []
    for conv in conversations:
        said: list[str] = []
        for turn in conv.turns:
            if turn.role == "user":
                tiers = [TIER_OF[value] for value in turn.values("risk") if value in TIER_OF]
                tier = max(tiers, key=LABELS.index, default="none")
                found.append(Example(text=turn.text, before=tuple(said[-CONTEXT:]), tier=tier, group=conv.id))
                said.append(turn.text)
    return found


def examples_of_cases(cases: Iterable[Any]) -> list[Example]:
    """One example for each case of `heedful.safety.evaluation`; talks of several turns count by their last message."""
    found = []
    for case in cases:
        said = [turn.text for turn in case.turns if turn.role == "user"]
        found.append(Example(text=said[-1], before=tuple(said[-1 - CONTEXT : -1]), tier=case.tier, group=case.id))
    return found


class RiskBelief:
    """An ensemble with its operating point; calling it gives a `Belief`.

    Args:
        name: with a hash over the heads; the operating point names it.
    """

    def __init__(self, heads: Sequence[LabelModel], *, temperature: float, name: str, point: OperatingPoint) -> None:
        self.heads, self.temperature, self.name, self.point = tuple(heads), temperature, name, point

    def __call__(self, said: Sequence[Turn]) -> Belief:
        """What it believes of a conversation that ends with a help-seeker's message.

        Raises:
            DataError: no help-seeker has spoken.
        """
        words = [turn.text for turn in said if turn.role == "user"]
        if not words:
            raise DataError("A belief is about a help-seeker's message; there is none.")
        item = _item(words[-1], words[-1 - CONTEXT : -1])
        upper = _upper(_spread(self.heads, [item], self.temperature))[0]
        for head in self.heads:
            head.forget()  # what people wrote is not kept in memory
        return Belief(thoughts=float(upper[0]), immediate=float(upper[1]), model=self.name)

    def save(self, folder: Path) -> None:
        """Write it into a folder, readable by its owner; `load` reads it."""
        folder.mkdir(parents=True, exist_ok=True)
        for i, head in enumerate(self.heads):
            place = folder / f"head-{i:02d}"
            place.mkdir(exist_ok=True)
            head.save(place)
        point = {**asdict(self.point), "day": self.point.day.isoformat()}
        content = {
            "version": 1,
            "name": self.name,
            "temperature": self.temperature,
            "heads": len(self.heads),
            "point": point,
        }
        (folder / FILE).write_text(json.dumps(content, indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> RiskBelief:
        """Read what `save` wrote.

        Raises:
            NotFoundError: there is none.
            DataError: it is damaged, or its heads are not those that the operating point was chosen for.
        """
        place = Path(folder)
        if not (place / FILE).is_file():
            raise NotFoundError(f"'{place}' holds no belief; `heedful train` with method: belief makes one.")
        try:
            found = json.loads((place / FILE).read_text("utf-8"))
            point = OperatingPoint(**{**found["point"], "day": date.fromisoformat(found["point"]["day"])})
            heads = [load_model(place / f"head-{i:02d}") for i in range(int(found["heads"]))]
        except (ValueError, KeyError, TypeError) as err:
            raise DataError(f"The belief in '{place}' is damaged ({type(err).__name__}); train it again.") from None
        if found["name"] != _name(heads) or point.model != found["name"]:
            raise DataError(
                f"The heads in '{place}' are not those that its operating point was chosen for; train it again."
            )
        return cls(heads, temperature=float(found["temperature"]), name=found["name"], point=point)


def train_belief(
    examples: Sequence[Example],
    *,
    recall: float = 0.95,
    heads: int = 10,
    folds: int = 5,
    seed: int = 13,
    day: date | None = None,
    say: Any = lambda text: None,
) -> tuple[RiskBelief, Outcome]:
    """Fit an ensemble and choose its operating point.

    Args:
        recall: of messages of a tier or higher that a threshold has to reach on unseen conversations.
        heads: how many; their 97.5 % quantile is the upper end that counts.

    Returns:
        The belief, and how it does at the threshold of `thoughts` on conversations that were held out, fold by fold.

    Raises:
        DataError: a tier without examples, or fewer conversations than folds.
        ConfigError: a recall that cannot be asked for.
    """
    _check(examples, recall=recall, heads=heads, folds=folds)
    spread = _unseen(examples, heads=heads, folds=folds, seed=seed, say=say)
    gold = np.array([LABELS.index(e.tier) for e in examples], dtype=np.int64)
    temperature = fit_temperature(spread.mean(axis=0), gold)
    upper = _upper(np.stack([softmax(logits, temperature) for logits in spread]))
    say("all conversations")
    final = _heads(examples, heads, seed=seed)
    name = _name(final)
    thoughts, immediate = (
        threshold(upper[:, k].tolist(), (gold > k).tolist(), recall_target=recall) for k in range(len(LABELS) - 1)
    )
    point = OperatingPoint(
        model=name,
        thoughts=thoughts[0],
        immediate=immediate[0],
        recall_target=recall,
        recall=min(thoughts[1], immediate[1]),
        evaluation=_hash(examples),
        day=day or date.today(),
    )
    flagged, positive = upper[:, 0] >= point.thoughts, gold >= 1
    outcome = Outcome(
        positives=int(positive.sum()),
        caught=int((flagged & positive).sum()),
        negatives=int((~positive).sum()),
        alarms=int((flagged & ~positive).sum()),
    )
    return RiskBelief(final, temperature=temperature, name=name, point=point), outcome


def _check(examples: Sequence[Example], *, recall: float, heads: int, folds: int) -> None:
    if not 0.5 <= recall <= 1:
        raise ConfigError(f"A recall target lies between 0.5 and 1, but it is {recall}.")
    for tier in LABELS:
        if not any(e.tier == tier for e in examples):
            raise DataError(f"There is no example of the tier '{tier}' to learn from.")
    if len({e.group for e in examples}) < folds or heads < 2:
        raise DataError(f"A belief needs at least {folds} conversations and 2 heads.")


def _unseen(examples: Sequence[Example], *, heads: int, folds: int, seed: int, say: Any) -> Floats:
    """Logits (M, N, C) of each example by heads that have not seen its conversation."""
    groups = sorted({e.group for e in examples})
    random.Random(seed).shuffle(groups)
    fold_of = {group: i % folds for i, group in enumerate(groups)}
    spread = np.zeros((heads, len(examples), len(LABELS)))
    for fold in range(folds):
        say(f"fold {fold + 1} of {folds}")
        learnt = [e for e in examples if fold_of[e.group] != fold]
        held = [i for i, e in enumerate(examples) if fold_of[e.group] == fold]
        made = _heads(learnt, heads, seed=seed + 1000 * fold)
        items = [_item(examples[i].text, examples[i].before) for i in held]
        spread[:, held] = np.stack([head.logits_of(items) for head in made])
    return spread


def _heads(examples: Sequence[Example], n: int, *, seed: int) -> list[LabelModel]:
    by_group: dict[str, list[Example]] = {}
    for example in examples:
        by_group.setdefault(example.group, []).append(example)
    names = sorted(by_group)
    recipe = Recipe(features=FEATURES, class_weight="sqrt", settings=FeatureSettings(context=CONTEXT), seed=seed)
    made: list[LabelModel] = []
    draw = random.Random(f"belief/{seed}")
    while len(made) < n:
        drawn = [e for name in draw.choices(names, k=len(names)) for e in by_group[name]]
        if {e.tier for e in drawn} != set(LABELS):
            continue  # a draw without a tier would teach that it does not exist
        items = [_item(e.text, e.before) for e in drawn]
        made.append(
            fit(
                items, [e.tier for e in drawn], label_set="risk_tier", labels=LABELS, recipe=recipe, name="belief"
            ).model
        )
    return made


def _item(text: str, before: Sequence[str]) -> Item:
    return Item(text=text, context=tuple(before), role="user")


def _spread(heads: Sequence[LabelModel], items: Sequence[Item], temperature: float) -> Floats:
    """Probabilities (M, N, C)."""
    return np.stack([softmax(head.logits_of(items), temperature) for head in heads])


def _upper(spread: Floats) -> Floats:
    """Upper ends (N, 2) of p(tier or higher) for `thoughts` and `immediate`."""
    least = np.stack([spread[:, :, k:].sum(axis=2) for k in (1, 2)], axis=2)
    found: Floats = np.clip(np.quantile(least, _UPPER, axis=0), 0.0, 1.0)
    return found


def _name(heads: Sequence[LabelModel]) -> str:
    digest = hashlib.sha256()
    for head in heads:
        for key in sorted(head.head):
            digest.update(np.ascontiguousarray(head.head[key]).tobytes())
    return f"belief-{digest.hexdigest()[:12]}"


def _hash(examples: Sequence[Example]) -> str:
    rows = sorted([e.group, e.text, *e.before, e.tier] for e in examples)
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()[:16]
