"""What the page of an RL run says in words: rules over its numbers, never more than they hold.

"Rose", "fell", "better" and "worse" follow the rule of `verdict`. Everything else is told as it was counted. What is
judged are the weights that the run kept; where training went after them is told as a trend.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heedful.pages.numbers import Figure, Parts, digits, estimate, visible
from heedful.training.rl._report_files import RunFiles, Step, Validation
from heedful.training.rl.verdict import Change, Verdict, change, component_changes, listed, verdict

RECENT = 10
"""Steps whose mean stands for "at the end"."""

STOPPED = {
    "done": "All planned steps were taken.",
    "time": "The time was over.",
    "kl": "The policy moved too far from the reference (KL).",
    "repetition": "The replies began to repeat themselves.",
    "heldout": "A held-out score got worse.",
    "nan": "The loss was no longer a number.",
}


ENCODED = {
    "similarity": "minilm", "relevance": "minilm", "bertscore": "minilm", "reader_released": "minilm",
    "reader_paper": "minilm",
}  # fmt: skip
"""Rewards that read replies through a sentence encoder -> the one that they take unless `encoder` names another."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """All comparisons of the first validation with a later one.

    Args:
        row: the later one: of the weights that were kept, or the last one where these are not known, were not
            validated, or are those of the start.
        last: the first validation against the last one; the same as `verdict` where `row` is the last.
    """

    row: Validation
    verdict: Verdict
    components: tuple[Change, ...]
    length: Change | None
    last: Verdict


def judge(run: RunFiles) -> Judgement | None:
    """The first validation against that of the weights that were kept; None with fewer than two validations."""
    if len(run.validations) < 2:
        return None
    start, end = run.validations[0], run.validations[-1]
    chosen = kept(run)
    row = end if chosen is None or chosen is start else chosen
    first, later = start.model_dump(), row.model_dump()
    found = verdict(first, later)
    return Judgement(
        row=row,
        verdict=found,
        components=component_changes(first, later),
        length=change(first, later, ("length",), name="tokens a reply") if start.length and row.length else None,
        last=found if row is end else verdict(first, end.model_dump()),
    )


def kept(run: RunFiles) -> Validation | None:
    """The validation of the weights that the run kept; None while it goes on, or where they were not validated."""
    return next((row for row in run.validations if row.step == run.summary.get("weights_step")), None)


def gaps(run: RunFiles, *, draws: int = 200) -> list[tuple[int, Verdict]]:
    """Step -> verdict of every validation against the first one, for the trend; few draws, as only values are drawn."""
    rows = [row.model_dump() for row in run.validations]
    return [(row["step"], verdict(rows[0], row, draws=draws)) for row in rows[1:]]


def findings(run: RunFiles, judgement: Judgement | None, trend: Sequence[tuple[int, Verdict]]) -> list[Parts]:
    """The sentences of the page's first section, in order."""
    said: list[Parts] = []
    if judgement is None:
        said.append(_without(run))
    else:
        said += _chosen(run, judgement)
        said += [_compared(judgement.verdict), *map(_moved, judgement.verdict.heldout), *_related(run)]
        said += _gap(judgement, trend)
        said += _afterwards(run, judgement)
        said += _past_the_top(run, trend)
        if judgement.length is not None:
            said.append(_length(judgement.length))
        said += _with_length(run.validations[0], judgement.row)
        said += _variety(run.validations[0], judgement.row)
    said += [_stopped(run), *_left_out(run), *_endings(run), *_kl(run), *_mismatch(run)]
    return said


def lead(run: RunFiles, judgement: Judgement | None) -> Parts | None:
    """The one sentence that stands before all others."""
    if judgement is not None and kept(run) is run.validations[0]:
        step = run.validations[0].step
        return (
            f"The weights that were kept are those of step {step}, before any update: nothing that was learnt stayed.",
        )
    return None if judgement is None else judgement.verdict.parts


def recent(steps: Sequence[Step], name: str) -> float | None:
    """The mean of the last ten steps that have the number."""
    values = [value for step in steps[-RECENT:] if (value := step.get(name)) is not None]
    return statistics.fmean(values) if values else None


def components(run: RunFiles) -> list[str]:
    """Names of the reward's components, in the order of the files."""
    suffixes = ("/std", "/length_corr", "/unscored", "/clipped", "/raised")
    found = dict.fromkeys(name for row in run.validations for name in row.train)
    for step in run.steps:
        for key in step.values:
            name = key.removeprefix("reward/")
            # A statistic belongs to a component that is there itself; a component may have a slash in its name.
            statistic = any(name.endswith(s) and f"reward/{name.removesuffix(s)}" in step.values for s in suffixes)
            if name != key and name != "std" and not name.startswith("corr/") and not statistic:
                found.setdefault(name)
    return [name for name in found if not any(name.removesuffix(s) in found for s in suffixes if name.endswith(s))]


def correlation(x: Sequence[float | None], y: Sequence[float | None]) -> float | None:
    """Pearson over pairs that both have; None with fewer than three or without spread."""
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
    if len(pairs) < 3:
        return None
    a, b = np.asarray(pairs, dtype=np.float64).T
    if a.std() < 1e-12 or b.std() < 1e-12:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def matrix(run: RunFiles, names: Sequence[str]) -> list[list[float | None]]:
    """Mean correlation of components over the last ten steps; the diagonal is empty."""

    def between(a: str, b: str) -> float | None:
        found = recent(run.steps, f"reward/corr/{a}/{b}")
        return recent(run.steps, f"reward/corr/{b}/{a}") if found is None else found

    return [[None if a == b else between(a, b) for b in names] for a in names]


def _without(run: RunFiles) -> Parts:
    if not run.steps:
        return ("No step is finished yet.",)
    first, last = run.steps[0].get("reward"), recent(run.steps, "reward")
    why = "There is one validation only" if run.validations else "There is no validation"
    text = f"{why}, so this page cannot say whether the model got better or learnt to please the reward."
    if first is None or last is None:
        return (text,)
    places = visible(digits([(first, None, None), (last, None, None)]), first, last)
    moved = (" In training the reward went from ", Figure(value=first, places=places), " at the first step to ")
    return (text, *moved, Figure(value=last, places=places), " over the last ones; other prompts explain part of that.")


def _chosen(run: RunFiles, found: Judgement) -> list[Parts]:
    """Which weights are judged, where they are not simply those of the last step, and how they were chosen."""
    step, end = run.summary.get("weights_step"), run.validations[-1].step
    if step is None:
        return []
    said: list[Parts] = []
    chosen = kept(run)
    if chosen is None:
        text = f"The weights that were kept are those of step {step}, which was not validated"
        said.append((f"{text}; step {end} stands in their place.",))
    elif chosen is run.validations[0]:
        said.append((f"What follows is about step {end}, whose weights were not kept.",))
    elif chosen is not run.validations[-1]:
        text = f"The weights that were kept are those of step {step}, so it is step {step} that is judged here"
        said.append((f"{text}; training went on to step {end}.",))
    if run.config.get("load_best_model_at_end") is True and chosen is found.row:
        text = f"Step {step} was chosen because its held-out scores were the best on these prompts"
        said.append((f"{text}, so they flatter it; other prompts have to confirm them.",))
    return said


def _afterwards(run: RunFiles, found: Judgement) -> list[Parts]:
    """Where training went after the weights that were kept."""
    if found.row is run.validations[-1]:
        return []
    return [(f"The trend, up to step {found.last.last_step}, whose weights were not kept: ", *found.last.parts)]


def _related(run: RunFiles) -> list[Parts]:
    """Held-out scores that hear with the same ears as the reward."""
    used, held = _encoders(run, "rewards"), _encoders(run, "heldout")
    said: list[Parts] = []
    for encoder in dict.fromkeys(held.values()):
        ours, theirs = ([name for name, e in some.items() if e == encoder] for some in (held, used))
        if theirs:
            scores = f"held-out score{'' if len(ours) == 1 else 's'} {listed(ours)}"
            rewards = f"reward{'' if len(theirs) == 1 else 's'} {listed(theirs)}"
            text = f"The {scores} and the {rewards} read replies through the same encoder ({encoder})"
            said.append((f"{text}, so they are related: a rise of both is weak evidence.",))
    return said


def _encoders(run: RunFiles, key: str) -> dict[str, str]:
    """Label -> encoder, of those that have one; a reward that is only measured teaches nothing and is left out."""
    found = {}
    specs = run.config.get(key)
    for spec in specs if isinstance(specs, list) else ():
        given = spec if isinstance(spec, Mapping) else {"name": spec}
        name, params = str(given.get("name")), given.get("params")
        taught = key == "heldout" or given.get("weight", 1.0) or given.get("gate") is not None
        if name in ENCODED and taught:
            options = params if isinstance(params, Mapping) else {}
            found[str(given.get("label") or name)] = str(options.get("encoder") or ENCODED[name])
    return found


def _compared(found: Verdict) -> Parts:
    t = found.training
    text = f"Step {found.first_step} and step {found.last_step} are compared on the same validation prompts: "
    parts: Parts = (text, Figure(value=t.n, places=0), " replies of ", Figure(value=t.conversations, places=0))
    parts = (*parts, f" conversation{'' if t.conversations == 1 else 's'}")
    if t.unscored:
        parts = (*parts, "; ", Figure(value=t.unscored, places=0), " more have no total at one of the two")
    if t.before is None or t.after is None:
        return (*parts, ".")
    places = _places(t)
    ends = (" The training reward went from ", Figure(value=t.before, places=places), " to ")
    return (*parts, ".", *ends, Figure(value=t.after, places=places), ".")


def _places(found: Change) -> int:
    places = digits([(found.difference, found.low, found.high)])
    return visible(places, found.before, found.after)


def size(found: Change) -> Parts:
    """A difference with its interval."""
    if found.difference is None:
        return ("no value",)
    return estimate(found.difference, found.low, found.high, digits([(found.difference, found.low, found.high)]))


def reading(found: Change, *, end: bool = True) -> str:
    """A change in a few words. `end`: whether one end is better."""
    if found.moved == "unknown":
        return "not compared: no value at both" if not found.n else "no interval: one conversation only"
    if found.moved == "chance":
        return "did not move beyond chance"
    return f"{found.moved}, which is {'better' if found.better else 'worse'}" if end else found.moved


def _moved(found: Change) -> Parts:
    n: Parts = (", n = ", Figure(value=found.n, places=0))
    if found.unscored:
        n = (*n, ", ", Figure(value=found.unscored, places=0), " unscored")
    return (f"Held out: {found.name} {reading(found)}: ", *size(found), *n, ".")


def _gap(judged: Judgement, trend: Sequence[tuple[int, Verdict]]) -> list[Parts]:
    found = judged.verdict
    if found.gap is None or found.heldout_mean is None or found.training.standardised is None:
        return []
    moved: Parts = ("In standard deviations of the first validation the training reward moved by ",)
    moved = (*moved, Figure(value=found.training.standardised, places=2), " and the held-out scores by ")
    moved = (*moved, *estimate(found.heldout_mean.value, found.heldout_mean.low, found.heldout_mean.high, 2))
    word = {1: "the training reward ran ahead", 0: "which can be chance", -1: "the held-out scores ran ahead"}
    what = word.get(found.gap.sign, "without an interval") if found.gap.sign is not None else "without an interval"
    parts: list[Parts] = [
        (*moved, " on average. The gap is ", *estimate(found.gap.value, found.gap.low, found.gap.high, 2), f": {what}.")
    ]
    known = [(step, v.gap.value) for step, v in trend if v.gap is not None]
    if len(known) >= 3 and judged.last.gap is not None and judged.last.gap.sign == 1:
        early, late = known[0], known[-1]
        if late[1] > early[1]:
            text = f"The gap widened: at step {early[0]} it was "
            parts.append(
                (text, Figure(value=early[1], places=2), f", at step {late[0]} ", Figure(value=late[1], places=2), ".")
            )
    return parts


def _past_the_top(run: RunFiles, trend: Sequence[tuple[int, Verdict]]) -> list[Parts]:
    """Whether held-out scores fell after having been higher; first against last would hide that."""
    known = [(step, v.heldout_mean.value) for step, v in trend if v.heldout_mean is not None]
    if len(known) < 2:
        return []
    top, _ = max(known, key=lambda pair: pair[1])
    if top == known[-1][0]:
        return []
    rows = {row.step: row for row in run.validations}
    fall = verdict(rows[top].model_dump(), run.validations[-1].model_dump()).heldout_mean
    if fall is None or fall.sign != -1:
        return []
    text = f"The held-out scores were highest at step {top} and then fell by "
    size = estimate(-fall.value, None if fall.high is None else -fall.high, None if fall.low is None else -fall.low, 2)
    return [(text, *size, " standard deviations on average; that step was picked after the fact.")]


def _length(found: Change) -> Parts:
    if found.before is None or found.after is None:
        return ("The length of the replies was not measured at both validations.",)
    ends: Parts = (
        Figure(value=found.before, places=1),
        " to ",
        Figure(value=found.after, places=1),
        " tokens, a difference of ",
    )
    words = {"rose": "Replies became longer: ", "fell": "Replies became shorter: "}
    return (words.get(found.moved, "The length of replies did not move beyond chance: "), *ends, *size(found), ".")


def _with_length(first: Validation, later: Validation) -> list[Parts]:
    found = [correlation(row.total, row.length) if row.length else None for row in (first, later)]
    if found[1] is None:
        return []
    before: Parts = () if found[0] is None else (f", at step {first.step} ", Figure(value=found[0], places=2))
    text = f"Correlation of the training reward with length, at step {later.step}: "
    r: Parts = (text, Figure(value=found[1], places=2))
    much = " A reward that goes with length can be pleased by length." if abs(found[1]) >= 0.5 else ""
    return [(*r, *before, f".{much}")]


def _variety(first: Validation, later: Validation) -> list[Parts]:
    said: list[Parts] = []
    for name, before, after in (
        ("Distinct-2", first.distinct2, later.distinct2),
        ("Repetition", first.repetition, later.repetition),
    ):
        if before is not None and after is not None:
            places = visible(3, before, after)
            ends: Parts = (Figure(value=before, places=places), " to ", Figure(value=after, places=places))
            said.append((f"{name} of the validation replies went from ", *ends, "."))
    return said


def _stopped(run: RunFiles) -> Parts:
    steps = int(run.summary.get("steps") or (run.steps[-1].step if run.steps else 0))
    if not run.summary:
        return (f"The run has no {'summary.json'} yet: it is going on, or it was cut. Last step on file: {steps}.",)
    why = run.summary.get("stop_reason") or STOPPED.get(str(run.summary.get("stopped")), "The reason was not recorded.")
    return (f"Why it stopped, after {steps} step{'' if steps == 1 else 's'}: {why}",)


def _left_out(run: RunFiles) -> list[Parts]:
    """Unscored shares, clipped values and rewards that raised, by component; nothing where nothing happened."""
    said: list[Parts] = []
    if share := _mean(run, "unscored"):
        said.append(("Replies without a total, left out of the updates: ", *_percent(share), "."))
    for name in components(run):
        parts: list[Parts] = []
        if share := _mean(run, f"reward/{name}/unscored"):
            parts.append((*_percent(share), " of replies unscored"))
        if count := _sum(run, f"reward/{name}/clipped"):
            parts.append(
                (Figure(value=count, places=0), f" value{'' if count == 1 else 's'} outside its range, clipped")
            )
        if count := _sum(run, f"reward/{name}/raised"):
            times = "reply" if count == 1 else "replies"
            parts.append((Figure(value=count, places=0), f" {times} at which it raised an error"))
        if parts:
            joined = [piece for part in parts for piece in ("; ", *part)][1:]
            said.append((f"Reward {name}: ", *joined, "."))
    return said


def _endings(run: RunFiles) -> list[Parts]:
    said: list[Parts] = []
    for key, what in (("truncated", "cut off at the longest allowed reply"), ("empty", "empty")):
        first, last = (run.steps[0].get(key), recent(run.steps, key)) if run.steps else (None, None)
        if first is None or last is None or not (first or last):
            continue
        ends = (*_percent(first), " at the first step, ", *_percent(last), " over the last ones")
        said.append((f"Replies that were {what}: ", *ends, "."))
    return said


def _kl(run: RunFiles) -> list[Parts]:
    last = recent(run.steps, "kl")
    if last is None:
        return []
    top = max((step for step in run.steps if step.get("kl") is not None), key=lambda step: step.get("kl") or 0.0)
    high = top.get("kl") or 0.0
    ends: Parts = (Figure(value=last, places=visible(2, last)), " nats a reply over the last steps; the most was ")
    text = "Distance from the reference (KL): "
    return [(text, *ends, Figure(value=high, places=visible(2, high)), f" at step {top.step}.")]


def _mismatch(run: RunFiles) -> list[Parts]:
    last = recent(run.steps, "mismatch")
    if not last or last < 1e-3:
        return []
    text = "Sampler and trainer disagree about a token's log-probability by "
    return [(text, Figure(value=last, places=visible(3, last)), " on average; the update corrects for it.")]


def _percent(share: float) -> Parts:
    return (Figure(value=100 * share, places=visible(1, 100 * share)), "\u00a0%")


def _over(run: RunFiles, name: str, how: Callable[[Sequence[float]], float]) -> float:
    values = [value for step in run.steps if (value := step.get(name)) is not None]
    return how(values) if values else 0.0


def _mean(run: RunFiles, name: str) -> float:
    return _over(run, name, statistics.fmean)


def _sum(run: RunFiles, name: str) -> float:
    return _over(run, name, sum)


def hashes(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of a run's inputs, without the plan, which repeats the settings."""
    return {key: value for key, value in record.items() if key != "plan"}
