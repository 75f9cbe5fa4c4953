"""What a study found, in words, derived from its numbers by rule.

"Beats" is said only where the 95 % interval of the paired difference excludes zero and the swap test, where a score has
one, gives p < 0.05 (`_summary.Comparison.sign`). A reward that rose alone is called what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from heedful.evaluation._study_scores import TOTAL
from heedful.evaluation._summary import LEVEL, Comparison, MetricInfo
from heedful.evaluation._words import Claim, Status, capital, counted, family_of, plain, verdict
from heedful.pages.numbers import Figure, Parts, digits, estimate

_STATUSES: tuple[Status, ...] = ("better", "worse", "chance", "apart", "unknown")
FEWEST = 6
"""Conversations: n of them can be swapped in 2^n ways, and the two extreme ones are 2 / 2^n of all, 0.03 for six."""


def findings(summary: Mapping[str, Any]) -> list[Claim]:
    """One claim per comparison and decoding, then one per label set and decoding.

    Args:
        summary: as written to `summary.json` by `heedful eval study`.
    """
    infos = {name: MetricInfo.model_validate(info) for name, info in summary["metrics"].items()}
    claims = []
    for pair in dict.fromkeys((c["a"], c["b"]) for c in summary["comparisons"]):
        for decoding in summary["decodings"]:
            compared = [
                Comparison.model_validate(c)
                for c in summary["comparisons"]
                if (c["a"], c["b"], c["decoding"]) == (*pair, decoding)
            ]
            claims.append(_pair(pair, decoding, {c.metric: c for c in compared}, infos))
    models = {system["name"] for system in summary["systems"] if system["kind"] == "model"}
    for name, found in summary["labels"].items():
        claims += [_labels(name, [r for r in found[d] if r["system"] in models], d) for d in found]
    few = summary["corpus"]["conversations"]
    if summary["comparisons"] and few < FEWEST:
        text = (
            f"The part has only {few} conversation{'' if few == 1 else 's'}, and a test that swaps systems within "
            f"conversations cannot tell anything from chance with fewer than {FEWEST}, whatever an interval says."
        )
        claims.insert(0, Claim(status="unknown", parts=(text,)))
    if not summary["comparisons"]:
        text = "No two systems were compared, so this page does not say that one is better."
        claims.insert(0, Claim(status="unknown", parts=(text,)))
    return claims


def _pair(
    names: tuple[str, str], decoding: str, compared: Mapping[str, Comparison], infos: Mapping[str, MetricInfo]
) -> Claim:
    a, b = (plain(name) for name in names)
    heldout = {name: c for name, c in compared.items() if name.startswith("heldout/")}
    # What was trained on, or counted already as held out, is no other witness under its metric's name.
    named = {f for name in infos if infos[name].group in ("reward", "heldout") for f in family_of(_bare(name))}
    others = {n: c for n, c in compared.items() if infos[n].group not in ("reward", "heldout") and n not in named}
    held = _sorted(heldout, infos)
    parts: list[str | Figure] = [f"{capital(a)} against {b} ({decoding}): "]
    status: Status = "unknown"
    if TOTAL in compared:
        status, words = _reward(compared[TOTAL], infos[TOTAL])
        parts += words
    if heldout:
        parts.append(_tally("held-out scorer", held, infos))
    if TOTAL in compared:
        parts.append(_meaning(status, held))
    kept = counted([n for n in others if infos[n].higher_is_better is not None])
    rest = _sorted({n: others[n] for n in kept}, infos)
    if kept:
        parts.append(_tally("other kind of score" if TOTAL in compared or heldout else "kind of score", rest, infos))
    if TOTAL not in compared:
        seen = held if heldout else rest
        status = "worse" if seen["worse"] else "better" if seen["better"] else "chance"
    elif status == "better" and (held["worse"] or (heldout and not held["better"])):
        status = "worse"  # a gain that no other judge sees is no good news
    return Claim(status=status, parts=tuple(parts))


def _bare(name: str) -> str:
    """What a reward is called, as far as its metric may be called the same."""
    return name.partition("/")[2]


def _sorted(compared: Mapping[str, Comparison], infos: Mapping[str, MetricInfo]) -> dict[Status, list[str]]:
    found: dict[Status, list[str]] = {status: [] for status in _STATUSES}
    for name, pair in compared.items():
        found[verdict(pair, infos[name])[0]].append(name)
    return found


def _reward(pair: Comparison, info: MetricInfo) -> tuple[Status, list[str | Figure]]:
    status, _ = verdict(pair, info)
    if pair.difference is None:
        return status, ["the training reward could not be compared. "]
    places = digits([(pair.difference, pair.low, pair.high)])
    gap: Parts = estimate(pair.difference, pair.low, pair.high, places)
    said = {
        "better": "it beats it on the training reward, by ",
        "worse": "it falls below it on the training reward, by ",
        "chance": "it does not beat it on the training reward beyond chance; the difference is ",
    }
    return status, [said.get(status, "the difference of the training reward is "), *gap, ". "]


def _tally(noun: str, found: Mapping[Status, list[str]], infos: Mapping[str, MetricInfo]) -> str:
    total = sum(map(len, found.values()))
    words: dict[Status, str] = {
        "better": "better",
        "worse": "worse",
        "chance": "not to be told apart",
        "unknown": "without an answer",
    }
    counts = [f"{word} on {len(found[status])}{_named(found[status], infos)}" for status, word in words.items()
              if found[status] or status in ("better", "worse")]  # fmt: skip
    plural = "" if total == 1 else "s"
    noun = noun.replace("kind of score", f"kind{plural} of score") if "kind" in noun else f"{noun}{plural}"
    return f"Of {total} {noun}, beyond chance: {'; '.join(counts)}. "


def _named(names: Sequence[str], infos: Mapping[str, MetricInfo]) -> str:
    return f" ({', '.join(infos[name].title for name in names)})" if names else ""


def _meaning(reward: Status, held: Mapping[Status, list[str]]) -> str:
    """What reward and held-out scorers say together."""
    if reward != "better":
        return ""
    if not any(held.values()):
        return (
            "No held-out scorer was measured, so nobody can tell from this whether the replies got better or only "
            "please the reward. "
        )
    if held["worse"]:
        return "The reward rose while held-out scorers fell: a sign that the model learned to please the reward. "
    if not held["better"]:
        return "The reward rose and no held-out scorer did: the model may have learned only to please the reward. "
    every = len(held["better"]) == sum(map(len, held.values()))
    return f"The gain shows outside the reward as well{'' if every else ', on some scorers'}. "


def _labels(label_set: str, reports: Sequence[Mapping[str, Any]], decoding: str) -> Claim:
    """Accuracy per model and source under one decoding, behind the constant that needs no model."""
    if not reports:
        return Claim(status="unknown", parts=(f"Labels of {label_set} ({decoding}): no model wrote any.",))
    first = reports[0]
    constant = first["constant"]["scores"]["accuracy"]["value"]
    parts: list[str | Figure] = [
        f"Labels of {label_set} ({decoding}): always saying “{first['constant_label']}” is right in ",
        Figure(value=constant, places=2),
        f" % of {first['n']:,} cases; the replies reach: ",
    ]
    beats = [r for r in reports if _above(r["gains"]["accuracy"])]
    for r in reports:
        accuracy = r["predicted"]["scores"]["accuracy"]["value"]
        parts += [f"{plain(r['system'])} ({r['source']}) ", Figure(value=accuracy, places=2), " %"]
        parts.append(", " if r is not reports[-1] else ". ")
    if beats:
        names = ", ".join(f"{plain(r['system'])} ({r['source']})" for r in beats)
        parts.append(f"Beyond chance better than the constant: {names}.")
    else:
        parts.append("None of them is better than the constant beyond chance, so accuracy shows no skill here.")
    return Claim(status="better" if beats else "chance", parts=tuple(parts))


def _above(gain: Mapping[str, Any] | None) -> bool:
    if gain is None or gain["low"] <= 0:
        return False
    p = gain["p_randomisation"]
    return p is None or p < LEVEL
