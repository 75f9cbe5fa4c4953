"""What a report says in words, derived from its numbers by rule.

The rule for claims: "better", "fell" and "rose" are said only where the 95 % interval of the paired difference
excludes zero; everywhere else the page says that chance can explain what is seen, or that nothing was computed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from heedful.evaluation._summary import Comparison, MetricInfo, Scored, Summary

Status = Literal["better", "worse", "apart", "chance", "unknown"]
"""How `a` stands to `b`; `apart`: they differ beyond chance on a score without a better end."""

GROUPS: dict[str, tuple[str, str]] = {
    "likelihood": (
        "How expected the real reply is",
        "How well a model foresees what the supporter truly said. No reply is written for this.",
    ),
    "overlap": (
        "Words shared with the real reply",
        "A good reply may use other words, so low values are normal.",
    ),
    "similarity": (
        "Closeness in meaning to the real reply",
        "Another language model judges closeness; it can be wrong about tone.",
    ),
    "diversity": ("How varied the replies are", "A system that always says the same scores low."),
    "form": ("Length, copying, repetition", "What the replies look like, good or bad."),
}
"""Group -> heading and one sentence; the order is that of the page."""

RULES: dict[str, tuple[str, str]] = {
    "random": ("Drawn at random", "A draw with the seed of this run: what a usual reply looks like."),
    "best": ("Highest scores", "Picked because the score is high, so they are not typical."),
    "worst": ("Lowest scores", "Picked because the score is low, so they are not typical."),
}
"""Rule by which examples were chosen -> heading and one sentence."""

_HEADLINE_PAIRS = 3
_MOST_PLACES = 6


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number inside a sentence, to be shown with `places` digits behind the point."""

    value: float
    places: int


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One sentence or two of the headline."""

    status: Status
    parts: tuple[str | Figure, ...]

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else shown(part.value, part.places) for part in self.parts)


def shown(value: float, places: int = 0) -> str:
    """`value` with thousands marks, `places` digits behind the point and a true minus; never a minus zero."""
    text = f"{value:,.{places}f}"
    if text.startswith("-"):
        text = text[1:] if not text.strip("-0.,") else f"\u2212{text[1:]}"
    return text


def digits(numbers: Iterable[tuple[float | None, float | None, float | None]]) -> int:
    """Digits behind the point for (value, low, high) that stand together: two digits of the usual interval's width.

    Without any interval: two, or three where all values are below one.
    """
    kept = list(numbers)
    widths = sorted(high - low for _, low, high in kept if low is not None and high is not None and high > low)
    if widths:
        places = 1 - math.floor(math.log10(statistics.median_low(widths)))
    else:
        places = 2 if any(value is not None and abs(value) >= 1 for value, *_ in kept) else 3
    return min(_MOST_PLACES, max(1, places))


def visible(places: int, *numbers: float | None) -> int:
    """`places`, or as many more as it takes that no number other than zero reads as zero."""
    while places < _MOST_PLACES and any(number and round(number, places) == 0 for number in numbers):
        places += 1
    return places


def group_order(groups: Iterable[str]) -> list[str]:
    """Groups that occur, known ones first."""
    found = dict.fromkeys(groups)
    return [group for group in GROUPS if group in found] + [group for group in found if group not in GROUPS]


def verdict(pair: Comparison, info: MetricInfo) -> tuple[Status, str]:
    """How `a` stands to `b`, and a short reading of it."""
    if pair.difference is None:
        return "unknown", "not compared: a value is missing"
    if pair.sign is None:
        return "unknown", "no interval, so chance cannot be ruled out"
    if pair.sign == 0:
        return "chance", "can be chance"
    if info.higher_is_better is None:
        return "apart", f"{pair.a} is {'higher' if pair.sign > 0 else 'lower'}; neither end is better"
    if (pair.sign > 0) == info.higher_is_better:
        return "better", f"{pair.a} is better"
    return "worse", f"{pair.b} is better"


def headline(summary: Summary) -> tuple[Claim, ...]:
    """For each of the first three compared pairs: its leading metric, then a count over all metrics.

    The leading metric is the first of the first group (order of `GROUPS`) that was compared and has a better end;
    where no compared metric has one, the first compared metric.
    """
    pairs = list(dict.fromkeys((pair.a, pair.b) for pair in summary.comparisons))
    if not pairs:
        text = "No two systems were compared on the same conversations, so this page does not say that one is better."
        return (Claim(status="unknown", parts=(text,)),)
    claims: list[Claim] = []
    for a, b in pairs[:_HEADLINE_PAIRS]:
        compared = [pair for pair in summary.comparisons if (pair.a, pair.b) == (a, b)]
        claims.append(_leading(summary, _leader(summary, compared)))
        if len(compared) > 1:
            claims.append(_count(summary, compared))
    if (more := len(pairs) - _HEADLINE_PAIRS) > 0:
        rest = f"{more} more {'pair stands' if more == 1 else 'pairs stand'} in the table of differences."
        claims.append(Claim(status="unknown", parts=(rest,)))
    return tuple(claims)


def _leader(summary: Summary, compared: Sequence[Comparison]) -> Comparison:
    order = group_order(info.group for info in summary.metrics.values())
    names = list(summary.metrics)

    def rank(pair: Comparison) -> tuple[bool, int, int]:
        info = summary.metrics[pair.metric]
        return info.higher_is_better is None, order.index(info.group), names.index(pair.metric)

    return min(compared, key=rank)


def _leading(summary: Summary, pair: Comparison) -> Claim:
    """One metric of one pair: both values, the difference, and whether chance explains it."""
    info = summary.metrics[pair.metric]
    scores = {system.name: system.metrics.get(pair.metric, Scored()) for system in summary.systems}
    a, b = scores[pair.a], scores[pair.b]
    status, _ = verdict(pair, info)
    if a.value is None or b.value is None or pair.difference is None:
        lacking = pair.a if a.value is None else pair.b
        reason = scores[lacking].reason or "no reason was recorded"
        text = f"{pair.a} and {pair.b} could not be compared on {info.title}: {lacking} has no value ({reason})."
        return Claim(status="unknown", parts=(text,))
    places = digits((score.value, score.low, score.high) for score in scores.values())
    left, right = _estimate(a.value, a.low, a.high, places), _estimate(b.value, b.low, b.high, places)
    gap = _estimate(pair.difference, pair.low, pair.high, digits([(pair.difference, pair.low, pair.high)]))
    if status in ("chance", "unknown"):
        parts = (f"{info.title} was ", *left, f" for {pair.a} and ", *right, f" for {pair.b}. ")
        if status == "chance":
            crossed = pair.low is not None and pair.high is not None and pair.low <= 0 <= pair.high
            why = "includes zero" if crossed else "lies on the other side of zero"
            end = (f": chance can explain it, because its interval {why}.",)
        else:
            end = (", but without an interval this page cannot say whether chance explains it.",)
        return Claim(status=status, parts=(*parts, "The difference is ", *gap, *end))
    moved = "rose" if pair.difference > 0 else "fell"
    return Claim(
        status=status,
        parts=(
            *(f"{info.title} {moved} from ", *right, f" with {pair.b} to ", *left, f" with {pair.a}. "),
            *("The difference, ", *gap, ", is larger than chance would explain. "),
            _meaning(info, better=pair.a if status == "better" else pair.b),
        ),
    )


def _meaning(info: MetricInfo, *, better: str) -> str:
    if info.higher_is_better is None:
        return "For this score neither end is better."
    return f"{'Higher' if info.higher_is_better else 'Lower'} is better, so {better} is better here."


def _estimate(value: float, low: float | None, high: float | None, places: int) -> tuple[str | Figure, ...]:
    places = visible(places, value, low, high)
    figure = Figure(value=value, places=places)
    if low is None or high is None:
        return (figure,)
    return (figure, " (", Figure(value=low, places=places), " to ", Figure(value=high, places=places), ")")


def _count(summary: Summary, compared: Sequence[Comparison]) -> Claim:
    """On how many scores `a` is better, worse or not to be told from `b`; those where it is worse are named."""
    a, b = compared[0].a, compared[0].b
    found: dict[Status, list[str]] = {"better": [], "worse": [], "chance": [], "unknown": [], "apart": []}
    for pair in compared:
        info = summary.metrics[pair.metric]
        if info.higher_is_better is not None:
            found[verdict(pair, info)[0]].append(info.title)
    total = sum(map(len, found.values()))
    if not total:
        return Claim(status="unknown", parts=(f"No score on which {a} and {b} were compared has a better end.",))
    said = [f"{a} is better than {b} beyond chance on {len(found['better'])}", f"worse on {len(found['worse'])}"]
    if found["worse"]:
        said[-1] += f" ({', '.join(found['worse'])})"
    if found["chance"]:
        said.append(f"not to be told apart on {len(found['chance'])}")
    if found["unknown"]:
        said.append(f"without an answer on {len(found['unknown'])} ({', '.join(found['unknown'])})")
    noun = "score that has" if total == 1 else "scores that have"
    status: Status = "worse" if found["worse"] else "better" if found["better"] else "chance"
    return Claim(status=status, parts=(f"Of the {total} compared {noun} a better end: {'; '.join(said)}.",))
