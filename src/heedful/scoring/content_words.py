"""Words that carry content: what KEMI's Information and Repetition count.

The definition is a set of Snowball stems of lower-cased alphanumeric tokens that are no stopwords and that a tagger
calls noun or verb (kemi.md, part B). It needs two sets of NLTK data, which heedful does not ship. Where they are
missing, a filter stands in: alphabetic tokens that are no function word, adjectives and adverbs among them. Counts
under the two are not comparable, so the second carries a star in its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from heedful.scoring.text import needs_eval, published_tokens, sentences
from heedful.scoring.treebank import treebank_tokens

How = Literal["tagger", "filter"]


@cache
def function_words() -> frozenset[str]:
    """The words of `function_words.txt` beside this file."""
    text = files("heedful.scoring").joinpath("function_words.txt").read_text("utf-8")
    return frozenset(word for line in text.splitlines() for word in line.partition("#")[0].split())


def content_words(text: str) -> list[str]:
    """Lower-cased alphabetic tokens that are no function word, in order: the filter, without stems.

    >>> content_words("I can't sleep, and my sister has not called.")
    ['sleep', 'sister', 'called']
    """
    return [t for t in published_tokens(text) if t.isalpha() and t not in function_words()]


@dataclass(frozen=True, kw_only=True)
class Words:
    """Text -> set of stems W(t). Make one with `load_words`.

    Args:
        how: `tagger` as published, `filter` where its data are missing.
        star: what is put behind the name of a metric that counts with it.
        stem: word -> stem.
        tag, stopwords: of the tagger's definition; the filter has a list of its own (`function_words`).
    """

    how: How
    star: str
    stem: Callable[[str], str] = field(repr=False)
    tag: Callable[[list[str]], list[tuple[str, str]]] | None = field(default=None, repr=False)
    stopwords: frozenset[str] = field(default=frozenset(), repr=False)
    _seen: dict[str, frozenset[str]] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, text: str) -> frozenset[str]:
        """W(t) of one text; each text is read once."""
        if text not in self._seen:
            self._seen[text] = frozenset(self.stem(word) for word in self._content(text))
        return self._seen[text]

    def _content(self, text: str) -> list[str]:
        if self.tag is None:
            return content_words(text)
        tagged = [pair for piece in sentences(text.lower()) for pair in self.tag(list(treebank_tokens(piece)))]
        return [w for w, tag in tagged if w.isalnum() and w not in self.stopwords and tag[:1] in ("N", "V")]


@cache
def load_words() -> Words:
    """As published where NLTK's tagger and stopwords are installed, else the filter with its star.

    Raises:
        MissingExtraError: NLTK itself is not installed.
    """
    stemmer = needs_eval("nltk.stem.snowball").SnowballStemmer("english")
    data: Any = needs_eval("nltk.data")
    try:
        data.find("taggers/averaged_perceptron_tagger_eng")
        data.find("corpora/stopwords")
    except LookupError:
        return Words(how="filter", star="*", stem=stemmer.stem)
    stopwords = frozenset(needs_eval("nltk.corpus").stopwords.words("english"))
    return Words(how="tagger", star="", stem=stemmer.stem, tag=needs_eval("nltk").pos_tag, stopwords=stopwords)
