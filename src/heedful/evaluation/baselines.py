"""Trivial systems that stand beside every result: what a reader must beat before a number means anything.

A baseline is a function `(places, train) -> replies`; one function here and one line in the table make a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from heedful.formats import Format
from heedful.models.encoder import SentenceEncoder
from heedful.registry import Registry
from heedful.scoring.published import FIXED_REPLY
from heedful.types import Conversation

_HERE = "heedful.evaluation.baselines"
BASELINES = Registry(
    "baseline",
    {
        "fixed_reply": f"{_HERE}:fixed_reply",
        "copy_last_turn": f"{_HERE}:copy_last_turn",
        "nearest_reply": f"{_HERE}:nearest_reply",
        "random_reply": f"{_HERE}:random_reply",
    },
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a reply is due: the words before it and the reply that a person wrote.

    Args:
        last: the help-seeker's last turn before the place, None if there is none.
    """

    id: str
    conversation_id: str
    turn: int
    last: str | None = field(repr=False)
    reference: str = field(repr=False)


Replies = list[str | None]


def places(conv: Conversation, fmt: Format) -> list[Place]:
    """The places of a prepared conversation where `fmt` has the supporter reply, with that reply as the reference."""
    out = []
    for index in fmt.targets(conv):
        turn = fmt.target_turn(conv, index)
        if turn.role != "assistant":
            continue  # some formats also learn what help-seekers say; nobody is judged by that
        said = next((t.text for t in reversed(conv.turns[:index]) if t.role == "user"), None)
        out.append(Place(id=f"{conv.id}/{index}", conversation_id=conv.id, turn=index, last=said, reference=turn.text))
    return out


def fixed_reply(where: Sequence[Place], train: Sequence[Place], *, seed: int) -> Replies:
    """The same kind sentence everywhere."""
    return [FIXED_REPLY for _ in where]


def copy_last_turn(where: Sequence[Place], train: Sequence[Place], *, seed: int) -> Replies:
    """The help-seeker's last turn, said back; None where nobody spoke before."""
    return [place.last for place in where]


def random_reply(where: Sequence[Place], train: Sequence[Place], *, seed: int) -> Replies:
    """A reply drawn from the training part."""
    if not train:
        return [None] * len(where)
    draw = np.random.default_rng(seed).integers(0, len(train), size=len(where))
    return [train[i].reference for i in draw]


def nearest_reply(where: Sequence[Place], train: Sequence[Place], *, seed: int) -> Replies:
    """The reply that followed the most similar help-seeker turn of the training part (MiniLM, cosine).

    Replies of the same conversation are never taken, should a corpus without splits be used.
    """
    known = [p for p in train if p.last]
    asked = [i for i, p in enumerate(where) if p.last]
    out: Replies = [None] * len(where)
    if not known or not asked:
        return out
    encoder = SentenceEncoder.load()
    texts = list(dict.fromkeys(p.last or "" for p in known))
    row_of = {text: row for row, text in enumerate(texts)}
    table = encoder.encode(texts)
    followers: dict[int, list[Place]] = {}
    for place in known:
        followers.setdefault(row_of[place.last or ""], []).append(place)
    for begin in range(0, len(asked), 512):
        part = asked[begin : begin + 512]
        scores = encoder.encode([where[i].last or "" for i in part]) @ table.T
        for i, row in zip(part, scores, strict=True):
            out[i] = _first_of_another_talk(where[i], np.argsort(-row)[:50].tolist(), followers)
    return out


def _first_of_another_talk(place: Place, order: Sequence[int], followers: dict[int, list[Place]]) -> str | None:
    for row in order:
        for found in followers[row]:
            if found.conversation_id != place.conversation_id:
                return found.reference
    return None
