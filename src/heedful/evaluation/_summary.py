"""The summary of an evaluation as frozen records: what `summary.json` holds and what the report reads.

A mapping becomes a `Summary` or one sentence that says which entry is wrong. Two things are mended on the way: a number
that is not finite counts as missing (with the reason said), and characters that no web page may hold become U+FFFD.
Entries that are not named here are left out of the page; `summary.json` keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator

from heedful.errors import DataError, nearest
from heedful.pages.page import clean

Number = Annotated[float | None, AfterValidator(lambda v: v if v is not None and math.isfinite(v) else None)]
"""A float, or None where there is none; NaN and the infinities are none."""

LEVEL = 0.05
"""A difference is claimed only where p, if the score has one, is below this."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Corpus(_Record):
    """What the replies were asked for; `targets` counts the places where a reply was due."""

    name: str
    title: str
    split: str | None
    licence: str | None
    conversations: NonNegativeInt
    targets: NonNegativeInt
    hash: str
    note: str | None = None


class ModelId(_Record):
    """Which weights."""

    name: str
    hash: str | None = None


class Scored(_Record):
    """One metric of one system: the value, its 95 % interval, rows scored and not scored, and why."""

    value: Number = None
    low: Number = None
    high: Number = None
    n: NonNegativeInt = 0
    unscored: NonNegativeInt = 0
    reason: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _say_why(cls, entry: Any) -> Any:
        """NaN has no reason of its own in a summary, and a value without one would look forgotten."""
        if isinstance(entry, Mapping) and isinstance(value := entry.get("value"), float) and not math.isfinite(value):
            return {**entry, "reason": entry.get("reason") or "the value is not a finite number"}
        return entry


class System(_Record):
    """Something that wrote replies. `finish` counts how replies ended (`stop`, `length`, ...)."""

    name: str
    kind: Literal["model", "baseline"]
    description: str = ""
    note: str | None = None
    model: ModelId | None = None
    metrics: Mapping[str, Scored]
    finish: Mapping[str, NonNegativeInt] = Field(default_factory=dict)


class MetricInfo(_Record):
    """What a metric is. `higher_is_better` is None where neither end is good."""

    title: str
    definition: str
    signature: str
    higher_is_better: bool | None
    scale: str
    group: str


class Comparison(_Record):
    """Paired comparison over dialogues on one metric: `a` minus `b`, its 95 % bootstrap interval, and p.

    p belongs to the test under which the systems are alike (replies of whole dialogues swapped at random); None where a
    score has no such test, and then the interval alone decides.
    """

    a: str
    b: str
    metric: str
    difference: Number
    low: Number
    high: Number
    p: Number

    @property
    def sign(self) -> int | None:
        """1 or -1 where the interval excludes zero and p is below 0.05; 0 where not both do; None without an interval.

        Redrawn values of a score that is no mean (distinct-n) can lie all on one side of the value itself; an interval
        on the other side of zero than its difference supports no claim and counts as 0.
        """
        if self.difference is None or self.low is None or self.high is None:
            return None
        if self.p is not None and self.p >= LEVEL:
            return 0
        if self.low > 0 and self.difference > 0:
            return 1
        return -1 if self.high < 0 and self.difference < 0 else 0


class Said(_Record):
    """One turn of a context."""

    role: str
    text: str = Field(repr=False)


class Example(_Record):
    """One place of the corpus with what each system wrote there. `rule` and `why` say how it was chosen.

    `risk` holds the risk labels of the whole dialogue: where it is not empty, no draft of a model belongs.
    """

    rule: str
    why: str
    id: str
    risk: tuple[str, ...] = ()
    context: tuple[Said, ...] = Field(repr=False)
    reference: str | None = Field(repr=False)
    replies: Mapping[str, str | None] = Field(repr=False)


class Training(_Record):
    """Loss by step, on the training part and held out, and what the training cost."""

    steps: tuple[int | float, ...]
    loss: tuple[Number, ...]
    eval_steps: tuple[int | float, ...] = ()
    eval_loss: tuple[Number, ...] = ()
    tokens: NonNegativeInt
    seconds: float
    trainable: NonNegativeInt
    parameters: NonNegativeInt
    summary: str


class Summary(_Record):
    """All that a report says."""

    heedful: str
    created: str
    command: str
    title: str
    corpus: Corpus
    format: str | None
    decoding: Mapping[str, Any]
    seed: int | None
    dtype: str | None
    machine: Mapping[str, Any]
    versions: Mapping[str, Any]
    systems: tuple[System, ...] = Field(min_length=1)
    metrics: Mapping[str, MetricInfo]
    comparisons: tuple[Comparison, ...]
    examples: tuple[Example, ...]
    training: Training | None
    limits: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the systems, in order."""
        return tuple(system.name for system in self.systems)


def read(summary: Mapping[str, Any]) -> Summary:
    """The mapping as records.

    Raises:
        DataError: an entry is missing, has the wrong type or names a system or metric that is not there. The sentence
            names the entry, never its content.
    """
    try:
        found = Summary.model_validate(clean(summary))
    except ValidationError as err:
        first, *more = err.errors(include_input=False, include_url=False, include_context=False)
        where = ".".join(map(str, first["loc"])) or "the summary itself"
        others = f" ({len(more)} more entries are wrong.)" if more else ""
        raise DataError(
            f"A report needs the summary of an evaluation, but its entry '{where}' cannot be used: "
            f"{first['msg'][:1].lower()}{first['msg'][1:]}. Write summary.json again.{others}"
        ) from None  # pydantic's own text quotes the input, which may be a client's words
    _check(found)
    return found


def _check(summary: Summary) -> None:
    """Names that point nowhere, and curves whose two halves differ in length."""
    if len(set(summary.names)) < len(summary.names):
        raise DataError(f"A report needs systems with different names, but got {', '.join(summary.names)}; rename one.")
    for system in summary.systems:
        for metric in system.metrics:
            _known("metric", metric, summary.metrics, f"The system '{system.name}'")
    for pair in summary.comparisons:
        _known("metric", pair.metric, summary.metrics, f"The comparison of '{pair.a}' with '{pair.b}'")
        for name in (pair.a, pair.b):
            _known("system", name, dict.fromkeys(summary.names), f"A comparison on '{pair.metric}'")
    if (training := summary.training) is not None:
        for part, x, y in (
            ("loss", training.steps, training.loss),
            ("eval_loss", training.eval_steps, training.eval_loss),
        ):
            if len(x) != len(y):
                raise DataError(
                    f"A training curve needs one step for each loss, but '{part}' has {len(y)} values at {len(x)} "
                    "steps. Write summary.json again."
                )


def _known(kind: str, name: str, table: Mapping[str, object], who: str) -> None:
    if name not in table:
        raise DataError(f"{who} names the {kind} '{name}', which the summary does not list.{nearest(name, table)}")
