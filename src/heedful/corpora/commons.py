"""`commons`: heedful's own CC0 corpus of invented supportive conversations, shipped in the package.

Every supporter turn carries strategy, act and emotion, every seeker turn emotion, act and defence level; risk labels
stand on seeker turns only. All of it was written for heedful; nothing was copied from another corpus, and
`validate()` proves it: no run of 9 words occurs twice inside the corpus or in any other corpus that is at hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from heedful.corpora.base import Corpus, CorpusInfo, Count, Findings, need_file
from heedful.corpora.leaks import grams, shared_runs, words
from heedful.corpora.messages import load_jsonl
from heedful.corpora.stats import reading
from heedful.corpora.table import CORPORA
from heedful.errors import DataError, NotFoundError
from heedful.types import Conversation, Turn

RUN = 9
"""Longest run of words that two turns may not share."""
NEEDED = {
    "assistant": ("esconv_strategy", "hope_act", "mesc_emotion"),
    "user": ("mesc_emotion", "hope_act", "dmrs_level"),
}
QUESTION_ACTS = frozenset({"IRQ", "YNQ", "CRQ", "ORQ"})
DENIED = "denied"
AGREEMENT = 0.9
MINIMUM = {"dialogues": 100, "turns": 1_400, "problem types": 12, "dialogues with risk disclosed": 10}

INFO = CorpusInfo(
    name="commons",
    title="commons: invented supportive conversations, written for heedful",
    url="part of the package heedful",
    licence="CC0-1.0",
    licence_class="CC0",
    lang="en",
    citation="The heedful authors (2026). commons, a CC0 corpus of supportive conversations.",
    splits=("train", "valid", "test"),
    gated=None,
    layers=("esconv_strategy", "hope_act", "mesc_emotion", "dmrs_level", "values", "risk"),
    folders=("commons",),
    example={
        "id": "c000",
        "source": "commons",
        "licence": "CC0-1.0",
        "split": "train",
        "lang": "en",
        "situation": "A baker's oven broke on the morning of her first big order.",
        "problem_type": "work",
        "survey": {"initial_emotion_intensity": 4, "final_emotion_intensity": 3},
        "messages": [
            {"role": "user", "content": "oven died at five. sixty rolls due at noon"},
            {"role": "assistant", "content": "Who is waiting for the rolls, and do they know yet?"},
        ],
        "labels": [
            {"turn": 0, "set": "mesc_emotion", "value": "fear", "source": "author"},
            {"turn": 0, "set": "hope_act", "value": "ID", "source": "author"},
            {"turn": 0, "set": "dmrs_level", "value": "0", "source": "author"},
            {"turn": 1, "set": "esconv_strategy", "value": "Question", "source": "author"},
            {"turn": 1, "set": "hope_act", "value": "IRQ", "source": "author"},
            {"turn": 1, "set": "mesc_emotion", "value": "neutral", "source": "author"},
        ],
        "persona": "woman, 40s, baker",
        "outcome": "some-relief",
        "features": ["none"],
    },
)


class _Packaged(Corpus):
    """A corpus inside the package: it is always there."""

    def locate(self, path: str | Path | None = None) -> Path | None:
        """`path`, or the package's data folder."""
        folder = Path(str(files("heedful.corpora").joinpath("data"))) if path is None else Path(path)
        return folder if folder.is_dir() else None


def read(folder: Path) -> list[Conversation]:
    """Read `commons.jsonl` (or `.gz`) of the folder."""
    return load_jsonl(need_file(folder, "commons.jsonl"))


def validate_commons(conversations: Sequence[Conversation], folder: Path) -> Findings:
    """Size, completeness of the layers, label rules, originality and reading statistics.

    `folder` is not read: everything that is checked stands in the conversations.
    """
    turns = [(c, i, t) for c in conversations for i, t in enumerate(c.turns)]
    # A denial is an answer to a question, and discloses nothing.
    labelled = {c.id for c, _, t in turns if t.values("risk")}
    disclosed = {c.id for c, _, t in turns if set(t.values("risk")) - {DENIED}}
    found = {
        "dialogues": len(conversations),
        "turns": len(turns),
        "problem types": len({c.problem_type for c in conversations if c.problem_type}),
        "dialogues with risk disclosed": len(disclosed),
    }
    counts = [Count(name=name, found=n) for name, n in found.items()]
    counts.append(Count(name="dialogues with any risk label", found=len(labelled)))
    splits = Counter(c.split for c in conversations)
    counts += [Count(name=f"{split} dialogues", found=splits[split]) for split in INFO.splits]
    problems = [
        f"{name}: at least {least:,} are wanted, found {found[name]:,}."
        for name, least in MINIMUM.items()
        if found[name] < least
    ]
    if splits[None]:
        problems.append(f"{splits[None]} dialogues have no split.")
    problems += _incomplete(turns)
    problems += _rules(turns, counts)
    problems += _repeated(conversations)
    warnings: list[str] = []
    for name, other in _other_corpora(warnings):
        copied = shared_runs(conversations, other, n=RUN)
        counts.append(Count(name=f"turns that share {RUN} words with {name}", found=len(copied)))
        if copied:
            problems.append(
                f"{len(copied)} turns share {RUN} words with {name}, first {copied[0][0]} turn {copied[0][1]}."
            )
    return Findings(
        counts=(*counts, *reading(conversations).counts()), problems=tuple(problems), warnings=tuple(warnings)
    )


_Place = tuple[Conversation, int, Turn]


def _incomplete(turns: Sequence[_Place]) -> list[str]:
    """One sentence per role and layer that is not everywhere it must be, and per layer where it must not be."""
    problems = []
    for role, layers in NEEDED.items():
        for layer in layers:
            bare = [f"{c.id} turn {i}" for c, i, t in turns if t.role == role and t.label(layer) is None]
            if bare:
                problems.append(f"{len(bare)} {role} turns have no {layer} label, first {bare[0]}.")
    wrong = [f"{c.id} turn {i}" for c, i, t in turns if t.role != "user" and t.values("risk")]
    if wrong:
        problems.append(f"{len(wrong)} risk labels stand on turns that are not the seeker's, first {wrong[0]}.")
    return problems


def _rules(turns: Sequence[_Place], counts: list[Count]) -> list[str]:
    """Rules that tie strategy and act; the shares are added to `counts` in per cent."""
    pairs = [(t.label("esconv_strategy"), t.label("hope_act")) for _, _, t in turns if t.role == "assistant"]
    asked = [act in QUESTION_ACTS for strategy, act in pairs if strategy == "Question"]
    agree = [(strategy == "Question") == (act in QUESTION_ACTS) for strategy, act in pairs]
    greet = [strategy == "Others" for strategy, act in pairs if act == "GT"]
    problems = []
    for name, hits in (
        ("turns with strategy Question whose act is a question", asked),
        ("supporter turns on which strategy Question and a question act agree", agree),
        ("supporter turns with act GT whose strategy is Others", greet),
    ):
        share = sum(hits) / len(hits) if hits else 1.0
        counts.append(Count(name=f"{name} (%)", found=round(100 * share)))
        if share < AGREEMENT:
            problems.append(f"Only {100 * share:.0f} % of the {name}; at least {100 * AGREEMENT:.0f} % are wanted.")
    return problems


def _repeated(conversations: Sequence[Conversation]) -> list[str]:
    first: dict[int, tuple[str, int]] = {}
    again: list[str] = []
    for c in conversations:
        for i, turn in enumerate(c.turns):
            places = {first.setdefault(g, (c.id, i)) for g in grams(words(turn.text), RUN)} - {(c.id, i)}
            again += [f"{c.id} turn {i} and {a} turn {b}" for a, b in sorted(places)]
    return [f"{len(again)} pairs of turns share {RUN} words, first {again[0]}."] if again else []


def _other_corpora(warnings: list[str]) -> Iterator[tuple[str, list[Conversation]]]:
    """Every other corpus that is at hand, one in memory at a time."""
    compared = []
    for name in CORPORA.names():
        corpus = CORPORA.get(name)
        if name == INFO.name or corpus.locate() is None:
            continue
        try:
            conversations = corpus.load()
        except (DataError, NotFoundError) as err:
            warnings.append(f"commons was not compared with '{name}': {err}")
            continue
        compared.append(name)
        yield name, conversations
    if not compared:
        warnings.append("No other corpus is at hand, so commons was compared with none (set HEEDFUL_DATA).")


COMMONS = _Packaged(info=INFO, read=read, check=validate_commons)
