"""`heedful eval floors`: what trivial systems reach on a corpus, before any model is asked."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heedful.cli.output import Progress, number
from heedful.errors import ConfigError
from heedful.evaluation.floors import Floors, Measure, floors
from heedful.scoring import anchors
from heedful.settings import apply_overrides

_BLOCKS: dict[bool, tuple[str, anchors.About]] = {False: ("Z", "replies"), True: ("Z+", "strategies")}
"""Whether opening turns count -> the block of published rows that has the same turns, and what they are about."""


@click.command(name="floors")
@click.argument("dataset")
@click.option("--split", default="test", show_default=True, help="The part that is judged.")
@click.option("--train-split", default="train", show_default=True, help="The part that floors learn from.")
@click.option("--opening", is_flag=True, help="Count a supporter's very first turn of a talk too.")
@click.option("--label-set", help="Of the strategies; by default the corpus' only set ending in _strategy.")
@click.option("--merge-turns", is_flag=True, help="Join runs of turns by one speaker first.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the corpus; repeatable.")
@click.option("--path", type=click.Path(path_type=Path), help="The corpus folder, if it is somewhere else.")
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(min=1), help="Draws of the random replies.")
@click.option("--bootstrap", default=1000, show_default=True, type=click.IntRange(min=0), help="Draws of intervals.")
@click.option("--seed", default=13, show_default=True, type=click.IntRange(min=0), help="Of the intervals.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where numbers are kept. [default: runs/floors/NAME-SPLIT]"
)
@click.option("--fresh", is_flag=True, help="Compute again, even if the numbers are there.")
@click.option("--published", is_flag=True, help="ESConv's test part: published rows of the same protocol below.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def floors_command(
    dataset: str,
    split: str,
    train_split: str,
    opening: bool,
    label_set: str | None,
    merge_turns: bool,
    options: tuple[str, ...],
    path: Path | None,
    seeds: int,
    bootstrap: int,
    seed: int,
    out: Path | None,
    fresh: bool,
    published: bool,
    as_json: bool,
) -> None:
    """Trivial predictors of the strategy, and trivial replies, with intervals over dialogues. DATASET is a corpus or
    a .jsonl file. Numbers are kept in a folder; the same data and settings are read from there.

    \b
    heedful eval floors esconv
    heedful eval floors esconv --opening --published
    heedful eval floors annomi --label-set annomi_behaviour --option quality=high
    """
    if published and (dataset != "esconv" or split != "test" or train_split != "train" or merge_turns or options):
        raise ConfigError("--published is about the test part of esconv as it is split; leave it out for other data.")
    progress = Progress()
    folder = out or default_folder(dataset, split, opening=opening, merge_turns=merge_turns, label_set=label_set)
    found = floors(
        dataset,
        split,
        train_split=train_split,
        opening=opening,
        label_set=label_set,
        merge_turns=merge_turns,
        options=apply_overrides({}, options),
        path=path,
        seeds=range(seeds),
        bootstrap=bootstrap,
        seed=seed,
        folder=folder,
        fresh=fresh,
        say=progress.say,
    )
    rows = anchors.table(*_BLOCKS[opening]) if published else None
    if as_json:
        click.echo(json.dumps({**found.to_dict(), **({"published": rows.to_dict()} if rows else {})}))
        return
    show_floors(found)
    if rows is not None:
        _show_published(rows)
    click.echo(f"numbers: {folder}")


def default_folder(dataset: str, split: str, *, opening: bool, merge_turns: bool, label_set: str | None) -> Path:
    """Where floors are kept: one folder for each way to ask."""
    marks = ["opening"] * opening + ["merged"] * merge_turns + ([label_set.replace(":", ".")] if label_set else [])
    name = Path(dataset).name.removesuffix(".gz").removesuffix(".jsonl").replace(":", ".")
    return Path("runs") / "floors" / "-".join([name, split, *marks])


def show_floors(found: Floors) -> None:
    """Two tables: strategies and replies, which have no score in common."""
    about = found.settings
    turns = f"{found.turns - found.unlabelled:,} turns" if found.unlabelled else f"{found.turns:,} turns"
    what = f"{about['dataset']} {about['split']}{', opening turns included' if about['opening'] else ''}"
    if found.strategies:
        click.echo(
            f"{what}: {turns} of {found.dialogues:,} dialogues with a label of {about['label_set']}; learned from "
            f"{found.train_turns:,} turns of {about['train_split']}. 95 % intervals over dialogues."
        )
        _print(_strategy_table(found))
    seeds = len(about["seeds"])
    click.echo(
        f"{what}: {found.turns:,} replies. Drawn ones: mean of {seeds} seed{'s' if seeds > 1 else ''}, ± their "
        "standard deviation."
    )
    _print(_reply_table(found))
    for floor in (*found.strategies, *found.replies):
        if floor.reason:
            click.echo(f"{floor.name}: unscored, {floor.reason}")
        elif floor.note:
            click.echo(f"{floor.name}: {floor.note}")
    unscored = {(name, m.reason) for f in found.replies for name, m in f.scores.items() if m.reason}
    for name, reason in sorted(unscored):
        click.echo(f"{name}: unscored, {reason}")
    for note in found.notes:
        click.echo(f"note: {note}")


def _strategy_table(found: Floors) -> Table:
    """Floors down, scores across."""
    names = [name for name in found.metrics if any(name in row.scores for row in found.strategies)]
    table = Table(title="strategy floors", title_justify="left")
    table.add_column("floor")
    for name in names:
        table.add_column(escape(found.metrics[name]["title"]), justify="right")
    for row in found.strategies:
        if row.scores:
            table.add_row(escape(row.title), *(_cell(row.scores.get(name)) for name in names))
    return table


def _reply_table(found: Floors) -> Table:
    """Scores down, floors across: there are more scores."""
    rows = [floor for floor in found.replies if floor.scores]
    table = Table(title="reply floors", title_justify="left")
    table.add_column("score")
    for floor in rows:
        table.add_column(escape(floor.title), justify="right")
    for name, about in found.metrics.items():
        cells = [floor.scores.get(name) for floor in rows]
        if any(cell is not None for cell in cells):
            table.add_row(escape(about["title"]), *map(_cell, cells))
    return table


def _cell(measure: Measure | None) -> str:
    if measure is None:
        return ""
    spread = "" if measure.spread is None else f" ±{number(measure.spread)}"
    ends = "" if measure.low is None else f" [dim]{number(measure.low)}–{number(measure.high)}[/dim]"
    return f"{number(measure.value)}{spread}{ends}"


def _show_published(rows: anchors.AnchorTable) -> None:
    table = Table(title=escape(rows.title), title_justify="left")
    for heading in ("system", "kind", *(anchors.HEADINGS[name] for name in rows.columns), "source"):
        table.add_column(escape(heading), justify="left" if heading in ("system", "kind", "source") else "right")
    for row in rows.rows:
        cells = [row.system, row.kind, *(row.cell(name) for name in rows.columns), row.source]
        table.add_row(*map(escape, cells))
    _print(table)
    click.echo(f"{rows.block.note}. {rows.caveat}")
    for row in rows.rows:
        if row.note:
            click.echo(f"{row.system}: {row.note}")


def _print(table: Table) -> None:
    # Piped output counts as 80 columns wide, which would cut names and numbers.
    Console(width=max(Console().width, 150)).print(table)
