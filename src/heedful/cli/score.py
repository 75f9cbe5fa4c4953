"""`heedful score FILE`: score references and generations of any JSON or JSON Lines file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table as RichTable

from heedful.errors import ConfigError
from heedful.scoring import Comparison, Line, Rows, Table, compare, score
from heedful.scoring.files import Columns, read
from heedful.scoring.published import floors


@click.command(name="score")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--metrics",
    default="lexical",
    show_default=True,
    help="Groups (published, lexical, all) or metric names, separated by commas.",
)
@click.option("--generation-column", help="Column of the system's replies; by default found by its usual name.")
@click.option("--reference-column", help="Column of the reference replies.")
@click.option("--context-column", help="Column of the client's words before the reply.")
@click.option("--cluster-column", help="Column that names the dialogue; dialogues are resampled, not replies.")
@click.option(
    "--bootstrap",
    default=1000,
    show_default=True,
    type=click.IntRange(min=0),
    help="Draws for 95 % intervals; 0 = none.",
)
@click.option("--seed", default=13, show_default=True, type=click.IntRange(min=0), help="Seed of the draws.")
@click.option("--floors/--no-floors", "with_floors", default=True, help="Also score one fixed reply and a plain echo.")
@click.option("--against", type=click.Path(path_type=Path), help="A second file with the same rows: paired tests.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def score_command(
    file: Path,
    metrics: str,
    generation_column: str | None,
    reference_column: str | None,
    context_column: str | None,
    cluster_column: str | None,
    bootstrap: int,
    seed: int,
    with_floors: bool,
    against: Path | None,
    as_json: bool,
) -> None:
    """Score the replies in FILE (JSON or JSON Lines, also gzipped) against their references.

    \b
    heedful score outputs.json --metrics published
    heedful score ours.jsonl --against theirs.jsonl --metrics bleu2,rougeL
    """
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    wanted = {
        "generation": generation_column,
        "reference": reference_column,
        "context": context_column,
        "cluster": cluster_column,
    }
    rows, columns = read(file, **wanted)
    table = score(rows, metrics=names, bootstrap=bootstrap, seed=seed)
    beside = {}
    if with_floors:
        shown = [line.name for line in table.lines]
        beside = {name: score(floor, metrics=shown, bootstrap=0) for name, floor in _floors(rows, table).items()}
    tests = []
    if against is not None:
        other, _ = read(against, **wanted)
        tests = compare(rows, _same_rows(rows, other), metrics=names, bootstrap=bootstrap, seed=seed)
    if as_json:
        click.echo(json.dumps(_to_dict(table, columns, beside, tests), ensure_ascii=False, indent=2))
        return
    # Piped output counts as 80 columns wide, which would cut names and numbers.
    console = Console(soft_wrap=True, width=max(Console().width, 110))
    _print_table(console, table, columns, beside)
    if tests:
        _print_tests(console, tests, file, against)


def _floors(rows: Rows, table: Table) -> dict[str, Rows]:
    # A floor says something about agreement with references; for a file without any there is nothing to set beside.
    return floors(rows) if any(line.value is not None for line in table.lines) else {}


def _same_rows(first: Rows, second: Rows) -> Rows:
    if len(first) != len(second):
        raise ConfigError(
            f"A paired comparison needs the same rows in the same order, but the files have {len(first)} and "
            f"{len(second)} rows."
        )
    if not any(reference is not None for reference in second.references):
        # Only generations in the second file: the first one's references and dialogues are meant.
        return first.with_hypotheses(second.hypotheses)
    return second


def _to_dict(table: Table, columns: Columns, beside: dict[str, Table], tests: list[Comparison]) -> dict[str, object]:
    out: dict[str, object] = {**table.to_dict(), "columns": asdict(columns)}
    if beside:
        out["floors"] = {name: {line.name: line.value for line in floor.lines} for name, floor in beside.items()}
    if tests:
        out["comparison"] = [asdict(test) for test in tests]
    return out


def _number(value: float | None) -> str:
    return "unscored" if value is None else f"{value:.2f}"


def _range(line: Line | Comparison) -> str:
    return "" if line.low is None or line.high is None else f"{line.low:.2f} to {line.high:.2f}"


def _print_table(console: Console, table: Table, columns: Columns, beside: dict[str, Table]) -> None:
    read_as = ", ".join(f"{kind} = {name}" for kind, name in asdict(columns).items() if name)
    console.print(f"{table.rows} rows, {table.clusters} clusters ({read_as})", highlight=False)
    grid = RichTable("metric", box=None, pad_edge=False)
    for heading in ("value", "95 % interval", "n", "unscored", *beside):
        grid.add_column(heading, justify="right", no_wrap=True)
    for line in table.lines:
        others = [_number(floor.value(line.name)) for floor in beside.values()]
        grid.add_row(line.name, _number(line.value), _range(line), str(line.n), str(line.unscored), *others)
    console.print(grid)
    for line in table.lines:
        if line.reason:
            console.print(f"{line.name}: {line.unscored} unscored ({line.reason})", highlight=False, markup=False)
    console.print("Signatures", highlight=False)
    for line in table.lines:
        console.print(f"  {line.name}: {line.signature}", highlight=False, markup=False)


def _print_tests(console: Console, tests: list[Comparison], file: Path, against: Path | None) -> None:
    console.print(f"{against} minus {file}", highlight=False, markup=False)
    grid = RichTable("metric", box=None, pad_edge=False)
    for heading in ("first", "second", "difference", "95 % interval", "p bootstrap", "p randomisation", "n"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for test in tests:
        ps = ["" if p is None else f"{p:.3f}" for p in (test.p_bootstrap, test.p_randomisation)]
        cells = [_number(value) for value in (test.first, test.second, test.difference)]
        grid.add_row(test.name, *cells, _range(test), *ps, str(test.n))
    console.print(grid)
    for test in tests:
        if test.reason:
            console.print(f"{test.name}: not compared ({test.reason})", highlight=False, markup=False)
