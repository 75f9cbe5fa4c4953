"""Invented conversations with labels of several layers; equal seeds give equal conversations."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from heedful import taxonomy
from heedful.types import Conversation, Label, Role, Turn

STRATEGY_SET = "esconv_strategy"
EMOTION_SET = "mesc_emotion"

SEEKER = (
    "Hello, is someone there?",
    "I have not slept well since the move.",
    "My new flat is quiet, too quiet for me.",
    "Work asks more of me every week, and I say yes every time.",
    "My sister and I stopped talking in March.",
    "I burst into tears at the bus stop today.",
    "Honestly, I do not know where to start.",
    "Maybe. I never looked at it like that.",
    "Yes, twice, and it went wrong both times.",
    "It is my 3rd exam, and I am 41 years old!",
    "The café downstairs is the only place where I talk to people.",
    "Thank you, that helps a little.",
    "I am angry at him, and then angry at myself.",
    "No.",
)
SUPPORTER = (
    "Hi, I am here. What brings you here today?",
    "That sounds like a lonely time.",
    "What would a good evening look like for you?",
    "You carried this for a long while, and still you came here.",
    "When I moved, I missed the noise of the old street as well.",
    "So the quiet reminds you of what you left behind?",
    "You could write down one thing that went well each day.",
    "Many people sleep badly in the first weeks at a new place.",
    "Take your time, there is no right way to begin.",
    "It is understandable that you feel hurt.",
    "Would it help to tell her exactly that?",
    "You are welcome. I am glad that you wrote.",
)


def conversation(
    *texts: str,
    id: str = "toy",
    first: Role = "user",
    labels: Mapping[int, Mapping[str, str]] | None = None,
    **fields: Any,
) -> Conversation:
    """A conversation out of `texts`, the speakers taking turns.

    Args:
        texts: what is said; without any, a talk of six labelled turns.
        id: of the conversation.
        first: who speaks first, `user` or `assistant`.
        labels: turn index -> {label set: value}.
        fields: other fields of `Conversation`.
    """
    if not texts:
        return conversations(1, turns=6, id=id)[0]
    roles: tuple[Role, Role] = ("user", "assistant") if first == "user" else ("assistant", "user")
    marks = labels or {}
    turns = tuple(
        Turn(
            role=roles[i % 2],
            text=text,
            labels=tuple(Label(set=name, value=value) for name, value in marks.get(i, {}).items()),
        )
        for i, text in enumerate(texts)
    )
    return Conversation(id=id, turns=turns, **{"source": "heedful.testing", "licence": "Apache-2.0", **fields})


def conversations(n: int, seed: int = 0, *, turns: int | None = None, id: str | None = None) -> list[Conversation]:
    """`n` random conversations: supporter turns carry a strategy, all turns an emotion, some of both are unlabelled.

    Conversation i depends on `seed` and i alone. Seekers sometimes write twice in a row, supporters sometimes open.

    Args:
        turns: number of turns of each; 4 to 9 if None. With a number, the speakers alternate and every turn is
            labelled, so the number of targets is known.
        id: of the first conversation (the others get a number); `toy-<seed>-<i>` if None.
    """
    names = [f"toy-{seed}-{i}" if id is None else (id if i == 0 else f"{id}-{i}") for i in range(n)]
    return [_random(name, random.Random(f"{seed}/{i}"), turns=turns) for i, name in enumerate(names)]


def _random(name: str, draw: random.Random, *, turns: int | None) -> Conversation:
    roles: list[Role] = ["user"]
    size = turns or draw.randint(4, 9)
    if turns is None and draw.random() < 0.2:
        roles = ["assistant"]
    while len(roles) < size:
        again = turns is None and draw.random() < 0.15
        other: Role = "assistant" if roles[-1] == "user" else "user"
        roles.append(roles[-1] if again else other)
    sure = turns is not None
    return Conversation(
        id=name,
        source="heedful.testing",
        licence="Apache-2.0",
        turns=tuple(_turn(role, draw, sure=sure) for role in roles),
        situation="I moved and I miss the people from before.",
        problem_type="job crisis",
        survey={"relevance": float(draw.randint(1, 5)), "empathy": None},
    )


def _turn(role: Role, draw: random.Random, *, sure: bool) -> Turn:
    pool: Sequence[str] = SEEKER if role == "user" else SUPPORTER
    text = " ".join(draw.sample(pool, draw.choice((1, 1, 2))))
    labels: list[Label] = []
    if role == "assistant" and (sure or draw.random() < 0.9):
        labels.append(Label(set=STRATEGY_SET, value=draw.choice(taxonomy.get(STRATEGY_SET).names)))
    if sure or draw.random() < 0.8:
        labels.append(Label(set=EMOTION_SET, value=draw.choice(taxonomy.get(EMOTION_SET).names)))
    return Turn(role=role, text=text, labels=tuple(labels))
