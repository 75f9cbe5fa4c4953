"""`heedful eval crisis`: what crisis rules, and a belief beside them, notice and raise by mistake."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from heedful.classify.belief import RiskBelief
from heedful.corpora.base import roots
from heedful.errors import NotFoundError
from heedful.safety import crisis
from heedful.safety.crisis import Assessment
from heedful.safety.evaluation import OUTSIDE, Case, Report, check_floors, evaluate, own_cases, recorded
from heedful.safety.policy import decide
from heedful.types import Turn


@click.command(name="crisis")
@click.option("--belief", type=click.Path(path_type=Path), help="Run with method: belief, read beside the rules.")
@click.option("--outside", is_flag=True, help="Public sets too: VERA-MH, AILuminate, XSTest, those at hand.")
@click.option("--gate", is_flag=True, help="Fail (exit code 3) where rules alone do worse than what is on file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def crisis_command(belief: Path | None, outside: bool, gate: bool, as_json: bool) -> None:
    """Recall and false alarms of the crisis rules, by class and language, with 95 % intervals (Wilson).

    Cases are heedful's own; those of the part `held-out` were never looked at when rules were written.

    \b
    heedful eval crisis --gate
    heedful eval crisis --belief runs/belief --outside
    """
    cases: list[Case] = list(own_cases())
    absent = []
    if outside:
        for name in OUTSIDE:
            try:
                cases += list(_outside(name))
            except NotFoundError:
                absent.append(name)
    report = evaluate(cases, judge=_judge(belief))
    if as_json:
        click.echo(json.dumps({"rows": [{**asdict(row), "rate": row.rate} for row in report.rows], "absent": absent}))
    else:
        _show(report, belief)
    if absent:
        click.echo(f"not at hand below HEEDFUL_DATA: {', '.join(absent)}", err=True)
    if gate:
        check_floors(evaluate(own_cases()), recorded())
        click.echo("The rules are at or above what is on file.", err=True)


def _outside(name: str) -> Iterator[Case]:
    folder, read = OUTSIDE[name]
    place = next((root / folder for root in roots() if (root / folder).is_dir()), None)
    if place is None:
        raise NotFoundError(f"There is no folder '{folder}' below HEEDFUL_DATA.")
    return read(place)


def _judge(folder: Path | None) -> Callable[[Sequence[Turn]], Assessment]:
    """Rules alone, or with a belief that raises to `thoughts` or `immediate` above its thresholds."""
    if folder is None:
        return crisis.assess
    belief = RiskBelief.load(folder)

    def judge(said: Sequence[Turn]) -> Assessment:
        found = crisis.assess(said)
        decision = decide(found, belief=belief(said), point=belief.point)
        return replace(found, tier=decision.tier)

    return judge


def _show(report: Report, belief: Path | None) -> None:
    table = Table("part", "language", "class", "", "n", "raised", "rate", "95 %")
    for row in report.rows:
        rate, interval = f"{row.rate:.2f}", f"{row.low:.2f} to {row.high:.2f}"
        table.add_row(row.part, row.language, row.cls, row.kind, str(row.n), str(row.found), rate, interval)
    who = "rules and belief" if belief else "rules alone"
    Console(highlight=False).print(table)
    click.echo(f"{who}; cases {report.cases}; {', '.join(f'{name} {v}' for name, v in report.versions.items())}")
