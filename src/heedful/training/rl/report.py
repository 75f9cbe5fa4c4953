"""The page of a reinforcement learning run: did the model get better, or did it learn to please the reward?

    files of the run folder -> records -> verdict, findings, curves -> templates/report.html.j2 -> <run>/report.html

It opens with what was found in words, then shows replies to the same prompts over the run, then curves. It is a pure
function of the files, so it can be written while the run goes on. Needs no script and nothing from outside.
"""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from heedful.pages import page
from heedful.pages.charts import Curve, Style, curves, forest_axis, forest_row, key
from heedful.pages.numbers import digits, shown, visible
from heedful.training.rl import _report_words as words
from heedful.training.rl._report_files import Probe, RunFiles, Validation, read_run
from heedful.training.rl.verdict import Change, Verdict

REPORT = "report.html"
_MOST_COLUMNS, _MOST_PROBES = 6, 12
_MARK, _SECOND, _INK = "var(--mark,#0072B2)", "var(--second,#B34700)", "var(--ink,#1b1b1b)"
_STROKES: tuple[tuple[str, Style], ...] = (
    (_SECOND, "dashed"), (_INK, "dotted"), (_SECOND, "dashdot"), (_INK, "dashed"),
)  # fmt: skip
"""Strokes of held-out scores; more of them than this stand as their mean."""

_CURVES: tuple[tuple[str, str, str], ...] = (
    ("kl", "KL to the reference", "nats a reply; the policy's distance from where it began"),
    ("kl_coefficient", "KL coefficient", "what a nat costs"),
    ("entropy", "Entropy", "nats a token; near 0 the model says the same always"),
    ("length", "Length", "tokens a reply"),
    ("truncated", "Truncated", "share of replies cut off at the longest allowed length"),
    ("empty", "Empty", "share of replies without a word"),
    ("unscored", "Unscored", "share of replies without a total"),
    ("clip_fraction", "Clip fraction", "share of tokens whose update was clipped"),
    ("explained_variance", "Explained variance", "1: the value head foresees the return; 0 or less: it does not"),
    ("policy_loss", "Policy loss", "its sign and size have no meaning by themselves"),
    ("value_loss", "Value loss", "lower is better"),
    ("grad_norm", "Gradient norm", "before clipping"),
    ("mismatch", "Sampler against trainer", "mean difference of a token's log-probability"),
)
"""Entry of metrics.jsonl, heading, what it says. Those that a run has are drawn, in this order."""


def render(folder: Path, *, summary: Mapping[str, Any] | None = None) -> str:
    """The page as text; the same files give the same text.

    Args:
        folder: of a run, finished or not.
        summary: in place of summary.json, which a run writes last of all.

    Raises:
        NotFoundError: there is no run.
        DataError: a file of the run is damaged.
    """
    return _environment().get_template("report.html.j2").render(_view(read_run(Path(folder), summary=summary)))


def write(folder: Path, *, summary: Mapping[str, Any] | None = None) -> Path:
    """Write `<folder>/report.html` in one step; only the owner may read it, as it holds words of conversations.

    Raises:
        NotFoundError, DataError: as in `render`; nothing is written then.
        RunError: the file cannot be written.
    """
    return page.write(Path(folder) / REPORT, render(folder, summary=summary))


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One score in the table of changes; `picture` is on a scale of standard deviations."""

    change: Change
    places: int
    reading: str
    picture: Markup


@dataclass(frozen=True, kw_only=True)
class _Group:
    title: str
    note: str
    rows: tuple[_Row, ...]


@dataclass(frozen=True, kw_only=True)
class _Chart:
    title: str
    note: str
    picture: Markup


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Replies to one prompt, a column per step; `scores` and `plans`: name -> one entry per column.

    `kept`: the step whose weights the run kept, where that is known and has a column.
    """

    id: str
    said: str | None = field(repr=False)
    steps: tuple[int, ...]
    kept: int | None
    replies: tuple[str | None, ...] = field(repr=False)
    scores: tuple[tuple[str, int, tuple[float | None, ...]], ...]
    plans: tuple[tuple[str, tuple[str | None, ...]], ...] = field(repr=False)


def _view(run: RunFiles) -> dict[str, Any]:
    """What the template reads."""
    judgement = words.judge(run)
    trend = words.gaps(run) if judgement is not None else []
    names = words.components(run)
    kept = words.kept(run)
    probes = _probes(run.probes, None if kept is None else kept.step)
    record = run.config.get("x_heedful", {})
    return {
        "title": _title(run),
        "folder": run.folder.name,
        "kind": judgement.verdict.kind if judgement else "unknown",
        "lead": words.lead(run, judgement),
        "findings": words.findings(run, judgement, trend),
        "groups": _changes(judgement) if judgement else (),
        "axis": _axis(judgement) if judgement else Markup(""),
        "steps": (run.validations[0].step, judgement.row.step) if judgement else (),
        "kept": None if kept is None else kept.step,
        "last_step": run.validations[-1].step if run.validations else None,
        "against": _against(run.validations, trend),
        "gap": _gap(trend),
        "probes": probes[:_MOST_PROBES],
        "more_probes": len(probes) - _MOST_PROBES,
        "reward": _reward(run),
        "components": tuple(_component(run, name) for name in names),
        "charts": _charts(run),
        "constants": _constants(run),
        "matrix": _matrix(run, names),
        "recent": min(words.RECENT, len(run.steps)),
        "run_steps": len(run.steps),
        "settings": {name: value for name, value in run.config.items() if name != "x_heedful"},
        "record": words.hashes(record if isinstance(record, Mapping) else {}),
        "summary": {name: value for name, value in run.summary.items() if name not in ("verdict", "stop_reason")},
    }


def _title(run: RunFiles) -> str:
    method = str(run.summary.get("method") or run.config.get("method") or "reinforcement learning")
    names = {"ppo": "PPO", "grpo": "GRPO", "rloo": "RLOO", "reinforce++": "REINFORCE++"}
    model = run.config.get("model_name_or_path")
    return f"{names.get(method, method)}{f' of {Path(str(model)).name}' if model else ''}"


def _changes(found: words.Judgement) -> tuple[_Group, ...]:
    """Training reward, its components, held-out scores and length: the first validation against the one judged."""
    limit, weights = _limit(found), found.row.weights
    groups = (
        ("Training reward", "what the model was trained on", (found.verdict.training,)),
        ("Held out", "scorers that never entered the reward", found.verdict.heldout),
        ("Parts of the training reward", "before their weights", found.components),
        ("Form", "neither end is better", (found.length,) if found.length is not None else ()),
    )
    return tuple(
        _Group(title=title, note=note, rows=tuple(_row(change, limit, weights) for change in changes))
        for title, note, changes in groups
        if changes
    )


def _limit(found: words.Judgement) -> float:
    """The end of the scale: the farthest bound of an interval, in standard deviations."""
    every = (found.verdict.training, *found.verdict.heldout, *found.components)
    ends = [
        abs(end / change.deviation)
        for change in every
        if change.deviation
        for end in (change.difference, change.low, change.high)
        if end is not None
    ]
    return max(ends, default=0.0)


def _axis(found: words.Judgement) -> Markup:
    limit = _limit(found)
    places = visible(1, limit)
    return Markup(forest_axis(left=shown(-limit, places), right=shown(limit, places)) if limit else "")


def _row(change: Change, limit: float, weights: Mapping[str, float]) -> _Row:
    picture = ""
    measured = change.path[0] == "train" and not weights.get(
        change.name, 1.0
    )  # weight 0: nothing says which end is good
    form = change.path == ("length",)
    # Length has no better end and moves on another scale: a number, no place on the common line.
    if not form and change.difference is not None and change.deviation:
        low, high = (None if e is None else e / change.deviation for e in (change.low, change.high))
        value = change.difference / change.deviation
        claimed = change.moved in ("rose", "fell")
        picture = forest_row(value=value, low=low, high=high, limit=limit, claimed=claimed)
    places = visible(digits([(change.difference, change.low, change.high)]), change.difference, change.low, change.high)
    return _Row(
        change=change,
        places=visible(places, change.before, change.after),
        reading=words.reading(change, end=not (measured or form)),
        picture=Markup(picture),
    )


def _against(rows: Sequence[Validation], trend: Sequence[tuple[int, Verdict]]) -> tuple[_Chart, list[Any]] | None:
    """Training reward and held-out scores by validation, each as standardised change since the first one."""
    if not trend:
        return None
    steps = [rows[0].step, *(step for step, _ in trend)]
    lines = [_standard_line("training reward", steps, [v.training for _, v in trend], _MARK, "solid")]
    names = [change.name for change in trend[-1][1].heldout]
    if len(names) <= len(_STROKES):
        for name, (colour, style) in zip(names, _STROKES, strict=False):
            found = [next((c for c in v.heldout if c.name == name), None) for _, v in trend]
            lines.append(_standard_line(name, steps, found, colour, style))
    else:
        means = [None if v.heldout_mean is None else v.heldout_mean.value for _, v in trend]
        title = f"mean of {len(names)} held-out scores"
        lines.append(Curve(name=title, x=steps, y=[0.0, *means], colour=_SECOND, style="dashed"))
    title = "Training reward against held-out scores on validation, in standard deviations since the first one"
    picture = Markup(curves(lines, title=_heard(title, lines), x_label="step", legend=False))
    return _Chart(title=title, note="", picture=picture), [(Markup(key(line)), line.name) for line in lines]


def _standard_line(name: str, steps: Sequence[int], found: Sequence[Change | None], colour: str, style: Style) -> Curve:
    values = [None if change is None else change.standardised for change in found]
    return Curve(name=name, x=steps, y=[0.0, *values], colour=colour, style=style)


def _gap(trend: Sequence[tuple[int, Verdict]]) -> _Chart | None:
    known = [(step, v.gap) for step, v in trend if v.gap is not None]
    if len(known) < 2:
        return None
    spread = [None if g.low is None or g.high is None else (g.high - g.low) / 2 for _, g in known]
    line = Curve(
        name="gap",
        x=[trend[0][1].first_step, *(step for step, _ in known)],
        y=[0.0, *(gap.value for _, gap in known)],
        colour=_MARK,
        spread=[0.0, *spread],
    )
    title = "The gap: training reward minus mean of held-out scores"
    note = "In standard deviations; the band is as wide as the 95 % interval. Above zero the reward ran ahead."
    picture = Markup(curves([line], title=_heard(title, [line]), x_label="step", legend=False))
    return _Chart(title=title, note=note, picture=picture)


def _probes(rows: Sequence[Probe], kept: int | None) -> list[_Table]:
    """One table per prompt, at most six steps, evenly chosen with the first, the last and the one that was kept."""
    tables = []
    for name in dict.fromkeys(row.id for row in rows):
        mine = [row for row in rows if row.id == name]
        wanted = next((i for i, row in enumerate(mine) if row.step == kept), None)
        columns = [mine[i] for i in _evenly(len(mine), _MOST_COLUMNS, wanted)]
        scores = dict.fromkeys(score for row in columns for score in row.scores)
        plans = dict.fromkeys(part for row in columns for part in row.plan or {})
        tables.append(
            _Table(
                id=name,
                said=next((row.said for row in mine if row.said is not None), None),
                steps=tuple(row.step for row in columns),
                kept=kept,
                replies=tuple(row.reply for row in columns),
                scores=tuple(_score(score, columns) for score in scores),
                plans=tuple(
                    (
                        part,
                        tuple(
                            page.setting(row.plan[part]) if row.plan and part in row.plan else None for row in columns
                        ),
                    )
                    for part in plans
                ),
            )
        )
    return tables


def _score(name: str, columns: Sequence[Probe]) -> tuple[str, int, tuple[float | None, ...]]:
    values = tuple(row.scores.get(name) for row in columns)
    return name, visible(2, *values), values


def _evenly(n: int, most: int, wanted: int | None = None) -> list[int]:
    """At most `most` of n places, the first, the last and the `wanted` one among them, which pushes out its neighbour.

    >>> _evenly(11, 6), _evenly(3, 6), _evenly(0, 6), _evenly(11, 6, 9)
    ([0, 2, 4, 6, 8, 10], [0, 1, 2], [], [0, 2, 4, 6, 9, 10])
    """
    if n <= most:
        return list(range(n))
    found = {round(i * (n - 1) / (most - 1)) for i in range(most)}
    if wanted is not None and wanted not in found:
        found -= {min(found - {0, n - 1}, key=lambda place: abs(place - wanted))}
        found |= {wanted}
    return sorted(found)


def _line(run: RunFiles, name: str, *, spread: str | None = None) -> Curve:
    return Curve(
        name=name,
        x=[row.step for row in run.steps],
        y=[row.get(name) for row in run.steps],
        colour=_MARK,
        spread=[row.get(spread) for row in run.steps] if spread else None,
    )


def _reward(run: RunFiles) -> Markup:
    line = _line(run, "reward", spread="reward/std")
    return Markup(curves([line], title=_heard("Total reward in training", [line]), x_label="step", legend=False))


def _component(run: RunFiles, name: str) -> _Chart:
    line = _line(run, f"reward/{name}", spread=f"reward/{name}/std")
    parts = []
    weight = run.validations[-1].weights.get(name) if run.validations else None
    if weight is not None:
        signed = page.setting(weight).replace("-", "\u2212")
        parts.append(f"weight {signed}" if weight else "weight 0, measured only")
    with_length = words.recent(run.steps, f"reward/{name}/length_corr")
    if with_length is not None:
        parts.append(f"correlation with length {shown(with_length, 2)}")
    return _small(name, "; ".join(parts), line)


def _charts(run: RunFiles) -> tuple[_Chart, ...]:
    """Small pictures of everything that moved."""
    found = [_small(title, note, line) for title, note, line in _drawable(run) if _constant(line) is None]
    for name in ("rollout", "reward", "update"):
        line = _line(run, f"seconds/{name}")
        known = [y for y in line.y if y is not None]
        if known and _constant(line) is None:
            mean = statistics.fmean(known)
            found.append(_small(f"Seconds: {name}", f"{shown(mean, visible(1, mean))} s a step on average", line))
    return tuple(found)


def _constants(run: RunFiles) -> list[tuple[str, float, int]]:
    """Name, value and digits of what was the same at every step: no picture needed."""
    found = [(title, _constant(line)) for title, _, line in _drawable(run)]
    return [(title, value, visible(2, value)) for title, value in found if value is not None]


def _drawable(run: RunFiles) -> list[tuple[str, str, Curve]]:
    lines = [(title, note, _line(run, name)) for name, title, note in _CURVES]
    return [(title, note, line) for title, note, line in lines if any(y is not None for y in line.y)]


def _constant(line: Curve) -> float | None:
    known = [y for y in line.y if y is not None]
    return known[0] if len(known) > 1 and min(known) == max(known) else None


def _small(title: str, note: str, line: Curve) -> _Chart:
    picture = curves(
        [line], title=_heard(title, [line]), x_label="step", tall=110, left=17.0, legend=False, most_dots=12
    )
    return _Chart(title=title, note=note, picture=Markup(picture))


def _heard(title: str, lines: Sequence[Curve]) -> str:
    """A title that says to a screen reader what the eye sees: where each line begins and ends."""
    said = []
    for line in lines:
        known = [(x, y) for x, y in line.points() if y is not None]
        if known:
            (x0, y0), (x1, y1) = known[0], known[-1]
            who = f"{line.name}: " if len(lines) > 1 else ""
            said.append(f"{who}{y0:.3g} at step {x0:.0f}, {y1:.3g} at step {x1:.0f}")
    return f"{title}. {'; '.join(said)}."


def _matrix(run: RunFiles, names: Sequence[str]) -> list[tuple[str, list[float | None]]]:
    """Rows of the correlation table; empty where no pair of components has a value."""
    values = words.matrix(run, names)
    if all(value is None for value in itertools.chain.from_iterable(values)):
        return []
    return list(zip(names, values, strict=True))


@functools.cache
def _environment() -> Environment:
    return page.environment("heedful.training.rl")
