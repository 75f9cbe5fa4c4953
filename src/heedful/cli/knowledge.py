"""`heedful knowledge build|search|show`: stores of vetted knowledge.

No text of an item is printed unless `--show-text` is given, and none of an item that was left out, ever. Results go to
stdout, progress to stderr.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heedful.knowledge.build import Built, build
from heedful.knowledge.index import METHODS, Index
from heedful.knowledge.item import Item
from heedful.models.encoder import EMBEDDED

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
_show_text = click.option("--show-text", is_flag=True, help="Print the words of items. They may be a real person's.")
_data = click.option("--data", type=click.Path(path_type=Path), help="Refuse an index that was built from other data.")


@click.group(name="knowledge")
def knowledge_group() -> None:
    """Stores of vetted knowledge: build, search, look at.

    Example: heedful knowledge build cases.jsonl
    """


@knowledge_group.command("build")
@click.argument("what", metavar="NAME|FILE.jsonl")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; $HEEDFUL_HOME/knowledge/NAME if left out.")
@click.option("--path", type=click.Path(path_type=Path), help="Where the data lie, if it is somewhere else.")
@click.option(
    "--encoder", default="minilm", show_default=True, help=f"{', '.join(EMBEDDED)}, a folder, or none (words only)."
)
@_as_json
def build_command(what: str, out: Path | None, path: Path | None, encoder: str, as_json: bool) -> None:
    """Read, screen and index knowledge: atomic, esc-graph, heal, or a file of a clinic's own vetted cases.

    Example: heedful knowledge build esc-graph
    """
    begun = time.monotonic()
    made = build(
        what,
        out=out,
        path=path,
        encoder=None if encoder == "none" else encoder,
        say=lambda text: click.echo(text, err=True),
    )
    report = _report(made, time.monotonic() - begun)
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    table = Table("kind", "kept", "left out", "why")
    for kind, row in report["kinds"].items():
        why = ", ".join(f"{name} {n:,}" for name, n in row["why"].items())
        table.add_row(kind, f"{row['kept']:,}", f"{sum(row['why'].values()):,}", why)
    Console(highlight=False).print(table)
    if made.unmarked:
        click.echo(f"{made.unmarked:,} of these were stopped by the screen; the data do not mark them.")
    click.echo(f"edges: {report['edges']:,} kept, {made.cut:,} cut with what was left out")
    for text, n in made.left_out.items():
        click.echo(f"not taken: {n:,} {text}")
    click.echo(f"{report['folder']}: {report['fingerprint']}, {report['seconds']:.1f} s")


def _report(made: Built, seconds: float) -> dict[str, Any]:
    index = made.index
    return {
        "folder": str(index.folder),
        "fingerprint": index.fingerprint,
        "kinds": {
            kind: {"kept": index.count(kind), "why": dict(made.stopped.get(kind, {}))}
            for kind in sorted({*index.kinds, *made.stopped})
        },
        "unmarked": made.unmarked,
        "edges": index.manifest["edges"],
        "edges cut": made.cut,
        "not taken": dict(made.left_out),
        "data": dict(index.manifest["data"]),
        "encoder": index.manifest["encoder"],
        "seconds": round(seconds, 1),
    }


@knowledge_group.command("search")
@click.argument("folder", metavar="DIR")
@click.argument("words")
@click.option("--method", type=click.Choice(METHODS), help="hybrid if the index has vectors, else bm25.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(min=1), help="How many items.")
@click.option("--kind", "kinds", multiple=True, help="Only items of this kind; may be given several times.")
@_data
@_show_text
@_as_json
def search_command(
    folder: str,
    words: str,
    method: Any,
    k: int,
    kinds: tuple[str, ...],
    data: Path | None,
    show_text: bool,
    as_json: bool,
) -> None:
    """The items that fit some words best: rank, id, kind, score.

    Example: heedful knowledge search cases "cannot sleep" --show-text
    """
    index = Index.open(folder)
    _verify(index, data)
    method = method or ("hybrid" if index.manifest["encoder"] else "bm25")
    hits = index.search(words, method=method, k=k, kinds=kinds)
    rows = []
    for rank, hit in enumerate(hits, start=1):
        row: dict[str, Any] = {"rank": rank, "id": hit.id, "kind": hit.kind, "score": round(hit.score, 4)}
        item = index.at(hit.row)
        if item.why is not None:
            row["why"] = item.why
        elif show_text:
            row["text"] = item.text
        rows.append(row)
    if as_json:
        found = {"index": index.fingerprint, "method": method, "hits": rows}
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    if not rows:
        click.echo("Nothing fits these words.")
        return
    table = Table("rank", "id", "kind", "score", *(["text"] if show_text else []))
    for row in rows:
        words_of = [escape(row.get("text", f"left out: {row.get('why')}"))] if show_text else []
        table.add_row(str(row["rank"]), escape(row["id"]), row["kind"], f"{row['score']:.4f}", *words_of)
    Console(highlight=False).print(table)
    click.echo(f"{index.fingerprint}, {method}{'' if show_text else '; --show-text prints the words'}")


@knowledge_group.command("show")
@click.argument("folder", metavar="DIR")
@click.argument("id")
@_data
@_show_text
@_as_json
def show_command(folder: str, id: str, data: Path | None, show_text: bool, as_json: bool) -> None:
    """One item: where it comes from, what it is linked with, and whether it was left out.

    Example: heedful knowledge show cases c-017 --show-text
    """
    index = Index.open(folder)
    _verify(index, data)
    item = index.item(id)
    record = _outline(item, show_text=show_text)
    if as_json:
        click.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    for key, value in record.items():
        if key == "links":
            click.echo(f"links: {len(value):,}")
            for link in value[:20]:
                click.echo(f"  {link['to']} ({link['weight']:g})")
        else:
            click.echo(f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    if item.safe and not show_text:
        click.echo("The words stay hidden; --show-text prints them.")


def _verify(index: Index, data: Path | None) -> None:
    if not index.verify(data):
        click.echo("The data that this index was built from are not at hand, so they were not compared.", err=True)


def _outline(item: Item, *, show_text: bool) -> dict[str, Any]:
    record: dict[str, Any] = {"id": item.id, "kind": item.kind, "source": item.source, "weight": item.weight}
    if item.why is not None:
        return {**record, "left out": item.why}
    record["taken from"] = list(item.origins)
    record["links"] = [{"to": link.to, "weight": link.weight} for link in item.links]
    # Who vetted a case and when are no client's words.
    public = ("vetted_by", "date")
    record |= {key: item.extra[key] for key in public if key in item.extra}
    if show_text:
        record |= {"text": item.text, **{key: value for key, value in item.extra.items() if key not in public}}
    return {key: value for key, value in record.items() if value != []}
