"""WordNet synonyms of single words, read straight from the database files.

NLTK needs seconds to load WordNet because it parses every line. METEOR asks for a few thousand words only, so here an
index line is parsed when its word is asked for. The words found are those of
`{lemma.name() for synset in nltk.corpus.wordnet.synsets(word) for lemma in synset.lemmas()}` without compounds.

The files are looked for where NLTK looks: `corpora/wordnet` under NLTK_DATA, as a folder or as `wordnet.zip`.
`scripts/wordnet.py` assembles the folder from the Debian packages.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path

from heedful.errors import NotFoundError
from heedful.scoring.text import needs_eval

HOW_TO = (
    "METEOR needs WordNet, which is not here: run scripts/wordnet.py (from the Debian packages wordnet-base and "
    "wordnet-sense-index) or nltk.download('wordnet'), or ask for meteor_exact_stem."
)
_MARKER = re.compile(r"\([^()]*\)$")
# Part of speech -> rules of detachment (ending, replacement), as in WordNet's morphy(7).
_DETACH: dict[str, tuple[tuple[str, str], ...]] = {
    "noun": (
        ("s", ""),
        ("ses", "s"),
        ("ves", "f"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    "verb": (
        ("s", ""),
        ("ies", "y"),
        ("es", "e"),
        ("es", ""),
        ("ed", "e"),
        ("ed", ""),
        ("ing", "e"),
        ("ing", ""),
    ),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}


class _Part:
    """Index, data and exceptions of one part of speech."""

    def __init__(self, name: str, read: Callable[[str], bytes]) -> None:
        self.rules = _DETACH[name]
        self._read = read
        self._name = name

    @cached_property
    def index(self) -> dict[str, str]:
        lines = self._read(f"index.{self._name}").decode("utf-8").split("\n")
        return {line[: line.find(" ")]: line for line in lines if line and line[0] != " "}

    @cached_property
    def data(self) -> bytes:
        return self._read(f"data.{self._name}")

    @cached_property
    def exceptions(self) -> dict[str, list[str]]:
        lines = self._read(f"{self._name}.exc").decode("utf-8").split("\n")
        return {terms[0]: terms[1:] for terms in map(str.split, lines) if terms}

    def forms(self, word: str) -> Iterator[str]:
        """Base forms of `word` that the index knows, each once."""
        bases = self.exceptions.get(word)
        if bases is None:
            bases = [word[: -len(old)] + new for old, new in self.rules if word.endswith(old)]
        yield from (form for form in dict.fromkeys((word, *bases)) if form in self.index)

    def lemmas(self, form: str) -> Iterator[str]:
        """Lemma names of all synsets of an indexed form, syntactic markers removed."""
        fields = self.index[form].split()
        for offset in fields[-int(fields[2]) :]:
            start = int(offset)
            line = self.data[start : self.data.find(b"|", start)].decode("utf-8").split()
            for at in range(int(line[3], 16)):
                yield _MARKER.sub("", line[4 + 2 * at])


class WordNet:
    """Synonym look-up with memory. `read` maps a file name of the database to its content."""

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._parts = [_Part(name, read) for name in _DETACH]
        self._known: dict[str, frozenset[str]] = {}

    def synonyms(self, word: str) -> frozenset[str]:
        """`word` and every one-word lemma that shares a synset with one of its base forms."""
        known = self._known.get(word)
        if known is None:
            lower = word.lower()
            names = (n for part in self._parts for form in part.forms(lower) for n in part.lemmas(form))
            known = self._known[word] = frozenset((word, *(name for name in names if "_" not in name)))
        return known


def find() -> str | None:
    """Where WordNet lies (a folder, or a zip file), or None.

    Raises:
        MissingExtraError: NLTK is not installed.
    """
    data = needs_eval("nltk.data")
    for folder in data.path:
        corpora = Path(folder) / "corpora"
        if (corpora / "wordnet" / "index.noun").is_file():
            return str(corpora / "wordnet")
        if (corpora / "wordnet.zip").is_file():
            return str(corpora / "wordnet.zip")
    return None


@cache
def load(where: str) -> WordNet:
    """The database in a folder or in NLTK's zip file."""
    if not where.endswith(".zip"):
        return WordNet(lambda name: (Path(where) / name).read_bytes())
    archive = zipfile.ZipFile(where)
    return WordNet(lambda name: archive.read(f"wordnet/{name}"))


def wordnet() -> WordNet:
    """WordNet from where NLTK looks for it.

    Raises:
        NotFoundError: it is not there.
    """
    where = find()
    if where is None:
        raise NotFoundError(HOW_TO)
    return load(where)
