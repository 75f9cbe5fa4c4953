"""What all files of rules share: how a text is made plain before it is searched, and how patterns are written.

A pattern is a regular expression, in any case. A blank stands for any run of blanks (" ?": or for none), an apostrophe
may be missing, `<word>` is replaced by the alternatives of the table `words` (which may hold words that stand further
down), and `<start>` and `<end>` are the ends of a sentence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Literal

Pattern = re.Pattern[str]

_QUOTES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "´": "'", "`": "'", "“": '"', "”": '"'})


def plain(text: str) -> str:
    """`text` with straight quotes and without the characters that nobody sees."""
    if text.isascii():
        return text.replace("`", "'")  # nothing else of the rest is in ASCII; most texts are
    composed = unicodedata.normalize("NFKC", text.translate(_QUOTES))
    return "".join(c for c in composed if unicodedata.category(c) != "Cf")


def compiled(patterns: Sequence[str], words: Mapping[str, str], *, case: Literal["any", "small"] = "any") -> Pattern:
    """One pattern of all; see the head of this module for what its signs mean.

    Args:
        case: `small` is for texts that are in small letters already, and twice as fast.

    Raises:
        ValueError: a `<word>` that `words` does not have, or a capital where all letters are small.
    """
    joined = "|".join(f"(?:{pattern})" for pattern in patterns)
    for name, alternatives in words.items():
        joined = joined.replace(f"<{name}>", alternatives)
    joined = joined.replace("<start>", r"^[\W_]*").replace("<end>", r"[\W_]*$")
    if stray := re.search(r"(?<!\?)(?<!\(\?P)<(\w+)>", joined):
        raise ValueError(f"no word '{stray.group(1)}' is defined")
    joined = joined.replace("'", "'?").replace("'??", "'?").replace(" ?", r"\s*").replace(" ", r"\s+")
    if case == "small" and (capital := re.search(r"[A-Z]", re.sub(r"\\.", "", joined))):
        raise ValueError(f"the capital '{capital.group()}' never stands in a plain text; write it small")
    return re.compile(joined, re.IGNORECASE if case == "any" else 0)


def empty(text: str) -> bool:
    """Whether a person would see nothing: blanks, line ends and characters without a shape."""
    return not any(c.isprintable() and not c.isspace() for c in text)
