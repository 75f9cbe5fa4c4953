"""What a report says in words, derived from its numbers by rule.

The rule for claims: "better", "fell" and "rose" are said only where the 95 % interval of the paired difference
excludes zero and the swap test, where a score has one, gives p < 0.05; everywhere else the page says that chance can
explain what is seen, or that nothing was computed. A new metric gets its place on the page by a line in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from heedful.evaluation._summary import LEVEL, Comparison, MetricInfo, Scored, Summary
from heedful.pages.numbers import Figure, Parts, digits, estimate, said

Status = Literal["better", "worse", "apart", "chance", "unknown"]
"""How `a` stands to `b`; `apart`: they differ beyond chance on a score without a better end."""

GROUPS: dict[str, tuple[str, str]] = {
    "reward": ("Training reward", "What training was told to raise; high values are no evidence of good replies."),
    "heldout": ("Held-out scorers", "They judge the same replies, and training never saw them."),
    "overlap": (
        "Words shared with the reply in the corpus",
        "A good reply may use other words, so low values are normal.",
    ),
    "similarity": (
        "Closeness in meaning to the reply in the corpus",
        "Another language model judges closeness; it can be wrong about tone.",
    ),
    "likelihood": (
        "How expected the reply in the corpus is",
        "How well a model foresees the supporter’s words in the corpus. No reply is written for this.",
    ),
    "diversity": ("How varied the replies are", "A system that always says the same scores low."),
    "form": ("Length, copying, repetition", "What the replies look like, good or bad."),
    "other": ("Other scores", "What each of them counts stands under the definitions."),
}
"""Group -> heading and one sentence; the order is that of the page."""

FAMILIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "overlap": (
        ("sacrebleu", "bleu2", "bleu4", "bleu1", "bleu3", "sentence_bleu"),
        ("rougeL", "rougeL_published", "rouge1", "rouge2"),
        ("meteor", "meteor_exact_stem"),
        ("f1",),
    ),
    "similarity": (
        ("bertscore", "bertscore_bf16", "bertscore_precision", "bertscore_recall"),
        ("similarity", "embedding_average", "embedding_greedy", "embedding_extrema"),
    ),
    "likelihood": (("ppl_token", "ppl_word", "ppl_byte", "bits_per_character"), ("ppl_plan",)),
    "diversity": (
        ("distinct2", "distinct2_published", "distinct2_per1000", "distinct1",
         "distinct1_published", "distinct1_per1000"),
    ),
    "form": (("length",), ("reference_length",), ("copy_rate",), ("repetition",), ("proactivity",)),
}  # fmt: skip
"""Group -> families of metrics; a metric that no family names stands under "Other scores", as its own family.

Members of a family see nearly the same thing. All stand in the tables; in "x of y scores" the first that was compared
counts for its family, so variants of one score cannot make a result look broader than it is.
"""

SYSTEMS: dict[str, tuple[str, str | None]] = {
    "trained": ("the model after training", None),
    "base": ("the model before training", None),
    "model": ("the model", None),
    "fixed_reply": ("one fixed sentence", "The same kind sentence everywhere."),
    "copy_last_turn": (
        "the client’s words said back",
        "The help-seeker’s last turn, said back; no reply where the help-seeker has not spoken yet.",
    ),
    "nearest_reply": (
        "nearest reply of the training part",
        "The reply that followed the most similar help-seeker’s turn of the training part.",
    ),
    "random_reply": ("random reply of the training part", "A reply drawn from the training part."),
}
"""Technical name -> plain name, and a plain description (None: the one of the summary is used)."""

_PHRASES: dict[str, tuple[str, str]] = {
    "overlap": (
        "shares more words with the replies in the corpus",
        "shares fewer words with the replies in the corpus",
    ),
    "similarity": (
        "is closer in meaning to the replies in the corpus",
        "is less close in meaning to the replies in the corpus",
    ),
    "likelihood": ("foresees the replies in the corpus better", "foresees the replies in the corpus less well"),
    "diversity": ("varies its replies more", "varies its replies less"),
}
"""Group -> what it means in plain words to be better, and to be worse, at its scores."""

_SCALES = {"x100": "out of 100"}

RULES: dict[str, tuple[str, str]] = {
    "random": ("Drawn at random", "A draw with the seed of this run: what a usual reply looks like."),
    "best": ("Highest scores", "Picked because the score is high, so they are not typical."),
    "worst": ("Lowest scores", "Picked because the score is low, so they are not typical."),
}
"""Rule by which examples were chosen -> heading and one sentence."""

_HEADLINE_PAIRS = 3


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One sentence or two of the headline."""

    status: Status
    parts: Parts

    @property
    def text(self) -> str:
        return said(self.parts)


def plain(system: str) -> str:
    """The plain name of a system; one that has none keeps its own."""
    return SYSTEMS[system][0] if system in SYSTEMS else system


def capital(text: str) -> str:
    """`text` as the beginning of a sentence; names of systems that are no plain words stay as they are."""
    known = any(text.startswith(name) for name, _ in SYSTEMS.values())
    return text[:1].upper() + text[1:] if known else text


def scale(unit: str) -> str:
    """What a score counts, in words."""
    return _SCALES.get(unit, unit)


def group_of(metric: str) -> str:
    """The group of a metric by `FAMILIES`, `other` where none names it."""
    return next((group for group, families in FAMILIES.items() if any(metric in f for f in families)), "other")


def family_of(metric: str) -> tuple[str, ...]:
    """The metric and those that see nearly the same as it."""
    return next((f for found in FAMILIES.values() for f in found if metric in f), (metric,))


def counted(metrics: Sequence[str]) -> list[str]:
    """Those that count when scores are counted: the first of each family that is among `metrics`."""
    families = [family for found in FAMILIES.values() for family in found]
    first = {next(name for name in family if name in metrics) for family in families if set(family) & set(metrics)}
    known = {name for family in families for name in family}
    return [name for name in metrics if name in first or name not in known]


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
        return "apart", f"{plain(pair.a)} is {'higher' if pair.sign > 0 else 'lower'}; neither end is better"
    if (pair.sign > 0) == info.higher_is_better:
        return "better", f"{plain(pair.a)} is better"
    return "worse", f"{plain(pair.b)} is better"


def headline(summary: Summary) -> tuple[Claim, ...]:
    """For each of the first three compared pairs: its leading metric, then a count over all families.

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
        both = capital(f"{plain(pair.a)} and {plain(pair.b)}")
        text = f"{both} could not be compared on {info.title}: {plain(lacking)} has no value ({reason})."
        return Claim(status="unknown", parts=(text,))
    places = digits((score.value, score.low, score.high) for score in scores.values())
    left, right = estimate(a.value, a.low, a.high, places), estimate(b.value, b.low, b.high, places)
    gap = estimate(pair.difference, pair.low, pair.high, digits([(pair.difference, pair.low, pair.high)]))
    if status in ("chance", "unknown"):
        parts = (f"{info.title} was ", *left, f" for {plain(pair.a)} and ", *right, f" for {plain(pair.b)}. ")
        return Claim(status=status, parts=(*parts, "The difference is ", *gap, *_doubt(pair)))
    moved = "rose" if pair.difference > 0 else "fell"
    sure = "." if pair.p is not None else " by its interval; this score has no swap test."
    return Claim(
        status=status,
        parts=(
            _meaning(info, pair, status),
            *(f" {info.title} {moved} from ", *right, f" with {plain(pair.b)} to ", *left, f" with {plain(pair.a)}"),
            *(f" ({_end(info)}). The difference, ", *gap, f", is larger than chance would explain{sure}"),
        ),
    )


def _doubt(pair: Comparison) -> Parts:
    """Why a difference supports no claim."""
    if pair.low is None or pair.high is None:
        return (", but without an interval this page cannot say whether chance explains it.",)
    if pair.low <= 0 <= pair.high:
        return (": chance can explain it, because its interval includes zero.",)
    if pair.p is not None and pair.p >= LEVEL:
        p = Figure(value=pair.p, places=3)
        return (": chance can explain it, because alike systems differ as much with probability ", p, " (swap test).")
    return (": chance can explain it, because its interval lies on the other side of zero.",)


def _end(info: MetricInfo) -> str:
    if info.higher_is_better is None:
        return "neither end is better"
    return f"{'higher' if info.higher_is_better else 'lower'} is better"


def _meaning(info: MetricInfo, pair: Comparison, status: Status) -> str:
    """What the change means in words that need no statistics."""
    a, b = capital(plain(pair.a)), plain(pair.b)
    if status == "apart":
        return f"{a} differs from {b}, as one score has it:"
    good, bad = _PHRASES.get(info.group, (f"is better in {info.title}", f"is worse in {info.title}"))
    return f"{a} {good if status == 'better' else bad} than {b}, as one score has it:"


def _count(summary: Summary, compared: Sequence[Comparison]) -> Claim:
    """On how many scores `a` is better, worse or not to be told from `b`; those where it is worse are named.

    Variants of one score count once (`counted`).
    """
    a, b = capital(plain(compared[0].a)), plain(compared[0].b)
    found: dict[Status, list[str]] = {"better": [], "worse": [], "chance": [], "unknown": [], "apart": []}
    with_end = {p.metric: p for p in compared if summary.metrics[p.metric].higher_is_better is not None}
    for name in counted(list(with_end)):
        info = summary.metrics[name]
        found[verdict(with_end[name], info)[0]].append(info.title)
    total = sum(map(len, found.values()))
    if not total:
        return Claim(
            status="unknown",
            parts=(f"No score on which {plain(compared[0].a)} and {b} were compared has a better end.",),
        )
    parts: list[str] = [f"better on {len(found['better'])}", f"worse on {len(found['worse'])}"]
    if found["worse"]:
        parts[-1] += f" ({', '.join(found['worse'])})"
    if found["chance"]:
        parts.append(f"not to be told apart on {len(found['chance'])}")
    if found["unknown"]:
        parts.append(f"without an answer on {len(found['unknown'])} ({', '.join(found['unknown'])})")
    noun = "kind of score" if total == 1 else "kinds of score"
    status: Status = "worse" if found["worse"] else "better" if found["better"] else "chance"
    text = f"{a} against {b}, over {total} {noun} with a better end, beyond chance: {'; '.join(parts)}."
    return Claim(status=status, parts=(text,))
