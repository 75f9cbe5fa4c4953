"""The page of an evaluation: one HTML file for a clinician without statistics and for a reviewer of a conference.

    summary (a mapping, as in summary.json) -> records -> a view with words and digits -> templates/report.html.j2

It opens with what was found in plain words and with replies to look at; the numbers follow.

The page needs nothing else: no script, no font, no picture from outside, and a content policy that forbids them. Words
of clients and of models are shown as text, never as markup. Claims follow from the numbers by rule: a page says that a
system is better only where the 95 % interval of the paired difference excludes zero and the swap test agrees.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment
from markupsafe import Markup

from heedful.evaluation._summary import Comparison, Example, MetricInfo, Scored, Summary, System, Training, read
from heedful.evaluation._words import (
    GROUPS,
    RULES,
    SYSTEMS,
    capital,
    group_order,
    headline,
    plain,
    scale,
    verdict,
)
from heedful.pages import page as pages
from heedful.pages.charts import Curve, curves, forest_axis, forest_row
from heedful.pages.numbers import digits, shown, visible

_MOST_ROWS = 40


def render(summary: Mapping[str, Any]) -> str:
    """The page as text; the same summary gives the same text.

    Args:
        summary: as written to `summary.json` by `heedful eval run`; the fields are those of `_summary.Summary`.

    Raises:
        DataError: an entry is missing, of the wrong type, or names something that is not there.
    """
    record = read(summary)
    return environment().get_template("report.html.j2").render(view(record))


def write(path: str | os.PathLike[str], summary: Mapping[str, Any]) -> Path:
    """Write the page to `path` in one step: readers see the old page or the whole new one, never half of it.

    Missing folders are made. Only the owner may read the file, as it may hold conversations.

    Raises:
        DataError: as in `render`; nothing is written then.
        RunError: the file cannot be written.
    """
    return pages.write(path, render(summary))


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """One value of the main table. `missing` says why there is none; `places` as in its row, more for a tiny value."""

    system: System
    score: Scored
    places: int
    missing: str | None
    best: bool


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One metric of the main table; `n` is the number of scored rows where all systems share it."""

    name: str
    info: MetricInfo
    n: int | None
    cells: tuple[_Cell, ...]


@dataclass(frozen=True, kw_only=True)
class _Group:
    title: str
    note: str
    rows: tuple[_Row, ...]


@dataclass(frozen=True, kw_only=True)
class _Difference:
    pair: Comparison
    reading: str
    status: Literal["better", "worse", "apart", "chance", "unknown"]
    picture: Markup


@dataclass(frozen=True, kw_only=True)
class _Forest:
    """The comparisons on one metric, on one scale."""

    info: MetricInfo
    places: int
    axis: Markup
    rows: tuple[_Difference, ...]


@dataclass(frozen=True, kw_only=True)
class _Replies:
    """Examples that were chosen by one rule."""

    title: str
    note: str
    examples: tuple[tuple[Example, tuple[tuple[str, str | None], ...]], ...]


def view(summary: Summary) -> dict[str, Any]:
    """What the template reads. Models come before baselines everywhere."""
    models = tuple(system for system in summary.systems if system.kind == "model")
    floors = tuple(system for system in summary.systems if system.kind == "baseline")
    groups = _groups(summary, (*models, *floors))
    with_interval = [pair for pair in summary.comparisons if pair.sign is not None]
    replies = _replies(summary, (*models, *floors))
    return {
        "s": summary,
        "models": models,
        "floors": floors,
        "claims": headline(summary),
        "groups": groups,
        "missing": _missing(groups),
        "any_best": any(cell.best for group in groups for row in group.rows for cell in row.cells),
        "any_interval": any(cell.score.low is not None for group in groups for row in group.rows for cell in row.cells),
        "forests": _forests(summary),
        "by_chance": len(with_interval) * 0.05,
        "intervals": len(with_interval),
        "curve": _curve(summary.training) if summary.training else Markup(""),
        "losses": _losses(summary.training) if summary.training else (),
        "held_out": sum(y is not None for y in summary.training.eval_loss) if summary.training else 0,
        "replies": replies,
        "names": SYSTEMS,
        "endings": sorted({ending for system in summary.systems for ending in system.finish}),
    }


def _groups(summary: Summary, systems: Sequence[System]) -> tuple[_Group, ...]:
    """Metrics by what they look at, in the order of `GROUPS`; metrics that no system has are left out."""
    used = [name for name in summary.metrics if any(name in system.metrics for system in systems)]
    groups = []
    for group in group_order(summary.metrics[name].group for name in used):
        title, note = GROUPS.get(group, (group, ""))
        rows = tuple(_row(summary, name, systems) for name in used if summary.metrics[name].group == group)
        groups.append(_Group(title=title, note=note, rows=rows))
    return tuple(groups)


def _row(summary: Summary, name: str, systems: Sequence[System]) -> _Row:
    scores = [system.metrics.get(name, Scored(reason="not measured for this system")) for system in systems]
    counts = {score.n for score in scores if score.value is not None}
    places = digits((score.value, score.low, score.high) for score in scores)
    cells = [
        _Cell(
            system=system,
            score=score,
            places=visible(places, score.value, score.low, score.high),
            missing=(score.reason or "no reason was recorded") if score.value is None else None,
            best=score.value is not None and _best(summary, system.name, name),
        )
        for system, score in zip(systems, scores, strict=True)
    ]
    return _Row(
        name=name,
        info=summary.metrics[name],
        n=counts.pop() if len(counts) == 1 else None,
        cells=tuple(cells),
    )


def _best(summary: Summary, name: str, metric: str) -> bool:
    """Whether a paired difference beyond chance favours `name` against every other system with a value."""
    better = summary.metrics[metric].higher_is_better
    if better is None:
        return False
    beaten = set()
    for pair in summary.comparisons:
        if pair.metric == metric and pair.sign:
            winner, loser = (pair.a, pair.b) if (pair.sign > 0) == better else (pair.b, pair.a)
            if winner == name:
                beaten.add(loser)
    empty = Scored()
    rivals = {s.name for s in summary.systems if s.metrics.get(metric, empty).value is not None} - {name}
    return bool(rivals) and rivals <= beaten


def _missing(groups: Sequence[_Group]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Reason -> where it holds, for whole values and for single rows; a title alone is out of reach on a phone."""
    found: dict[str, list[str]] = {}
    for group in groups:
        for row in group.rows:
            for cell in row.cells:
                where = f"{row.info.title}, {plain(cell.system.name)}"
                if cell.missing is not None:
                    found.setdefault(cell.missing, []).append(where)
                elif cell.score.unscored:
                    reason = cell.score.reason or "no reason was recorded"
                    found.setdefault(reason, []).append(f"{where} ({shown(cell.score.unscored)} left out)")
    return tuple((reason, tuple(places)) for reason, places in found.items())


def _forests(summary: Summary) -> tuple[_Forest, ...]:
    """One block for each compared metric, in the order of the main table."""
    names = [
        name
        for group in group_order(info.group for info in summary.metrics.values())
        for name, info in summary.metrics.items()
        if info.group == group
    ]
    forests = []
    for name in names:
        pairs = [pair for pair in summary.comparisons if pair.metric == name]
        if not pairs:
            continue
        info = summary.metrics[name]
        numbers = [v for pair in pairs for v in (pair.difference, pair.low, pair.high) if v is not None]
        limit = max(map(abs, numbers), default=0.0)
        # A bound that excludes zero must not read as zero.
        places = visible(digits((pair.difference, pair.low, pair.high) for pair in pairs), *numbers)
        axis = forest_axis(left=shown(-limit, places), right=shown(limit, places)) if limit else ""
        rows = tuple(_difference(pair, info, limit) for pair in pairs)
        forests.append(_Forest(info=info, places=places, axis=Markup(axis), rows=rows))
    return tuple(forests)


def _difference(pair: Comparison, info: MetricInfo, limit: float) -> _Difference:
    status, reading = verdict(pair, info)
    picture = ""
    if pair.difference is not None:
        claimed = bool(pair.sign)
        picture = forest_row(value=pair.difference, low=pair.low, high=pair.high, limit=limit, claimed=claimed)
    return _Difference(pair=pair, reading=reading, status=status, picture=Markup(picture))


def _curve(training: Training) -> Markup:
    lines = (
        Curve(name="training", x=training.steps, y=training.loss, colour="var(--mark,#0072B2)"),
        Curve(
            name="held out",
            x=training.eval_steps,
            y=training.eval_loss,
            colour="var(--second,#B34700)",
            # One point makes no line: it is a dot with its value.
            style="dashed" if sum(y is not None for y in training.eval_loss) > 1 else "dots",
        ),
    )
    return Markup(curves(lines, title="Loss by training step", x_label="training step"))


def _losses(training: Training) -> tuple[tuple[float, float | None, float | None], ...]:
    """Step, training loss, held-out loss: every held-out point, and of long runs about forty training points."""
    every = max(1, -(-len(training.steps) // _MOST_ROWS))
    last = len(training.steps) - 1
    loss = {
        step: value
        for i, (step, value) in enumerate(zip(training.steps, training.loss, strict=True))
        if i % every == 0 or i == last or step in training.eval_steps
    }
    held = dict(zip(training.eval_steps, training.eval_loss, strict=True))
    return tuple((step, loss.get(step), held.get(step)) for step in sorted({*loss, *held}))


def _replies(summary: Summary, systems: Sequence[System]) -> tuple[_Replies, ...]:
    rules = dict.fromkeys([*RULES, *(example.rule for example in summary.examples)])
    found = []
    for rule in rules:
        chosen = [example for example in summary.examples if example.rule == rule]
        if not chosen:
            continue
        title, note = RULES.get(rule, (f"Chosen by the rule: {rule}", ""))
        pairs = []
        for example in chosen:
            names = dict.fromkeys([*(system.name for system in systems), *example.replies])
            pairs.append((example, tuple((name, example.replies.get(name)) for name in names)))
        found.append(_Replies(title=title, note=note, examples=tuple(pairs)))
    return tuple(found)


@functools.cache
def environment() -> Environment:
    made = pages.environment("heedful.evaluation")
    made.filters.update(plain=plain, capital=capital, scale=scale)
    return made
