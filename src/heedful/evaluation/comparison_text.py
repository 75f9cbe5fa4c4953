"""A comparison as Markdown, for documents: the numbers of its page, pictures by reference, no word of the corpus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def markdown(summary: Mapping[str, Any], pictures: Iterable[str], *, folder: str = "pictures") -> str:
    """The text.

    Args:
        pictures: their names.
        folder: where they lie, as the document sees it.
    """
    corpus, about = summary["corpus"], summary["strategies"]
    parts = [f"# {summary['title']}", _protocol(summary), "## Replies", *_replies(summary)]
    if about is not None:
        parts += ["## Strategies", *_strategies(summary), *_drawn(sorted(pictures), folder)]
    if summary["published"]:
        parts += ["## Published rows of the same protocol", *(_published(table) for table in summary["published"])]
    parts += ["## What these numbers cannot say", "\n".join(f"- {limit}" for limit in summary["limits"])]
    parts += ["## Again", f"    {summary['command']}", f"Made {summary['created']}, data {corpus['hash']}."]
    return "\n\n".join(part for part in parts if part) + "\n"


def _protocol(summary: Mapping[str, Any]) -> str:
    corpus = summary["corpus"]
    decodings = "; ".join(
        f"“{name}”: " + ", ".join(f"{key} {value}" for key, value in about.items() if value not in (None, [], False))
        for name, about in summary["decodings"].items()
    )
    return (
        f"{corpus['title']}, part “{corpus['split']}”: {corpus['conversations']:,} dialogues, {corpus['targets']:,} "
        f"replies. Every system answers at the same places, with the same decoding where it writes ({decodings}). "
        f"Seed {summary['seed']}, "
        f"{summary['bootstrap']:,} draws of whole dialogues for 95 % intervals."
    )


def _replies(summary: Mapping[str, Any]) -> list[str]:
    metrics = summary["metrics"]
    names = [system["name"] for system in summary["systems"]]
    tables = []
    for decoding, scores in summary["scores"].items():
        head = [f"{decoding}, 95 % intervals", *names]
        rows = [
            [about["title"], *(_estimate((scores.get(name) or {}).get(metric)) for name in names)]
            for metric, about in metrics.items()
        ]
        tables.append(_table(head, rows))
    found = [finding["text"] for finding in summary["findings"]]
    if found:
        tables.append("In short, written by rule from paired differences over dialogues:")
        tables.append("\n".join(f"- {text}" for text in found))
        looks = summary["looks"]
        tables.append(
            f"Every difference is tested by itself: of {looks:,} that were looked at, up to about {looks * 0.05:.0f} "
            "would be called beyond chance if all systems were alike."
        )
    return tables


def _strategies(summary: Mapping[str, Any]) -> list[str]:
    about, floors = summary["strategies"], summary["floors"] or {"strategies": []}
    columns = list(next(iter(about["systems"].values()), {"scores": {}})["scores"])
    titles = {"accuracy": "accuracy", "macro_f1": "macro-F1", "weighted_f1": "weighted-F1", "top3": "top-3"}
    head = ["who", "chosen by", *(titles.get(name, name.replace("_", " ")) for name in columns)]
    rows = [
        [name, found["choose"], *(_estimate(found["scores"].get(column)) for column in columns)]
        for name, found in about["systems"].items()
    ]
    rows += [
        [floor["title"], "floor", *(_estimate(floor["scores"].get(column)) for column in columns)]
        for floor in floors["strategies"]
    ]
    handed = f"Handed over, and so not scored: {', '.join(about['handed'])}." if about["handed"] else ""
    return [_table(head, rows), handed]


def _drawn(pictures: Sequence[str], folder: str) -> list[str]:
    out = []
    for kind, said in (
        ("progress-", "Shares of the strategies in each fifth of the dialogues: the corpus, then each system."),
        ("confusion-", "Rows: the corpus' label. Columns, by number: what was chosen."),
    ):
        mine = [name for name in pictures if name.startswith(kind)]
        mine.sort(key=lambda name: name != "progress-gold")
        if mine:
            out += [said, *(f"![{name}]({folder}/{name}.svg)" for name in mine)]
    return out


def _published(table: Mapping[str, Any]) -> str:
    block, columns = table["block"], table["columns"]
    rows = [
        [
            row["system"],
            *(
                ("?" if name in row["unknown"] else str(row["printed"].get(name, "—")))
                + ("*" if name in row["withdrawn"] else "")
                for name in columns
            ),
            row["source"],
        ]
        for row in table["rows"]
    ]
    said = f"Block {block['id']}: {block['title']}, {table['about']}; n = {block['test_size']}. {table['caveat']}"
    return f"{said.strip()}\n\n{_table(['system', *columns.values(), 'source'], rows)}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def _estimate(found: Mapping[str, Any] | None) -> str:
    """A figure with its interval; missing is a dash."""
    if not found or found.get("value") is None:
        return "—"
    ends = "" if found.get("low") is None else f" ({found['low']:.2f} to {found['high']:.2f})"
    return f"{found['value']:.2f}{ends}"
