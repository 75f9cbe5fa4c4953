"""`heedful eval`: run, study, crisis, floors, support, steer, monitor, attention, list, view, compare."""

from __future__ import annotations

import json
import shlex
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heedful.cli.attention import attention_command
from heedful.cli.crisis import crisis_command
from heedful.cli.floors import floors_command
from heedful.cli.monitor import monitor_command
from heedful.cli.output import Progress, number
from heedful.cli.steer import steer_command
from heedful.cli.support import support_command
from heedful.errors import ConfigError, NotFoundError
from heedful.evaluation import suites
from heedful.evaluation.compare import compare_folders, read_summary
from heedful.evaluation.comparison import compare
from heedful.evaluation.config import EvalConfig
from heedful.evaluation.emotion import SCORES
from heedful.evaluation.run import evaluate
from heedful.evaluation.study import study
from heedful.evaluation.study_config import StudyConfig
from heedful.evaluation.study_page import one_decoding
from heedful.settings import apply_overrides, check, read_yaml

KINDS = ("eval", "study")
"""What `kind` says in the summaries that are listed and shown here."""


@click.group(name="eval")
def eval_group() -> None:
    """Evaluate a model beside trivial baselines; compare evaluations."""


eval_group.add_command(crisis_command)
eval_group.add_command(floors_command)
eval_group.add_command(support_command)
eval_group.add_command(steer_command)
eval_group.add_command(monitor_command)
eval_group.add_command(attention_command)


@eval_group.command(name="run")
@click.argument("model")
@click.argument("overrides", nargs=-1)
@click.option("--config", type=click.Path(), help="A YAML file of evaluation settings.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON, without the example dialogues.")
@click.option("--show-text", is_flag=True, help="With --json: the examples too. They may be a real person's words.")
def run_command(model: str, overrides: tuple[str, ...], config: str | None, as_json: bool, show_text: bool) -> None:
    """Generate for a split, measure perplexity, score, and write a report. MODEL is a run, a folder or a name.

    Run it again after an interruption and it goes on where it stopped.

    \b
    heedful eval run runs/demo
    heedful eval run runs/esconv-sft split=test decoding.do_sample=true decoding.top_p=0.9
    """
    values = {**(read_yaml(config) if config else {}), "model_name_or_path": model}
    settings = check(EvalConfig, apply_overrides(values, overrides), where=config or "eval")
    progress = Progress()
    command = shlex.join(["heedful", *sys.argv[1:]])
    done = evaluate(settings, say=progress.say, command=command)
    if as_json:
        click.echo(json.dumps({k: v for k, v in done.summary.items() if show_text or k != "examples"}))
        return
    console().print(summary_table(done.summary))
    click.echo(f"report: {done.report}")


@eval_group.command(name="study")
@click.argument("config")
@click.argument("overrides", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON, without the example dialogues.")
@click.option("--show-text", is_flag=True, help="With --json: the examples too. They may be a real person's words.")
def study_command(config: str, overrides: tuple[str, ...], as_json: bool, show_text: bool) -> None:
    """Compare several systems under several decodings on one part: one table, one page. CONFIG is a YAML file.

    Run it again after an interruption and it goes on where it stopped.

    \b
    heedful eval study recipes/study.yaml
    heedful eval study recipes/study.yaml max_conversations=10 output_dir=runs/quick
    """
    settings = check(StudyConfig, apply_overrides(read_yaml(config), overrides), where=config)
    progress = Progress()
    done = study(settings, say=progress.say, command=shlex.join(["heedful", *sys.argv[1:]]))
    if as_json:
        click.echo(json.dumps({k: v for k, v in done.summary.items() if show_text or k != "examples"}))
        return
    print_study(done.summary)
    click.echo(f"report: {done.report}")


@eval_group.command(name="compare")
@click.argument("first")
@click.argument("second", required=False)
@click.argument("overrides", nargs=-1)
@click.option("--systems", help="Suites: which systems, separated by commas; default: all whose runs are here.")
@click.option("--run", "runs", multiple=True, metavar="SYSTEM=FOLDER", help="Suites: another run for a system.")
@click.option("--metrics", default="lexical", show_default=True, help="Groups or names, separated by commas.")
@click.option("--system", default="trained", show_default=True, help="Which system of each evaluation.")
@click.option("--bootstrap", default=1000, show_default=True, help="Draws.")
@click.option("--seed", default=13, show_default=True, type=click.IntRange(min=0))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare_command(
    first: str,
    second: str | None,
    overrides: tuple[str, ...],
    systems: str | None,
    runs: tuple[str, ...],
    metrics: str,
    system: str,
    bootstrap: int,
    seed: int,
    as_json: bool,
) -> None:
    """Paired tests between two evaluations of the same data, SECOND minus FIRST; or a whole suite on one page.

    A system of one evaluation is named after a colon: runs/a/eval/commons-test:base

    \b
    heedful eval compare runs/a/eval/commons-test runs/b/eval/commons-test
    heedful eval compare esconv --systems base,sft,joint,oracle,glhg,kemi
    """
    if second is None or "=" in second or first in suites.names():
        _compare_suite(first, [w for w in (second, *overrides) if w], systems, runs, as_json=as_json)
        return
    if overrides or systems or runs:
        raise ConfigError("--systems, --run and key=value are for suites; two evaluations are compared as they are.")
    names = [m.strip() for m in metrics.split(",") if m.strip()]
    found = compare_folders(first, second, system=system, metrics=names, bootstrap=bootstrap, seed=seed)
    if as_json:
        click.echo(json.dumps([vars_of(c) for c in found]))
        return
    table = Table(title=f"{escape(second)} minus {escape(first)}, paired over dialogues, 95 % intervals")
    for column in ("metric", "first", "second", "difference", "low", "high", "p (bootstrap)", "p (swap)", "n"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for c in found:
        numbers = [number(v) for v in (c.first, c.second, c.difference, c.low, c.high)]
        table.add_row(c.name, *numbers, number(c.p_bootstrap, 3), number(c.p_randomisation, 3), str(c.n))
    console().print(table)
    for c in found:
        if c.reason:
            click.echo(f"{c.name}: {c.reason}")


def _compare_suite(
    name: str, overrides: Sequence[str], systems: str | None, runs: Sequence[str], *, as_json: bool
) -> None:
    suite = suites.get(name)
    placed = {}
    for word in runs:
        key, equals, folder = word.partition("=")
        if not equals or not folder:
            raise ConfigError(f"--run takes SYSTEM=FOLDER, but got '{word}'.")
        placed[key.strip()] = folder
    wanted = [word.strip() for word in (systems or "").split(",") if word.strip()]
    config = suites.study_of(suite, name, wanted, runs=placed, overrides=overrides)
    progress = Progress()
    done = compare(suite, config, say=progress.say, command=shlex.join(["heedful", *sys.argv[1:]]))
    if as_json:
        click.echo(json.dumps(done.summary))
        return
    for finding in done.summary["findings"]:
        click.echo(f"- {finding['text']}")
    click.echo(f"page: {done.page}")


@eval_group.command(name="ls")
@click.argument("folder", default="runs")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(folder: str, as_json: bool) -> None:
    """List evaluations below FOLDER.

    \b
    heedful eval ls runs
    """
    pages = sorted(p.parent for p in Path(folder).rglob("report.html") if (p.parent / "summary.json").is_file())
    # Training runs have a page and a summary as well.
    rows = [(str(path), found) for path in pages if (found := read_summary(path, kinds=None)).get("kind") in KINDS]
    if not rows:
        raise NotFoundError(f"No evaluation below '{folder}'; make one with heedful eval run MODEL.")
    if as_json:
        click.echo(json.dumps([{"folder": path, "title": s["title"], "created": s["created"]} for path, s in rows]))
        return
    for path, summary in rows:
        click.echo(f"{summary['created']}  {path}  {summary['title']}")


@eval_group.command(name="view")
@click.argument("folder")
@click.option("--open", "open_page", is_flag=True, help="Open the report in a browser.")
@click.option("--markdown", is_flag=True, help="Print a Markdown table with what is needed to repeat it, for a log.")
def view_command(folder: str, open_page: bool, markdown: bool) -> None:
    """Print the table of an evaluation again.

    \b
    heedful eval view runs/demo/eval/commons-test --open
    heedful eval view runs/demo/eval/commons-test --markdown >> LOG.md
    """
    path = Path(folder)
    summary = read_summary(path, kinds=KINDS)
    if markdown:
        click.echo(markdown_study(summary) if summary["kind"] == "study" else markdown_table(summary))
        return
    if summary["kind"] == "study":
        print_study(summary)
    else:
        console().print(summary_table(summary))
    click.echo(f"report: {path / 'report.html'}")
    if open_page:
        webbrowser.open((path / "report.html").resolve().as_uri())


def console() -> Console:
    """Where tables go. Piped output counts as 80 columns wide, which would cut names and numbers."""
    return Console(width=max(Console().width, 140))


def summary_table(summary: dict[str, Any]) -> Table:
    """Metrics down, systems across, each value with its interval."""
    corpus = summary["corpus"]
    sizes = f"{corpus['targets']:,} replies, {corpus['conversations']:,} dialogues"
    table = Table(title=f"{escape(summary['title'])}: {sizes}")
    table.add_column("metric")
    for system in summary["systems"]:
        table.add_column(escape(system["name"]), justify="right")
    for title, cells in _cells(summary):
        table.add_row(title, *(f"{value} [dim]{interval}[/dim]" if interval else value for value, interval in cells))
    return table


def markdown_table(summary: dict[str, Any]) -> str:
    """The same as Markdown, under a line with command, date, seed, hash of the data and machine."""
    corpus, machine = summary["corpus"], summary["machine"]
    training = (summary["training"] or {}).get("summary")
    facts = [
        f"`{summary['command']}`" if summary["command"] else "",
        summary["created"][:10],
        f"seed {summary['seed']}",
        f"{corpus['targets']:,} replies of {corpus['conversations']:,} dialogues, data {corpus['hash']}",
        f"format {summary['format']}" if summary["format"] else "",
        f"training: {training}" if training else "",
        machine["gpu"] or f"{machine['cores']} cores, no GPU",
        *sorted({s["note"] for s in summary["systems"] if s["note"]}),
    ]
    names = [s["name"] for s in summary["systems"]]
    lines = [
        "; ".join(fact for fact in facts if fact) + ".",
        "",
        f"| 95 % intervals over dialogues | {' | '.join(names)} |",
        f"|---|{'---:|' * len(names)}",
    ]
    for title, cells in _cells(summary):
        shown = [f"{value} ({interval})" if interval else value for value, interval in cells]
        lines.append(f"| {title} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _cells(summary: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Per metric that any system has: its title, and value and interval per system."""
    for name, about in summary["metrics"].items():
        found = [system["metrics"].get(name) or {} for system in summary["systems"]]
        if all(m.get("value") is None for m in found):
            continue
        yield (
            about["title"],
            [
                (number(m.get("value")), "" if m.get("low") is None else f"{number(m['low'])}–{number(m['high'])}")
                for m in found
            ],
        )


def print_study(summary: dict[str, Any]) -> None:
    """Findings, a table per decoding, and the labels, each behind its constant row."""
    for finding in summary["findings"]:
        click.echo(f"- {finding['text']}")
    for decoding in summary["decodings"]:
        console().print(summary_table(one_decoding(summary, decoding)))
    for name, title, rows in _label_rows(summary):
        table = Table(title=escape(f"{name}: {title}"))
        for column in ("who", "read by", *SCORES.values()):
            table.add_column(column, justify="left" if column in ("who", "read by") else "right")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        console().print(table)


def markdown_study(summary: dict[str, Any]) -> str:
    """The same as Markdown."""
    lines = [f"- {finding['text']}" for finding in summary["findings"]]
    for decoding in summary["decodings"]:
        lines += ["", f"**{decoding}**", "", markdown_table(one_decoding(summary, decoding))]
    for name, title, rows in _label_rows(summary):
        lines += ["", f"**{name}**: {title}", "", f"| who | read by | {' | '.join(SCORES.values())} |"]
        lines += [f"|---|---|{'---:|' * len(SCORES)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def _label_rows(summary: dict[str, Any]) -> Iterator[tuple[str, str, list[list[str]]]]:
    """Per label set and decoding: name, title, and rows of cells, the constant row first."""
    for name, decodings in summary["labels"].items():
        for decoding, reports in decodings.items():
            if not reports:
                continue
            first = reports[0]
            rows = [[f"always {first['constant_label']}", "no model", *_label_cells(first["constant"])]]
            rows += [[r["system"], r["source"], *_label_cells(r["predicted"])] for r in reports]
            yield name, f"{decoding}, n = {first['n']:,}, out of 100", rows


def _label_cells(found: dict[str, Any]) -> list[str]:
    scores = [found["scores"][name] for name in SCORES]
    return [
        number(s["value"]) + ("" if s["low"] is None else f" ({number(s['low'])}–{number(s['high'])})") for s in scores
    ]


def vars_of(record: Any) -> dict[str, Any]:
    """Fields of a frozen record."""
    return {name: getattr(record, name) for name in record.__dataclass_fields__}
