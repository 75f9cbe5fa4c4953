"""`heedful data ls|show|check|stats`: what corpora there are, whether they are the right ones, what is in them.

Results go to stdout, progress to stderr. No text of a turn is printed unless `--show-text` is given; the invented
example of a corpus is no client's text and is always shown. Exit codes: 0 done, 1 a check found problems, 2 wrong use.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heedful import corpora
from heedful.corpora.base import Corpus, Report, figure
from heedful.corpora.stats import Stats, html, stats
from heedful.errors import ConfigError, NotFoundError, RunError
from heedful.types import Conversation

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
_path = click.option("--path", type=click.Path(path_type=Path), help="The corpus folder, if it is somewhere else.")


@click.group()
def data() -> None:
    """Corpora: list, look at, check, count.

    Example: heedful data check commons
    """


@data.command("ls")
@_as_json
def list_corpora(as_json: bool) -> None:
    """All corpora with licence and whether they are here.

    Example: heedful data ls
    """
    rows = []
    for name in corpora.names():
        corpus = corpora.get(name)
        place = corpus.locate()
        rows.append(
            {
                "name": name,
                "title": corpus.info.title,
                "licence": corpus.info.licence,
                "class": corpus.info.licence_class,
                "lang": corpus.info.lang,
                "splits": list(corpus.info.splits),
                "status": "here" if place else ("on request" if corpus.info.gated else "not here"),
                "path": str(place) if place else None,
            }
        )
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table("name", "what", "class", "status")
    for row in rows:
        what = str(row["title"]).partition(": ")[2]
        table.add_row(str(row["name"]), what, str(row["class"]), str(row["status"]))
    _print(table)
    click.echo("CC0 free; R may be shipped; R* rights unclear; NC non-commercial; L local research only.")


@data.command()
@click.argument("name")
@click.option("--split", help="train, valid or test.")
@click.option("--id", "wanted", help="Id of the conversation; the first one if left out.")
@click.option("--show-text", is_flag=True, help="Print the words of the turns. They may be a real person's.")
@_path
@_as_json
def show(name: str, split: str | None, wanted: str | None, show_text: bool, path: Path | None, as_json: bool) -> None:
    """What is known about a corpus, its invented example, and one conversation (without text).

    Example: heedful data show commons --show-text
    """
    known = None if corpora.is_file(name) else corpora.get(name)
    absent = _absence(known, path) if known else None
    if absent is not None and (path or wanted or split):
        raise absent
    conversation = None if absent else _pick(corpora.load(name, split, path=path), wanted, name)
    info = _info(known) if known else {"name": name}
    if as_json:
        talk = _outline(conversation, show_text) if conversation else None
        click.echo(json.dumps({"info": info, "conversation": talk}, indent=2, ensure_ascii=False, default=str))
        return
    for key, value in info.items():
        if key != "example" and value not in (None, [], ""):
            click.echo(f"{key}: {', '.join(value) if isinstance(value, list) else value}")
    if known:
        click.echo("example (invented):")
        for message in known.info.example["messages"]:
            click.echo(f"  {message['role']}: {message['content']}")
    if conversation is None:
        click.echo(f"not here: {absent}")
        return
    _show_talk(conversation, show_text)


def _absence(corpus: Corpus, path: Path | None) -> NotFoundError | None:
    """Why a corpus cannot be read here and how to get it, or None."""
    try:
        corpus.require(path)
    except NotFoundError as err:
        return err
    return None


@data.command()
@click.argument("names", nargs=-1, required=True)
@_path
@_as_json
def check(names: tuple[str, ...], path: Path | None, as_json: bool) -> None:
    """Hashes, counts, labels and leaks of corpora or .jsonl files; exits with 1 if something is wrong.

    Example: heedful data check esconv mesc hope
    """
    if path is not None and len(names) > 1:
        raise ConfigError(f"--path belongs to one corpus, but {len(names)} were named. Check them one by one.")
    reports = []
    for name in names:
        click.echo(f"checking {name} ...", err=True)
        reports.append(corpora.validate(name, path=path))
    if as_json:
        click.echo(json.dumps([report.to_dict() for report in reports], indent=2, ensure_ascii=False))
    else:
        for report in reports:
            _show_report(report)
    if not all(report.ok for report in reports):
        click.get_current_context().exit(1)


@data.command("stats")
@click.argument("name")
@click.option("--split", help="train, valid or test.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write one HTML page with pictures.")
@_path
@_as_json
def show_stats(name: str, split: str | None, out: Path | None, path: Path | None, as_json: bool) -> None:
    """Sizes, lengths, labels, and how strategies follow each other.

    Example: heedful data stats commons --out commons.html
    """
    click.echo(f"reading {name} ...", err=True)
    found = stats(corpora.load(name, split, path=path))
    title = f"{name}, {split}" if split else name
    if out is not None:
        _write(out, html(found, title=title))
        click.echo(f"wrote {out}", err=True)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    else:
        _show_stats(found, title)


def _write(out: Path, content: str) -> None:
    try:
        out.write_text(content, encoding="utf-8")
    except FileNotFoundError as err:
        raise NotFoundError(f"The folder '{out.parent}' does not exist. Create it first.") from err
    except OSError as err:
        raise RunError(f"'{out}' could not be written: {err.strerror}.") from err


# ------------------------------------------------------------------------------------------------------ printing


def _print(table: Table) -> None:
    # Made here, not at import: tests and pipes exchange stdout. Piped output counts as 80 columns, too few for names.
    Console(highlight=False, width=max(Console().width, 120)).print(table)


def _info(corpus: corpora.Corpus) -> dict[str, Any]:
    info = corpus.info
    place = corpus.locate()
    return {
        "name": info.name,
        "title": info.title,
        "url": info.url,
        "licence": info.licence,
        "licence class": info.licence_class,
        "language": info.lang,
        "citation": info.citation,
        "splits": list(info.splits),
        "layers": list(info.layers),
        "options": list(corpus.options()),
        "how to ask": info.gated,
        "files": [*info.files, *info.optional_files],
        "path": str(place) if place else None,
        "example": dict(info.example),
    }


def _pick(conversations: list[Conversation], wanted: str | None, name: str) -> Conversation:
    for conversation in conversations:
        if wanted is None or conversation.id == wanted:
            return conversation
    raise NotFoundError(f"'{name}' has no conversation '{wanted}' in this part." if wanted else f"'{name}' is empty.")


def _outline(conversation: Conversation, show_text: bool) -> dict[str, Any]:
    if show_text:
        return conversation.to_dict()
    return {
        "id": conversation.id,
        "source": conversation.source,
        "split": conversation.split,
        "problem_type": conversation.problem_type,
        "survey": dict(conversation.survey),
        "turns": [
            {"role": t.role, "words": len(t.text.split()), "labels": [[n.set, n.value, n.source] for n in t.labels]}
            for t in conversation.turns
        ],
    }


def _show_talk(conversation: Conversation, show_text: bool) -> None:
    table = Table("turn", "role", "words", "labels", *(["text"] if show_text else []))
    for i, turn in enumerate(conversation.turns):
        labels = "\n".join(
            f"{n.set}: {n.value}" + ("" if n.source == "gold" else f" ({n.source})") for n in turn.labels
        )
        text = [turn.text] if show_text else []  # escaped below: rich reads "[word]" as markup
        table.add_row(str(i), turn.role, str(len(turn.text.split())), labels, *map(escape, text))
    click.echo(f"conversation {conversation.id} (split: {conversation.split or 'none'}), {len(conversation)} turns:")
    _print(table)
    if not show_text:
        click.echo("The words stay hidden; --show-text prints them.")


def _show_report(report: Report) -> None:
    table = Table("count", "expected", "found", "", title=f"{report.corpus} ({report.path})", title_justify="left")
    for c in report.counts:
        mark = "" if c.expected is None else ("ok" if c.ok else "differs")
        table.add_row(c.name, "" if c.expected is None else figure(c.expected), figure(c.found), mark)
    _print(table)
    if report.files_ok:
        click.echo(f"files with the known hash: {report.files_ok}")
    click.echo(f"leaks: {len(report.leaks.leaks)} kinds, overlaps: {len(report.leaks.overlaps)} kinds, ", nl=False)
    click.echo(f"{report.leaks.turns:,} turns compared")
    for sentence in report.warnings:
        click.echo(f"note: {sentence}")
    for sentence in report.problems:
        click.echo(f"problem: {sentence}")
    click.echo(f"{report.corpus}: {'ok' if report.ok else f'{len(report.problems)} problems'}\n")


def _show_stats(found: Stats, title: str) -> None:
    table = Table("", "number", title=title, title_justify="left")
    table.add_row("dialogues", f"{found.dialogues:,}")
    for split, n in found.splits.items():
        table.add_row(f"dialogues in {split}", f"{n:,}")
    for role, n in found.turns.items():
        table.add_row(f"{role} turns", f"{n:,}")
    table.add_row("turns per dialogue", f"{found.turns_per_dialogue:.1f}")
    for role, lengths in found.lengths.items():
        table.add_row(f"words per {role} turn, mean", f"{lengths.mean:.1f}")
        for q in (0.5, 0.9):
            table.add_row(f"words per {role} turn, {q:.0%} quantile", f"{lengths.quantiles[q]:g}")
    _print(table)
    for name, roles in found.labels.items():
        layer = Table(name, *roles, title_justify="left")
        for value in dict.fromkeys(v for counts in roles.values() for v in counts):
            layer.add_row(value, *(f"{counts.get(value, 0):,}" for counts in roles.values()))
        _print(layer)
