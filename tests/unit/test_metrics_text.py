"""Tokenisations and counts against the libraries they stand for, and against slow and obvious code."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heedful.scoring.text import Encoded, lcs_length, published_tokens, rouge_tokens, sentences, tokens_13a
from heedful.scoring.treebank import treebank_tokens

PIECES = (
    *("'", "''", '"', "`", "``", " ", "  ", ".", "..", "...", ",", ":", "?", "!", "cannot", "wanna", "gonna", "'tis"),
    *("'twas", "more'n", "d'ye", "I", "don't", "we'll", "s", "'s", "9", "1,000", "3.5", "-", "--", "—", "(", ")", "["),
    *("]", "{", "}", "<", ">", "*", "#", "&amp;", "&", "«", "”", "’", "“", "é", "\n", "\t", "a", "Ab", "\u00a0", "end"),
)
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=30)
rows = st.lists(
    st.lists(st.integers(0, 4), max_size=8).map(lambda ids: " ".join(map(str, ids))), min_size=1, max_size=6
)


@settings(deadline=None, max_examples=400)
@given(texts)
@example("'²")  # no word character for NLTK's `regex`, one for Python's `re`
@example("cannot²")
def test_treebank_tokens_equal_nltk(text: str) -> None:
    tokenizer = pytest.importorskip("nltk.tokenize").NLTKWordTokenizer()
    assert treebank_tokens(text) == tokenizer.tokenize(text)


@settings(deadline=None, max_examples=400)
@given(texts)
def test_13a_tokens_equal_sacrebleu(text: str) -> None:
    tokenizer = pytest.importorskip("sacrebleu.tokenizers.tokenizer_13a").Tokenizer13a()
    assert tokens_13a(text) == tokenizer(text.rstrip()).split()


@settings(deadline=None, max_examples=300)
@given(texts)
def test_rouge_tokens_equal_rouge_score(text: str) -> None:
    tokenize = pytest.importorskip("rouge_score.tokenize").tokenize
    assert rouge_tokens(text) == tokenize(text, None)


def test_published_tokens_split_sentences_first() -> None:
    # Without the split the stop after "bed" would stay glued to its word.
    assert published_tokens("I went to bed. I lay awake!") == ["i", "went", "to", "bed", ".", "i", "lay", "awake", "!"]
    assert sentences("One. Two?  Three") == ["One.", "Two?", "Three"]
    assert published_tokens("") == []


@given(rows, st.integers(1, 4))
def test_matches_equal_counters(column: list[str], order: int) -> None:
    other = column[::-1]
    encoded = Encoded.build({"hypothesis": column, "reference": other}, "space")

    def grams(text: str) -> Counter[tuple[str, ...]]:
        words = text.split()
        return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))

    assert encoded.matches(order).tolist() == [
        (grams(a) & grams(b)).total() for a, b in zip(column, other, strict=True)
    ]
    assert encoded.counts("hypothesis", order).tolist() == [grams(a).total() for a in column]
    at, ids = encoded.grams("reference", order)
    assert len(set(ids.tolist())) == len(set().union(*(grams(b) for b in other)))
    assert len(at) == sum(grams(b).total() for b in other)


@given(st.lists(st.integers(0, 3), max_size=80), st.lists(st.integers(0, 3), max_size=80))
def test_lcs_equals_the_table(a: list[int], b: list[int]) -> None:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    assert lcs_length(a, b) == table[-1][-1]
