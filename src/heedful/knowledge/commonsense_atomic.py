"""ATOMIC events and their tails; retrieval of the nearest event; and the pairs that `atomic-head` is tuned on.

Needs `atomic/v4_atomic_{tst,dev}.csv` (CC BY 4.0) under `$HEEDFUL_DATA` or `$HEEDFUL_HOME/corpora`. The official train
file is not used: `tst` is what providers learn from or search, `dev` is held out to score them; no event stands in
both. A row is one annotator's answers; `["none"]` is an answer and `[]` means that nobody was asked.

Events and tails that the screen stops (`heedful.safety`) are left out before anything is searched or learnt. That
takes seconds, so what is left is kept in the cache folder under a hash of file and rules.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from heedful.classify.features import shared_vectors
from heedful.corpora.base import find_file, read_bytes, read_csv, roots
from heedful.errors import ConfigError, DataError, NotFoundError, shown
from heedful.knowledge.commonsense import NONE, RELATIONS, Found, Inferred, check_relations
from heedful.models.embedded import cache_dir
from heedful.safety import load_screen
from heedful.safety.screen import screen_hash
from heedful.types import Conversation, Turn

Part = Literal["tst", "dev"]
Split = Literal["tst", "dev", "both"]
PARTS: Mapping[str, tuple[Part, ...]] = {"tst": ("tst",), "dev": ("dev",), "both": ("tst", "dev")}
Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]

VERSION = 1
"""Of how a file is read; another one makes what is kept in the cache stale."""
KEPT = 256
"""From so many utterances a call, their vectors are kept on disk: a corpus, and not somebody's talk."""
_IRREGULAR = {"is": "am", "has": "have", "does": "do", "goes": "go"}
_FULL_STOP = re.compile(r"[\s.]+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One tail of one annotator, in data row `row`; `tail` is in lower case, without a full stop, and may be "none"."""

    row: int
    tail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event with all answers.

    Args:
        part, row: the file, and the first data row (from 0) that it stands in.
        text: as in the file: "PersonX forgets ___".
        answers: relation -> answers in the order of the file.
    """

    part: Part
    row: int
    text: str
    answers: Mapping[str, tuple[Answer, ...]] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Atomic:
    """One file.

    Args:
        hash: 16 hex digits over the file and over the rules of the screen.
        screened: events, and tails of other events, that the screen stopped.
    """

    events: tuple[Event, ...] = field(repr=False)
    hash: str
    screened: tuple[int, int]


def first_person(event: str) -> str:
    """An event as the help-seeker would say it: PersonX becomes I, a blank something, other persons someone.

    >>> first_person("PersonX carries PersonX's ___ to PersonY")
    'I carry my something to someone'
    """
    text = re.sub(r"\bPersonX's\b", "my", event)
    text = re.sub(r"\bPerson[YZ]('s)?\b", r"someone\1", text)
    text = re.sub(r"^PersonX (\w+)", lambda m: f"I {_base(m[1])}", text)
    return re.sub(r"_{2,}", "something", re.sub(r"\bPersonX\b", "I", text))


def _base(verb: str) -> str:
    """The verb after "I": the third person's ending is taken off."""
    if verb in _IRREGULAR:
        return _IRREGULAR[verb]
    if verb.endswith("ies"):
        return verb[:-1] if len(verb) == 4 else verb[:-3] + "y"  # "lies", but "carries"
    if re.search(r"(?:sh|ch|ss|x|zz)es$", verb):
        return verb[:-2]
    return verb[:-1] if verb.endswith("s") and not verb.endswith("ss") else verb


def read(part: Part) -> Atomic:
    """The events of one file; it is read once per process.

    Raises:
        NotFoundError: the file is not there.
        DataError: a column is missing, or a cell is no list of texts.
    """
    name = f"v4_atomic_{part}.csv"
    for root in roots():
        found = find_file(root / "atomic", name)
        if found is not None:
            return _read(found, found.stat().st_mtime_ns, part)
    raise NotFoundError(
        f"The file atomic/{name} (or {name}.gz) is not here; put it under {roots()[-1]}, or set HEEDFUL_DATA to the "
        "folder above 'atomic'."
    )


@lru_cache(maxsize=4)
def _read(path: Path, written: int, part: Part) -> Atomic:
    content = read_bytes(path)
    digest = hashlib.sha256(content + f"{screen_hash()}/{VERSION}".encode()).hexdigest()[:16]
    kept = cache_dir() / "commonsense" / f"atomic-{digest}.json"
    try:
        return _unpacked(json.loads(kept.read_text("utf-8")), part, digest)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        pass  # none yet, or one that a full disk has torn: made anew
    made = _screened(path, part, digest)
    _keep(kept, made)
    return made


def _screened(path: Path, part: Part, digest: str) -> Atomic:
    screen = load_screen()
    rows: dict[str, int] = {}
    answers: dict[str, dict[str, list[Answer]]] = {}
    stopped: set[str] = set()
    tails: dict[str, bool] = {}
    for row, (line, record) in enumerate(read_csv(path, columns=("event", *RELATIONS))):
        event = record["event"].strip()
        if event not in rows and event not in stopped:
            if screen.why(first_person(event)):
                stopped.add(event)
            else:
                rows[event], answers[event] = row, {relation: [] for relation in RELATIONS}
        for relation in RELATIONS if event in rows else ():
            for tail in _tails(record[relation], f"{path}, line {line}, {relation}"):
                if tail not in tails:
                    tails[tail] = screen.why(tail) is None
                if tails[tail]:
                    answers[event][relation].append(Answer(row=row, tail=tail))
    events = tuple(
        Event(part=part, row=row, text=event, answers={r: tuple(a) for r, a in answers[event].items()})
        for event, row in rows.items()
    )
    return Atomic(events=events, hash=digest, screened=(len(stopped), sum(not kept for kept in tails.values())))


def _keep(path: Path, made: Atomic) -> None:
    """Write what was screened, in one step. A cache that cannot be written is none."""
    events = [
        [event.row, event.text, {r: [[a.row, a.tail] for a in answers] for r, answers in event.answers.items()}]
        for event in made.events
    ]
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps({"events": events, "screened": made.screened}), "utf-8")
        os.replace(scratch, path)
    except OSError:
        scratch.unlink(missing_ok=True)


def _unpacked(kept: Mapping[str, Any], part: Part, digest: str) -> Atomic:
    events = tuple(
        Event(
            part=part,
            row=row,
            text=text,
            answers={r: tuple(Answer(row=at, tail=tail) for at, tail in answers[r]) for r in RELATIONS},
        )
        for row, text, answers in kept["events"]
    )
    stopped, tails = kept["screened"]
    return Atomic(events=events, hash=digest, screened=(stopped, tails))


def _tails(cell: str, where: str) -> list[str]:
    if cell == "[]":
        return []
    try:
        found = json.loads(cell)
    except json.JSONDecodeError as err:
        raise DataError(f"{where}: expected a JSON list of texts, but it is not valid JSON ({err.msg}).") from None
    if not isinstance(found, list) or not all(isinstance(tail, str) for tail in found):
        raise DataError(f"{where}: expected a JSON list of texts, but it is {shown(found)}.")
    plain = (_FULL_STOP.sub("", " ".join(tail.split()).lower()) for tail in found)
    return [tail for tail in plain if tail]


def usual(events: Sequence[Event]) -> Mapping[str, Counter[str]]:
    """Relation -> how often each tail was given anywhere."""
    counts: dict[str, Counter[str]] = {relation: Counter() for relation in RELATIONS}
    for event in events:
        for relation, answers in event.answers.items():
            counts[relation].update(answer.tail for answer in answers)
    return counts


def best(answers: Sequence[Answer], counts: Mapping[str, int]) -> Answer | None:
    """The tail that stands for all answers to one event and relation, or None where the answer is "none".

    None if nobody was asked or more than half said "none". Else the tail that most annotators gave; among equals the
    one that is given most often for other events (`counts`); among these the first of the file.
    """
    given = [answer for answer in answers if answer.tail != NONE]
    if not given or 2 * len(given) < len(answers):
        return None
    here = Counter(answer.tail for answer in given)
    return max(given, key=lambda answer: (here[answer.tail], counts.get(answer.tail, 0), -answer.row))


@dataclass(frozen=True, kw_only=True)
class AtomicRetrieval:
    """The nearest event's answers. Options:
    split: which file is searched: `tst`, `dev` or `both`.
    floor: least cosine of utterance and event; below it nothing is found.

    The utterance and every event, in the first person, become MiniLM vectors. One event is the nearest (the first of
    the file among equals), and its `best` tails are the answers: an event that annotators answered with "none" says
    none, it does not hand over to the next.
    """

    split: Split = "tst"
    floor: float = 0.5
    encode: Encode | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.split not in PARTS:
            raise ConfigError(f"split of ATOMIC must be tst, dev or both, but it is {shown(self.split)}.")
        if isinstance(self.floor, bool) or not isinstance(self.floor, int | float) or not -1 <= self.floor <= 1:
            raise ConfigError(f"floor is a cosine between -1 and 1, but it is {shown(self.floor)}.")

    @property
    def fingerprint(self) -> str:
        """Options, files and rules that the answers depend on."""
        hashes = "+".join(read(part).hash for part in PARTS[self.split])
        return f"atomic-retrieval/v1#{self.split},{self.floor:g},{hashes}"

    def check(self, conversations: Sequence[Conversation]) -> None:
        """It refuses nothing."""

    def infer(self, utterances: Sequence[str], relations: Sequence[str]) -> list[Inferred]:
        """As `Commonsense.infer`."""
        relations = check_relations(relations)
        events, counts, table = _searched(self.split, self.encode, tuple(read(p).hash for p in PARTS[self.split]))
        vectors = _vectors(utterances, self.encode)
        out: list[Inferred] = []
        for begin in range(0, len(utterances), 512):
            cosines = vectors[begin : begin + 512] @ table.T
            for row, at in zip(cosines, cosines.argmax(axis=1), strict=True):
                near = float(row[at]) >= self.floor
                out.append(_answers(events[at], relations, counts, float(row[at])) if near else {})
        return out


def _answers(event: Event, relations: Sequence[str], counts: Mapping[str, Counter[str]], cosine: float) -> Inferred:
    found = {relation: best(event.answers[relation], counts[relation]) for relation in relations}
    return {
        relation: Found(text=answer.tail, event=event.text, id=f"{event.part}/{answer.row}", score=round(cosine, 4))
        for relation, answer in found.items()
        if answer is not None
    }


Searched = tuple[tuple[Event, ...], Mapping[str, Counter[str]], npt.NDArray[np.float32]]


@lru_cache(maxsize=4)
def _searched(split: Split, encode: Encode | None, hashes: tuple[str, ...]) -> Searched:
    """Events, counts of tails and the events' vectors (E, dim), computed once per process and kept on disk."""
    events = tuple(event for part in PARTS[split] for event in read(part).events)
    if not events:
        raise DataError(f"ATOMIC ({split}) holds no event; get the file again.")
    texts = [first_person(event.text) for event in events]
    if encode is None:
        shared_vectors().keep(texts)
    return events, usual(events), (encode or shared_vectors().encode)(texts)


def _vectors(utterances: Sequence[str], encode: Encode | None) -> npt.NDArray[np.float32]:
    if encode is None:
        if len(set(utterances)) >= KEPT:
            shared_vectors().keep(utterances)
        return shared_vectors().encode(utterances)
    return encode(utterances)


# ---------------------------------------------------------------------------------------------- pairs for the head


def control(text: str, relation: str) -> str:
    """What the head reads: the event and the name of the relation.

    >>> control("I forget my keys", "xReact")
    'I forget my keys [xReact]'
    """
    return f"{text} [{relation}]"


def head_pairs(relations: Sequence[str] = RELATIONS) -> Iterator[Conversation]:
    """ATOMIC as prompt and completion: `event [xIntent]` by the user, the tail by the assistant.

    `tst` is the split train and `dev` the split valid. Every annotator's answer is a pair of its own, "none" among
    them, so that a model learns how usual an answer is. Written with `corpora.write_jsonl` it trains the head:

        heedful train method=sft dataset=atomic-head.jsonl eval_split=valid \\
            format='{name: strategy, predict: false, context_strategies: false}' output_dir=runs/atomic-head
    """
    relations = check_relations(relations)
    parts: tuple[tuple[Part, str], ...] = (("tst", "train"), ("dev", "valid"))
    for part, split in parts:
        for event in read(part).events:
            for relation in relations:
                for k, answer in enumerate(event.answers[relation]):
                    yield Conversation(
                        id=f"{part}-{answer.row}-{relation}-{k}",
                        source="atomic",
                        licence="CC-BY-4.0",
                        split=split,
                        group=f"{part}-{event.row}",
                        turns=(
                            Turn(role="user", text=control(first_person(event.text), relation)),
                            Turn(role="assistant", text=answer.tail),
                        ),
                    )
