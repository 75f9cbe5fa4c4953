"""Published numbers on ESConv, one protocol at a time (`anchors.toml`).

Equal-looking columns of different papers are about different splits, turns, labels and definitions. So a row belongs to
a block, `table` gives the rows of one block only, and a table says which one it is. There is no function that gives
rows of two.

>>> from heedful.scoring import anchors
>>> found = anchors.table("Z+", "strategies")
>>> found.block.test_size, found.rows[0].system, found.rows[0].values["macro_f1"]
('2,895 turns', 'EmoDynamiX', 27.7)
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal, get_args

from heedful.errors import ConfigError, DataError, NotFoundError, nearest

About = Literal["replies", "strategies"]
"""What a table is about: generated replies (with strategy accuracy where a paper has it), or strategy prediction alone,
where all rows are said to be re-run by one paper on one split."""
Kind = Literal["published", "reproduction", "measured", "prompted", "oracle", "floor"]
"""published: by the system's authors. reproduction: by others, from the code. measured: computed here on released
outputs. prompted: a language model without training. oracle: is told the gold strategy, an upper bound. floor: trivial,
measured here."""
HEADINGS = {
    "accuracy": "ACC",
    "macro_f1": "macro-F1",
    "weighted_f1": "weighted-F1",
    "preference_bias": "bias",
    "perplexity": "PPL",
    "bleu2": "B-2",
    "bleu4": "B-4",
    "rougeL_published": "R-L",
    "distinct1_published": "D-1",
    "distinct2_published": "D-2",
}
"""Column -> its heading in papers, in the order in which columns are shown."""
WITHDRAWN = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A protocol: what was split how, and what was tested."""

    id: str
    title: str
    split: str
    unit: str
    test_size: str
    leak_free: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """One published row.

    Args:
        block: id of its protocol.
        split: as its source states it.
        printed: value as its source prints it, by the names of `HEADINGS`; a missing one was not reported or has no
            meaning there.
        unknown: columns that exist in the paper and are not known.
        withdrawn: columns whose value the authors took back.

    Raises:
        DataError: an unknown kind or column, or a value that is no number.
    """

    block: str
    system: str
    kind: Kind
    split: str
    source: str
    year: int | None = None
    printed: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "printed", MappingProxyType(dict(self.printed)))
        for name in ("unknown", "withdrawn"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.kind not in get_args(Kind):
            raise DataError(
                f"The published row '{self.system}' must be {', '.join(get_args(Kind))}, but its kind is '{self.kind}'."
            )
        if stray := sorted({*self.printed, *self.unknown, *self.withdrawn} - set(HEADINGS)):
            raise DataError(
                f"The published row '{self.system}' has unknown columns: {', '.join(stray)}. Known: "
                f"{', '.join(HEADINGS)}."
            )
        try:
            tuple(map(float, self.printed.values()))
        except ValueError:
            raise DataError(f"The published row '{self.system}' holds a value that is no number.") from None

    @property
    def values(self) -> dict[str, float]:
        """The printed values as numbers."""
        return {name: float(text) for name, text in self.printed.items()}

    def cell(self, column: str) -> str:
        """The value as its source prints it: `-` not reported, `?` not known, `*` withdrawn."""
        if column in self.unknown:
            return "?"
        return self.printed.get(column, "-") + (WITHDRAWN if column in self.withdrawn else "")


@dataclass(frozen=True, kw_only=True)
class AnchorTable:
    """Rows of one block.

    Raises:
        ConfigError: a row of another block.
    """

    block: Block
    about: About
    rows: tuple[Anchor, ...]
    caveat: str = ""

    def __post_init__(self) -> None:
        others = sorted({row.block for row in self.rows} - {self.block.id})
        if others:
            raise ConfigError(
                f"A table of published rows is about one protocol ({self.block.id}), but rows of {', '.join(others)} "
                "were put in; their numbers are not comparable. Make one table for each."
            )

    @property
    def title(self) -> str:
        """Names the block."""
        block = self.block
        return f"Published, block {block.id}: {block.title}; {block.split}; n = {block.test_size}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that any row has."""
        named = {name for row in self.rows for name in (*row.printed, *row.unknown)}
        return tuple(name for name in HEADINGS if name in named)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, the block included."""
        return {
            "block": {name: getattr(self.block, name) for name in Block.__slots__},
            "about": self.about,
            "caveat": self.caveat,
            "columns": {name: HEADINGS[name] for name in self.columns},
            "rows": [
                {
                    **{n: getattr(row, n) for n in ("block", "system", "kind", "year", "split", "source", "note")},
                    "values": row.values,
                    "printed": dict(row.printed),
                    "unknown": list(row.unknown),
                    "withdrawn": list(row.withdrawn),
                }
                for row in self.rows
            ],
        }

    def markdown(self) -> str:
        """The table under its title, with what must be known to read it."""
        heads = ["system", "kind", *(HEADINGS[name] for name in self.columns), "source"]
        about = f"Leak-free: {self.block.leak_free}. Note: {self.block.note}. {self.caveat}".strip()
        lines = [f"**{self.title}.** {about}", ""]
        lines += [f"| {' | '.join(heads)} |", f"|---|---|{'---:|' * len(self.columns)}---|"]
        for row in self.rows:
            cells = [row.system, row.kind, *(row.cell(name) for name in self.columns), row.source]
            lines.append(f"| {' | '.join(cells)} |")
        notes = [f"- {row.system}: {row.note}" for row in self.rows if row.note]
        if any(row.withdrawn for row in self.rows):
            notes.insert(0, f"- {WITHDRAWN}: withdrawn by its authors")
        return "\n".join([*lines, *([""] if notes else []), *notes])


@cache
def _content() -> tuple[dict[str, Block], dict[About, tuple[Anchor, ...]], dict[About, str]]:
    found = tomllib.loads(files("heedful.scoring").joinpath("anchors.toml").read_text("utf-8"))
    blocks = {entry["id"]: Block(**entry) for entry in found["blocks"]}
    rows: dict[About, tuple[Anchor, ...]] = {
        about: tuple(Anchor(**entry) for entry in found[about]) for about in get_args(About)
    }
    if stray := sorted({row.block for part in rows.values() for row in part} - set(blocks)):
        raise DataError(f"anchors.toml has rows of blocks that it does not describe: {', '.join(stray)}.")
    return blocks, rows, found["caveats"]


def blocks() -> tuple[Block, ...]:
    """All protocols."""
    return tuple(_content()[0].values())


def table(block: str, about: About = "replies", *, kinds: Sequence[Kind] | None = None) -> AnchorTable:
    """The published rows of one protocol.

    Args:
        block: Z, Z?, Z+, L, D, O or X.
        kinds: only rows of these kinds.

    Raises:
        NotFoundError: no such block, or it has no rows about this.
    """
    known, rows, caveats = _content()
    if block not in known:
        raise NotFoundError(f"Unknown block '{block}'.{nearest(block, known)} Known: {', '.join(known)}.")
    if about not in rows:
        raise NotFoundError(f"Published rows are about {' or '.join(rows)}, not about '{about}'.")
    chosen = tuple(r for r in rows[about] if r.block == block and (kinds is None or r.kind in kinds))
    if not chosen:
        having = sorted({row.block for row in rows[about]})
        raise NotFoundError(f"The block {block} has no such rows about {about}; blocks with some: {', '.join(having)}.")
    return AnchorTable(block=known[block], about=about, rows=chosen, caveat=caveats[about])
