"""LabelInfo, LabelSet and Crosswalk: the records that the TOML files become."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal, TypeAlias

from heedful.errors import LabelError, shown

Cardinality: TypeAlias = Literal["single", "multi"]
"""How many labels of a set one turn may carry: exactly one, or several."""

_NO_BRACKETS = dict.fromkeys(map(ord, "()[]{}<>"))


@lru_cache(maxsize=4096)
def normalise(raw: str) -> str:
    """The form in which labels are compared: NFKC, without brackets, one blank between words, case-folded.

    >>> normalise(" [Open\\u00a0 Question] ")
    'open question'
    """
    return " ".join(unicodedata.normalize("NFKC", raw).translate(_NO_BRACKETS).split()).casefold()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelInfo:
    """One label.

    Args:
        id: its number inside models; 0 to n-1 in the order of the file.
        name: the canonical string that data hold.
        title: the long name for people (equal to `name` where the name is readable as it is).
        meaning: what it says, in one line.
        cue: what to look for when giving it ('' where the meaning says enough).
        not_when: the case that looks like it and is not ('' where none is known).
        group: the heading it belongs under ('' in flat sets).
        aliases: other spellings that mean exactly this label.
        lossy: names from other lists that are counted here although they mean something wider or slightly different.
        items: numbers of the questionnaire items behind it (the DMRS Q-sort only).
    """

    id: int
    name: str
    title: str
    meaning: str
    cue: str = ""
    not_when: str = ""
    group: str = ""
    aliases: tuple[str, ...] = ()
    lossy: tuple[str, ...] = ()
    items: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """A closed list of labels. `hash` covers everything in it: results under different hashes are not compared."""

    name: str
    version: str
    title: str
    source: str
    cardinality: Cardinality
    labels: tuple[LabelInfo, ...] = field(repr=False)
    hash: str

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The canonical names, in the order of their ids."""
        return tuple(label.name for label in self.labels)

    @cached_property
    def _table(self) -> dict[str, str]:
        table: dict[str, str] = {}
        # Canonical names go in last, so that no alias can ever take one over.
        for label in self.labels:
            for alias in (label.title, *label.aliases, *label.lossy):
                table[normalise(alias)] = label.name
        table.update({normalise(name): name for name in self.names})
        return table

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {label.name: label.id for label in self.labels}

    @cached_property
    def _lossy(self) -> frozenset[str]:
        return frozenset(normalise(alias) for label in self.labels for alias in label.lossy)

    def resolve(self, raw: str) -> str | None:
        """The canonical name for a raw string, or None: first names, then titles and aliases, never by similarity."""
        return self._table.get(normalise(raw))

    def is_lossy(self, raw: str) -> bool:
        """True if `raw` resolves only with a change of meaning (see `LabelInfo.lossy`)."""
        return normalise(raw) in self._lossy

    def require(self, raw: str) -> str:
        """Like `resolve`, but an unknown string is an error.

        Raises:
            LabelError: `raw` is no label of this set; the sentence lists the known ones.
        """
        found = self.resolve(raw)
        if found is None:
            # A "label" of several words is usually a column read by mistake, and may be a turn: `shown` hides it.
            named = shown(raw)
            named = named if named.startswith("'") else f"like {named}"
            close = difflib.get_close_matches(normalise(raw), self._table, n=1)
            hint = f" Did you mean '{self._table[close[0]]}'?" if close else ""
            raise LabelError(f"The label set '{self.name}' has no label {named}.{hint} Known: {', '.join(self.names)}.")
        return found

    def id_of(self, name: str) -> int:
        """The number of a label. Aliases are accepted.

        Raises:
            LabelError: no such label.
        """
        return self._ids[self.require(name)]

    def info(self, name: str) -> LabelInfo:
        """Everything known about one label. Aliases are accepted.

        Raises:
            LabelError: no such label.
        """
        return self.labels[self.id_of(name)]


@dataclass(frozen=True, kw_only=True)
class Crosswalk:
    """A table from one label set to another, one step only: chains would hide what each step loses.

    Args:
        source: the set it starts from.
        target: the set it leads to.
        table: every label of the source; None where the target has no counterpart.
        loss: what gets lost on the way, and where the table comes from.
    """

    source: LabelSet
    target: LabelSet
    table: Mapping[str, str | None] = field(repr=False, hash=False)
    loss: str

    def map(self, value: str) -> str | None:
        """The counterpart of `value`, or None if the target set has none.

        Raises:
            LabelError: `value` is no label of the source set.
        """
        return self.table[self.source.require(value)]
