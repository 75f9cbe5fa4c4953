"""Write the pages that are made from the code: docs/cli.md, docs/metrics.md and docs/labels.md.

    python scripts/docs.py           write them
    python scripts/docs.py --check   write nothing; name the pages that are old and exit with 1

The same code gives the same pages, so `tests/docs/test_docs.py` compares them word for word. Click lays out help texts
a little differently from version to version; the pages belong to the version in constraints.txt.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from heedful import taxonomy
from heedful.cli import VERBS, cli
from heedful.evaluation import perplexity
from heedful.scoring import GROUPS, METRICS, Metric

FOLDER = Path(__file__).resolve().parents[1] / "docs"
WIDTH = 100
"""Columns of a help text; fixed, so that the terminal of whoever writes the page leaves no mark on it."""

CLI_INTRO = """# Commands

This page is written by `scripts/docs.py` from the help texts of the commands; change those, not this.

`heedful <verb> [options] [key=value ...]`. Results go to stdout, progress to stderr. Exit codes: 0 done, 1 failed, 2
wrong use, 3 a gate refused. A mistake is answered with one sentence; `heedful --debug <verb>` shows the traceback.
"""

METRICS_INTRO = """# Metrics

This page is written by `scripts/docs.py` from the table in `src/heedful/scoring/metrics/__init__.py`; change that, not
this. What the numbers can and cannot say stands in [evaluation.md](evaluation.md).

- *Better*: up or down; a dash where neither end is good.
- *Needs*: what a row must have. A row without it is unscored, with the reason said, and never counts as 0.
- Every value is printed with a signature: settings, tokenisation, and the library version that it is equal to.
"""

METRICS_ESCONV = """## ESConv's scores

`--metrics esconv` gives what papers on ESConv print (recipe of `codes_zcj`) and, beside it, the corrected variants.
`--metrics strategy` is for predicted strategies.
"""

ESCONV_ROWS = (
    ("B-1 to B-4", "`bleu1` to `bleu4`", "the same script also prints a BLEU of nlg-eval: another number"),
    ("R-L", "`rougeL_published`", "beta 1.2; with beta 1 and other tokens it is `rougeL`"),
    (
        "D-1, D-2",
        "`distinct1_published`, `distinct2_published`",
        "as coded: each reply's last n-gram is lost. Exact: `distinct1`, `distinct2`. Both fall as replies are added; "
        "`distinct1_per1000` and `distinct2_per1000` do not",
    ),
    ("F1", "`f1`", "unigrams"),
    (
        "Extrema, average, greedy",
        "`embedding_extrema`, `embedding_average`, `embedding_greedy`",
        "need GloVe-6B-300d, which nobody ships: put it at `glove/glove.6B.300d.txt` under HEEDFUL_DATA, or name the "
        "file in HEEDFUL_GLOVE. Unscored without it",
    ),
    (
        "PPL",
        "`ppl_token`",
        "over tokens. Papers also averaged over replies: the losses stored with GLHG's replies give 16.11, 14.69 or "
        "27.19, as one averages. Between tokenizers: `ppl_word`, `bits_per_character`",
    ),
    (
        "ACC",
        "`accuracy`",
        "the most probable strategy. A drawn one is `accuracy_sampled`, a lower number; `top1` and `top3` look at the "
        "distribution",
    ),
    ("preference bias", "`preference_bias`", "20 updates in place, class by class"),
)

Page = Callable[[], str]


def cli_page() -> str:
    """Help of every verb and of every command below it, each under its own heading."""
    root = cli.make_context("heedful", [], resilient_parsing=True, terminal_width=WIDTH)
    parts = [CLI_INTRO, _help(root)]
    for verb in sorted(VERBS):
        parts += [f"## {context.command_path}\n\n{_help(context)}" for context in _contexts(verb, root)]
    return "\n".join(parts)


def _contexts(name: str, parent: click.Context) -> Iterator[click.Context]:
    """The command `name` of `parent`'s group, then all commands below it."""
    group = parent.command
    command = group.get_command(parent, name) if isinstance(group, click.Group) else None
    if command is None:
        raise SystemExit(f"The table of verbs names '{name}', but there is no such command.")
    context = command.make_context(name, [], parent=parent, resilient_parsing=True, terminal_width=WIDTH)
    yield context
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            yield from _contexts(below, context)


def _help(context: click.Context) -> str:
    text = "\n".join(line.rstrip() for line in context.get_help().splitlines())
    return f"```text\n{text}\n```\n"


def metrics_page() -> str:
    """Every metric, every group, and the perplexities that only an evaluation of a model has."""
    metrics = [METRICS.get(name) for name in METRICS.names()]
    parts = [
        METRICS_INTRO,
        "## Scores of replies and labels\n",
        _table(("name", "title", "unit", "better", "needs", "what it is"), [_metric_row(m) for m in metrics]),
        "## Likelihood of the reference replies\n",
        "Only `heedful eval run` has these, since a model is needed. Lower is better; 95 % intervals over dialogues.\n",
        _table(
            ("name", "title", "what it is"),
            [(f"`{name}`", title, perplexity.DEFINITIONS[name]) for name, title in perplexity.TITLES.items()],
        ),
        METRICS_ESCONV,
        _table(("column in papers", "here", "what to know"), ESCONV_ROWS),
        "## Groups\n",
        "A group stands for its metrics wherever names are asked for: `--metrics published`, `metrics: [all]`.\n",
        _table(("group", "metrics"), [(f"`{name}`", _members(entries)) for name, entries in GROUPS.items()]),
    ]
    return "\n".join(parts)


def _metric_row(metric: Metric) -> tuple[str, ...]:
    better = {True: "up", False: "down", None: "–"}[metric.higher_is_better]
    return (f"`{metric.name}`", metric.title, metric.unit, better, ", ".join(metric.needs), metric.definition)


def _members(entries: Sequence[str]) -> str:
    return ", ".join(" or else ".join(f"`{name}`" for name in entry.split("|")) for entry in entries)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


PAGES: dict[str, Page] = {"cli.md": cli_page, "labels.md": taxonomy.markdown, "metrics.md": metrics_page}
"""File in docs/ -> the function that writes its text."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the generated pages of docs/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is old")
    check = parser.parse_args().check
    old = []
    for name, page in PAGES.items():
        path, text = FOLDER / name, page()
        if not path.is_file() or path.read_text("utf-8") != text:
            old.append(name)
            if not check:
                path.write_text(text, "utf-8")
    print(f"{'old' if check else 'written'}: {', '.join(old)}" if old else "all pages are up to date")
    sys.exit(1 if check and old else 0)


if __name__ == "__main__":
    main()
