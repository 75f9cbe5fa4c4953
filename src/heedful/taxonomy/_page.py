"""The label sets as one Markdown page (`docs/labels.md`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from heedful.taxonomy._files import crosswalk, crosswalks, get, names
from heedful.taxonomy._sets import Crosswalk, LabelInfo, LabelSet

_COLUMNS: tuple[tuple[str, Callable[[LabelInfo], str]], ...] = (
    ("id", lambda label: str(label.id)),
    ("name", lambda label: label.name),
    ("long name", lambda label: label.title if label.title != label.name else ""),
    ("group", lambda label: label.group),
    ("meaning", lambda label: label.meaning),
    ("cue", lambda label: label.cue),
    ("not when", lambda label: label.not_when),
    ("items", lambda label: ", ".join(map(str, label.items))),
    ("also written", lambda label: ", ".join(label.aliases)),
    ("counted here, with loss", lambda label: ", ".join(label.lossy)),
)

_INTRO = """# Label sets

This page is written by `heedful.taxonomy.markdown()` from the TOML files in `src/heedful/taxonomy/`; change those, not
this. Meanings, cues and warnings are heedful's own words; names are the sources' own. A hash covers all of a set:
results under different hashes are not compared. None of these labels is a diagnosis.
"""


def markdown() -> str:
    """All label sets and crosswalks as one Markdown page, ending in a line break. Same files, same text."""
    parts = [_INTRO, *(_set_section(get(name)) for name in names()), "## Crosswalks\n"]
    parts += [_crosswalk_section(crosswalk(source, target)) for source, target in crosswalks()]
    return "\n".join(parts)


def _set_section(labels: LabelSet) -> str:
    # A column that is empty for the whole set would only take up width.
    used = [(head, cell) for head, cell in _COLUMNS if any(cell(label) for label in labels.labels)]
    rows = [[cell(label) for _, cell in used] for label in labels.labels]
    many = "one label" if labels.cardinality == "single" else "any number of labels"
    facts = f"{len(labels)} labels · version {labels.version} · hash `{labels.hash}` · {many} per unit"
    head = f"## `{labels.name}`: {labels.title}\n\n{facts}\n\nSource: {labels.source}\n\n"
    return head + _table([name for name, _ in used], rows)


def _crosswalk_section(walk: Crosswalk) -> str:
    rows = [[source, target if target is not None else "(none)"] for source, target in walk.table.items()]
    head = f"### `{walk.source.name}` to `{walk.target.name}`\n\nLoss: {walk.loss}\n\n"
    return head + _table([walk.source.name, walk.target.name], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
