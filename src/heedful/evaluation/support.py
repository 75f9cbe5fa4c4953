"""KEMI's four emotional-support metrics for the systems of a finished study, beside the corpus' own replies.

    study folder -> replies and announced strategies -> Proactivity, Information, Repetition -> support.json
                    simulated seeker, e(u)           -> Relaxation

The corpus' replies are scored twice: with the simulated seeker, like every system, and with what the person really said
next. The difference between the two rows is what the simulator does by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heedful import corpora
from heedful.agents.seeker import Recorded, RunSeeker, Simulator
from heedful.errors import DataError, NotFoundError
from heedful.evaluation.run import write_json
from heedful.evaluation.study import Say
from heedful.evaluation.traces import read_records
from heedful.scoring.content_words import load_words
from heedful.scoring.intensity import Intensity, intensity
from heedful.scoring.support_metrics import NAMES, Reply, SupportScores, gold_replies, replies_of, support_scores
from heedful.types import Conversation, Trace

FILE = "support.json"
GOLD, RECORDED = "corpus", "corpus_recorded"
"""The corpus' own replies, answered by the simulated seeker and by the person."""


@dataclass(frozen=True, kw_only=True)
class Support:
    """Scores of a study's systems; `summary` is what `support.json` holds, without any words of the talks."""

    folder: Path
    summary: dict[str, Any] = field(repr=False)


def support(
    folder: Path,
    *,
    simulator: str | None = None,
    systems: Sequence[str] = (),
    max_conversations: int | None = None,
    train_split: str = "train",
    held_split: str = "valid",
    command: str = "",
    say: Say = lambda text: None,
) -> Support:
    """Score the systems of the study in `folder`; its first decoding, first seed.

    Args:
        simulator: run with `format: seeker`; Relaxation is unscored without one.
        systems: which of them; all that a model wrote if none is named.
        max_conversations: the first so many of those of the study.
        train_split, held_split: what e(u) is learnt from, and judged on.

    Raises:
        NotFoundError: no study there, or no such system.
        DataError: the corpus is another one than that of the study.
    """
    study = _study(folder)
    corpus, names = study["corpus"], _systems(study, systems)
    talks = _talks(study, max_conversations)
    chosen = {conv.id for conv in talks}
    files = {name: _traces(folder, study, name) for name in names}
    for name, traces in files.items():
        _same_corpus(name, traces, talks)
    replies = {name: [r for r in replies_of(traces) if r.conversation_id in chosen] for name, traces in files.items()}
    gold = _common(gold_replies(talks), replies)
    seeker: Simulator | None = RunSeeker(run=simulator) if simulator else None
    felt = _felt(str(corpus["name"]), train_split, held_split, say) if simulator else None
    words = load_words()
    places = {(r.conversation_id, r.turn) for r in gold}
    scored: dict[str, SupportScores] = {}
    for name, own in {GOLD: gold, **replies}.items():
        say(f"{name}: {len(places):,} replies")
        kept = [r for r in own if (r.conversation_id, r.turn) in places]
        scored[name] = support_scores(name, talks, kept, simulator=seeker, intensity=felt, words=words)
    recorded = None
    if felt is not None:
        answered = Recorded(conversations=talks)
        recorded = support_scores(RECORDED, talks, gold, simulator=answered, intensity=felt, words=words)
    summary = {
        "kind": "support",
        "command": command,
        "corpus": {key: corpus[key] for key in ("name", "split", "hash")},
        "conversations": len(talks),
        "replies": len(places),
        "decoding": next(iter(study["decodings"])),
        "systems": {name: scores.to_dict(None if name == GOLD else scored[GOLD]) for name, scores in scored.items()},
        "recorded": recorded.to_dict() if recorded else None,
        "differences": _differences(scored),
    }
    write_json(folder / FILE, summary)
    return Support(folder=folder, summary=summary)


def _differences(scored: Mapping[str, SupportScores]) -> dict[str, dict[str, Any]]:
    """System -> metric -> system minus the corpus' replies at the same places, resampled over dialogues."""
    out: dict[str, dict[str, Any]] = {}
    for name, scores in scored.items():
        if name == GOLD:
            continue
        out[name] = {}
        for metric in NAMES:
            found = scored[GOLD].paired(scores, metric)
            if found is not None:
                out[name][metric] = {
                    "value": found.difference,
                    "low": found.low,
                    "high": found.high,
                    "p": found.p_bootstrap,
                }
    return out


def _study(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as err:
        raise NotFoundError(
            f"There is no study in '{folder}'; give the folder of heedful eval study or heedful eval compare."
        ) from err
    if found.get("kind") != "study":
        raise NotFoundError(f"'{folder}' holds a {found.get('kind', 'run')}, and no study of several systems.")
    return found


def _systems(study: Mapping[str, Any], wanted: Sequence[str]) -> list[str]:
    there = [system["name"] for system in study["systems"] if system["kind"] == "model"]
    for name in wanted:
        if name not in there:
            raise NotFoundError(f"The study has no system '{name}'; it has {', '.join(there)}.")
    return list(wanted) or there


def _talks(study: Mapping[str, Any], limit: int | None) -> list[Conversation]:
    corpus = study["corpus"]
    found = corpora.load(corpus["name"], corpus["split"])[: corpus["conversations"]]
    return found[:limit] if limit else found


def _traces(folder: Path, study: Mapping[str, Any], name: str) -> list[Trace]:
    decoding, about = next(iter(study["decodings"].items()))
    seeds = about.get("seeds") or [study["seed"]]
    file = folder / "traces" / f"{name}.{decoding}.{seeds[0]}.jsonl"
    return [Trace.from_dict(record) for record in read_records(file)[1]]


def _same_corpus(name: str, traces: Sequence[Trace], talks: Sequence[Conversation]) -> None:
    """A study of merged turns, or of a corpus that has changed since, has other replies at these places."""
    by_id = {conv.id: conv for conv in talks}
    for trace in traces:
        conv = by_id.get(trace.conversation_id)
        if conv is None:
            continue
        there = conv.turns[trace.turn].text if trace.turn < len(conv) else None
        if there is None or (trace.reference is not None and there.split() != trace.reference.split()):
            raise DataError(
                f"'{name}' replied at {trace.conversation_id}, turn {trace.turn}, where the corpus has another reply "
                "now than the study had; make the study again, without merge_turns, and then ask for these metrics."
            )


def _common(gold: Sequence[Reply], replies: Mapping[str, Sequence[Reply]]) -> list[Reply]:
    """The corpus' replies at the places that every system has."""
    shared = {(r.conversation_id, r.turn) for r in gold}
    for own in replies.values():
        shared &= {(r.conversation_id, r.turn) for r in own}
    if not shared:
        raise DataError("The systems have no place in common with the corpus; was the study made of other data?")
    return [r for r in gold if (r.conversation_id, r.turn) in shared]


def _felt(corpus: str, train: str, held: str, say: Say) -> Intensity:
    return intensity(corpora.load(corpus, train), corpora.load(corpus, held), say=say)
