"""Word tokens of one sentence, equal to NLTK's `NLTKWordTokenizer` and faster.

The rules and their order are those of NLTK (MacIntyre's Penn Treebank script with NLTK's additions). Most of them need
a character that most sentences lack, so each group is guarded by a look for it.
"""

from __future__ import annotations

import re

import regex

_OPEN_MARKS = re.compile("([«“‘„]|[`]+)")
_QUOTE_FIRST = re.compile(r"^\"")
_BACKTICKS = re.compile(r"(``)")
_QUOTE_OPENS = re.compile(r"([ \(\[{<])(\"|\'{2})")
_APOSTROPHE_OPENS = re.compile(r"(?i)(?<!\w)(\')(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)")
_STOP_LAST = re.compile(r"([^\.])(\.)([\]\)}>\"\'»”’ ]*+)\s*$")
_STOP_LAST_PLAIN = re.compile(r'([^\.])(\.)([\]\)}>"\']*)\s*$')
_COLON_COMMA = re.compile(r"([:,])([^\d])")
_COLON_COMMA_LAST = re.compile(r"([:,])$")
_DOTS = re.compile(r"\.{2,}")
_SYMBOL = re.compile(r"[;@#$%&]")
_DASH = re.compile(r"[\u2012-\u2015]")
_ASK = re.compile(r"[?!]")
_APOSTROPHE_CLOSES = re.compile(r"([^'])' ")
_BRACKET = re.compile(r"[\]\[\(\)\{\}\<\>]")
_CLOSE_MARKS = re.compile("([»”’])")
_SPACES = re.compile(r"\s+")
_CLITIC_SHORT = re.compile(r"([^' ])('[sS]|'[mM]|'[dD]|') ")
_CLITIC_LONG = re.compile(r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ")
_FUSED = tuple(
    (word, re.compile(pattern))
    for word, pattern in (
        ("cannot", r"(?i)\b(can)(not)\b"),
        ("d'ye", r"(?i)\b(d)('ye)\b"),
        ("gimme", r"(?i)\b(gim)(me)\b"),
        ("gonna", r"(?i)\b(gon)(na)\b"),
        ("gotta", r"(?i)\b(got)(ta)\b"),
        ("lemme", r"(?i)\b(lem)(me)\b"),
        ("more'n", r"(?i)\b(more)('n)\b"),
        ("wanna", r"(?i)\b(wan)(na)(?=\s)"),
        ("'tis", r"(?i) ('t)(is)\b"),
        ("'twas", r"(?i) ('t)(was)\b"),
    )
)
# NLTK compiles this one with `regex`, for which a superscript two is no word character and a combining mark is one; for
# `re` it is the other way round. In ASCII they agree, and `re` is faster.
_APOSTROPHE_OPENS_WIDE = regex.compile(_APOSTROPHE_OPENS.pattern)
_RARE = re.compile("[«“‘„`\"»”’;@#$%&*\u2012-\u2015\\[\\](){}<>]|--|''")


def treebank_tokens(sentence: str) -> list[str]:
    """Tokens of one sentence; case is kept."""
    text = sentence
    rare = _RARE.search(text) is not None
    apostrophe, plain = "'" in text, text.isascii()
    if rare:
        text = _OPEN_MARKS.sub(r" \1 ", text)
        text = _QUOTE_FIRST.sub(r"``", text)
        text = _BACKTICKS.sub(r" \1 ", text)
        text = _QUOTE_OPENS.sub(r"\1 `` ", text)
    if apostrophe:
        text = (_APOSTROPHE_OPENS if plain else _APOSTROPHE_OPENS_WIDE).sub(r"\1 ", text)
    text = _punctuation(text, rare=rare, apostrophe=apostrophe)
    text = f" {text} "
    if rare:
        text = _CLOSE_MARKS.sub(r" \1 ", text)
        text = text.replace("''", " '' ").replace('"', " '' ")
    text = _SPACES.sub(" ", text)
    if apostrophe or rare:
        text = _CLITIC_SHORT.sub(r"\1 \2 ", text)
        text = _CLITIC_LONG.sub(r"\1 \2 ", text)
    lower = text.lower()
    for word, pattern in _FUSED:
        if word in lower:
            text = pattern.sub(r" \1 \2 ", text)
    return text.split()


def _punctuation(text: str, *, rare: bool, apostrophe: bool) -> str:
    stop = "." in text
    if stop:
        text = _STOP_LAST.sub(r"\1 \2 \3 ", text)
    if "," in text or ":" in text:
        text = _COLON_COMMA.sub(r" \1 \2", text)
        text = _COLON_COMMA_LAST.sub(r" \1 ", text)
    if stop:
        text = _DOTS.sub(r" \g<0> ", text)
    if rare:
        text = _SYMBOL.sub(r" \g<0> ", text)
        text = _DASH.sub(r" \g<0> ", text)
    if stop:
        text = _STOP_LAST_PLAIN.sub(r"\1 \2\3 ", text)
    if "?" in text or "!" in text:
        text = _ASK.sub(r" \g<0> ", text)
    if apostrophe:
        text = _APOSTROPHE_CLOSES.sub(r"\1 ' ", text)
    if rare:
        text = text.replace("*", " * ")
        text = _BRACKET.sub(r" \g<0> ", text)
        text = text.replace("--", " -- ")
    return text
