"""What is known of ESConv, number by number: `heedful data check esconv` counts everything here again.

Expected values: Liu et al. (2021) and the released code where they print one, else measured once on the files whose
hashes the loader knows. Shares and means are rounded to the digits that are printed. Fifth of a turn: floor(5 i / L).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from heedful import taxonomy
from heedful.corpora.base import Count, Figure, find_file, gold, read_text
from heedful.errors import DataError
from heedful.types import Conversation, Turn

SET = "esconv_strategy"
SPLITS = {"train": (910, 12_271, 12_759), "valid": (195, 2_621, 2_722), "test": (195, 2_801, 2_895)}
"""Split -> dialogues, target turns, target turns with the opening."""
STRATEGIES: dict[str, tuple[int, float, int, tuple[float, ...]]] = {
    "Question": (3_801, 20.7, 566, (47.2, 19.2, 13.0, 10.9, 5.5)),
    "Restatement or Paraphrasing": (1_089, 5.9, 152, (14.4, 9.5, 3.8, 3.0, 2.4)),
    "Reflection of feelings": (1_436, 7.8, 235, (6.3, 12.5, 9.4, 7.7, 4.1)),
    "Self-disclosure": (1_713, 9.3, 264, (6.1, 12.7, 11.7, 10.9, 6.3)),
    "Affirmation and Reassurance": (2_827, 15.4, 434, (10.7, 18.8, 16.6, 18.5, 15.4)),
    "Providing Suggestions": (2_954, 16.1, 507, (2.7, 15.2, 25.4, 22.0, 14.0)),
    "Information": (1_215, 6.6, 186, (1.7, 5.4, 9.2, 10.2, 7.0)),
    "Others": (3_341, 18.2, 457, (11.0, 6.7, 10.8, 16.8, 45.3)),
}
"""Strategy -> supporter turns, their share in %, test targets, share per fifth of the train targets in %."""
SURVEY = {"initial_emotion_intensity": 4.07, "final_emotion_intensity": 2.07}
"""Means over the 1,150 talks whose seeker finished the survey."""
FEEDBACK_THIRDS = (4.07, 4.31, 4.49)
OFFICIAL = {"dev": 2_985, "test": 2_775}
"""Rows of the 1,053 release, one per supporter turn."""
FIFTHS = 5
LONG_WORDS = 8
"""A reply of so many words is hardly written twice by chance."""

_ROW = re.compile(r"(?P<weight>[01]\.0) (?P<role>[01]) (?P<turn>\d+) (?:\[(?P<strategy>[^\]]*)\] )?(?P<text>.*)", re.S)
_ALPHANUMERIC = re.compile(r"[a-z0-9]+")


def sizes(conversations: Sequence[Conversation]) -> list[Count]:
    """Dialogues, turns and targets, and where targets stand."""
    counts = []
    for split, (dialogues, targets, opening) in SPLITS.items():
        part = [c for c in conversations if c.split == split]
        counts += [
            Count(name=f"{split} dialogues", found=len(part), expected=dialogues),
            Count(name=f"{split} target turns", found=sum(len(c.targets()) for c in part), expected=targets),
            Count(
                name=f"{split} target turns with opening",
                found=sum(len(c.targets(opening=True)) for c in part),
                expected=opening,
            ),
        ]
    turns = [turn for c in conversations for turn in c.turns]
    seekers = sum(turn.role == "user" for turn in turns)
    places = [(c, i) for c in conversations for i in c.targets()]
    after_supporter = sum(c.turns[i - 1].role == "assistant" for c, i in places)
    silent = [c.split for c, i in places if all(turn.role != "user" for turn in c.turns[:i])]
    opened = sum(bool(c.turns) and c.turns[0].role == "assistant" for c in conversations)
    return [
        *counts,
        Count(name="turns", found=len(turns), expected=38_365),
        Count(name="seeker turns", found=seekers, expected=19_989),
        Count(name="turns per dialogue", found=_mean((len(c) for c in conversations), 1), expected=29.5),
        Count(name="dialogues opened by the supporter", found=opened, expected=683),
        Count(name="targets without a seeker turn before them", found=len(silent), expected=48),
        Count(name="of these in test", found=silent.count("test"), expected=7),
        Count(name="targets after a supporter turn, %", found=_share(after_supporter, len(places)), expected=17.2),
    ]


def strategies(conversations: Sequence[Conversation]) -> list[Count]:
    """Supporter turns by strategy: how many, when in the talk, and how many the test part asks for."""
    said = Counter(turn.label(SET) for c in conversations for turn in c.turns if turn.role == "assistant")
    asked = Counter(c.turns[i].label(SET) for c in conversations if c.split == "test" for i in c.targets())
    fifths = by_fifth([c for c in conversations if c.split == "train"])
    total = sum(said.values())
    counts = [Count(name="supporter turns with a strategy", found=total - said[None], expected=18_376)]
    for name, (turns, share, test, shares) in STRATEGIES.items():
        counts += [
            Count(name=f"{name}: supporter turns", found=said[name], expected=turns),
            Count(name=f"{name}: share, %", found=_share(said[name], total), expected=share),
            Count(name=f"{name}: test targets", found=asked[name], expected=test),
            Count(name=f"{name}: share per fifth of train, %", found=fifths[name], expected=shares),
        ]
    return counts


def by_fifth(conversations: Sequence[Conversation]) -> dict[str, Figure]:
    """Strategy -> its share in each fifth of the dialogue, in %, over the target turns; None where a fifth is empty."""
    table = {name: [0] * FIFTHS for name in STRATEGIES}
    totals = [0] * FIFTHS
    for c in conversations:
        for i in c.targets():
            at, value = FIFTHS * i // len(c), c.turns[i].label(SET)
            totals[at] += 1
            if value is not None:
                table[value][at] += 1
    if not all(totals):
        return dict.fromkeys(table)
    return {
        name: tuple(round(100 * n / total, 1) for n, total in zip(row, totals, strict=True))
        for name, row in table.items()
    }


def overlaps(conversations: Sequence[Conversation]) -> list[Count]:
    """What stands in more than one place: situations, and test replies that the train part knows word for word."""
    situations = {split: {c.situation for c in conversations if c.split == split} for split in SPLITS}
    known = {_words(turn) for c in conversations if c.split == "train" for turn in c.turns if turn.role == "assistant"}
    replies = [_words(c.turns[i]) for c in conversations if c.split == "test" for i in c.targets()]
    repeated = sum(reply in known for reply in replies)
    return [
        Count(name="distinct situations", found=len({c.situation for c in conversations}), expected=1_296),
        Count(
            name="situations in both train and test",
            found=len(situations["train"] & situations["test"]),
            expected=2,
        ),
        # Blanks and case aside: as written it is 3.9 %.
        Count(name="test replies that are a train reply, %", found=_share(repeated, len(replies)), expected=4.5),
        Count(name="problem types", found=len({c.problem_type for c in conversations}), expected=13),
    ]


def surveys(conversations: Sequence[Conversation]) -> list[Count]:
    """The closing survey and the feedback during the talk (needs `ESConv_reconstructed.json`)."""
    joined = [c for c in conversations if c.survey]
    done = [c for c in joined if c.survey.get("final_emotion_intensity") is not None]
    pairs = [(c.survey["initial_emotion_intensity"], c.survey["final_emotion_intensity"]) for c in done]
    falls = [first - last for first, last in pairs if first is not None and last is not None]
    thirds: list[list[int]] = [[], [], []]
    for c in conversations:
        for i, turn in enumerate(c.turns):
            stars = turn.label("feedback")
            if stars is not None:
                thirds[3 * i // len(c)].append(int(stars))
    counts = [
        Count(name="talks joined with their survey", found=len(joined), expected=1_300),
        Count(name="talks with a finished survey", found=len(done), expected=1_150),
    ]
    for name, mean in SURVEY.items():
        values = [value for c in done if (value := c.survey.get(name)) is not None]
        counts.append(Count(name=f"mean {name.replace('_', ' ')}", found=_mean(values, 2), expected=mean))
    feedback = tuple(round(sum(part) / len(part), 2) for part in thirds if part)
    return [
        *counts,
        Count(name="smallest fall of the intensity", found=min(falls, default=None), expected=1.0),
        Count(name="turns with feedback", found=sum(map(len, thirds)), expected=7_681),
        Count(name="mean feedback by thirds of the talk", found=feedback or None, expected=FEEDBACK_THIRDS),
    ]


def failed(conversations: Sequence[Conversation]) -> list[Count]:
    """The talks that did not help (`FailedESConv.json`)."""
    unfinished = sum(c.survey.get("final_emotion_intensity") is None for c in conversations)
    return [
        Count(name="failed dialogues", found=len(conversations), expected=196),
        Count(name="failed dialogues without final score", found=unfinished, expected=54),
    ]


def official(conversations: Sequence[Conversation], folder: Path) -> list[Count]:
    """The rows of the 1,053 release that lie here, and how many of their replies the zcj split trains on.

    Raises:
        DataError: a row is not `weight role turn [Strategy] text`, pieces parted by ` EOS `, or its strategy is none of
            the 8 under any of its names; the message names file and line.
    """
    known = {_letters(t.text) for c in conversations if c.split == "train" for t in c.turns if t.role == "assistant"}
    counts = []
    for part, expected in OFFICIAL.items():
        path = find_file(folder, f"official1053_{part}WithStrategy_short.tsv")
        if path is None:
            continue
        replies = list(_official_replies(path))
        long = [reply for reply in map(_letters, replies) if len(reply.split()) >= LONG_WORDS]
        counts += [
            Count(name=f"1,053 release, {part} rows", found=len(replies), expected=expected),
            Count(
                name=f"1,053 release, {part} replies of {LONG_WORDS} words that zcj train holds, %",
                found=_share(sum(reply in known for reply in long), len(long)),
            ),
        ]
    return counts


def _official_replies(path: Path) -> Iterator[str]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        pieces = [_ROW.fullmatch(piece.strip()) for piece in line.split(" EOS ")]
        last = pieces[-1]
        if last is None or None in pieces or last["role"] != "1" or last["strategy"] is None:
            raise DataError(
                f"{path}, line {number}: expected pieces 'weight role turn [Strategy] text' parted by ' EOS ', the "
                "last one a supporter's, but this row is not. Get the file again."
            )
        gold(SET, last["strategy"], where=f"{path}, line {number}")
        yield last["text"]


def tokens_in_order(folder: Path) -> str | None:
    """A problem if `strategy.json` lists other tokens than the label set, or another order; None without the file."""
    path = find_file(folder, "strategy.json")
    if path is None:
        return None
    label_set = taxonomy.get(SET)
    try:
        tokens = [label_set.resolve(token) for token in json.loads(read_text(path))]
    except (ValueError, TypeError, AttributeError):
        raise DataError(f"{path}: expected a JSON list of strategy tokens. Get the file again.") from None
    if tokens == list(label_set.names):
        return None
    return f"{path}: the tokens are not the 8 strategies in the order of their ids; models would take one for another."


def _words(turn: Turn) -> str:
    return " ".join(turn.text.lower().split())


def _letters(text: str) -> str:
    """The 1,053 release is tokenised otherwise, so punctuation is not compared."""
    return " ".join(_ALPHANUMERIC.findall(text.lower()))


def _share(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 1) if whole else None


def _mean(values: Iterable[float], digits: int) -> float | None:
    numbers = list(values)
    return round(sum(numbers) / len(numbers), digits) if numbers else None
