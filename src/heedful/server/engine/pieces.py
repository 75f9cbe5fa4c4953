"""Where to pause while a prompt is read for later: between two requests the engine gives way, within one it cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

T = TypeVar("T")
PIECE: Final = 512
"""Tokens of a piece: a batch of llama.cpp, so that nothing is read less quickly."""


def cuts(coming: Sequence[T], held: Sequence[T], *, size: Callable[[T], float], last: Callable[[T], bool]) -> list[int]:
    """How far to read each time; the end of the last piece is the end of the prompt.

    Nothing ends within what is in memory already: a shorter prompt would put the rest of it out of memory.

    Args:
        coming, held: what is to be read, and what is in memory; tokens or messages.
        size: how many tokens one has.
        last: whether a piece may end with it.

    >>> cuts("a" * 1300, "a" * 200, size=lambda token: 1, last=lambda token: True)
    [712, 1224, 1300]
    """
    differ = (n for n, (one, other) in enumerate(zip(coming, held, strict=False)) if one != other)
    known = next(differ, min(len(coming), len(held)))
    found: list[int] = []
    read = 0.0
    for end in range(known + 1, len(coming)):
        read += size(coming[end - 1])
        if read >= PIECE and last(coming[end - 1]):
            found.append(end)
            read = 0.0
    return [*found, len(coming)]
