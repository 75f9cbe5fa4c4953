"""An encoder without weights, invented cases and a HEAL-shaped folder of a few invented nodes."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heedful.knowledge.item import Vectors

CASES: list[dict[str, Any]] = [
    {
        "id": "c-1",
        "situation": "A student cannot sleep before exams.",
        "advice": "Ask what the evening looks like, and offer one small change to it.",
        "tags": ["sleep", "exams"],
        "vetted_by": "A. Nurse",
        "date": "2026-10-01",
    },
    {
        "id": "c-2",
        "text": "Somebody moved to a new town and knows nobody.",
        "reply": "What did you like to do with others before you moved?",
        "author": "team",
        "vetted_by": "B. Doctor",
        "date": "2026-10-02",
    },
    {"id": "c-3", "situation": "A quarrel with a sister.", "vetted_by": "B. Doctor", "date": "2026-10-03"},
]


class WordVectors:
    """Texts with common words are near; every text that is encoded is counted."""

    name = "words"
    dim = 64

    def __init__(self, salt: str = "") -> None:
        self.salt = salt
        self.seen: list[str] = []

    @property
    def signature(self) -> str:
        return f"words|{self.salt}"

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.seen += texts
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(out, texts, strict=True):
            row[0] = 0.1
            for word in text.lower().replace(",", " ").replace(".", " ").split():
                row[1 + zlib.crc32((self.salt + word).encode()) % (self.dim - 1)] += 1
        return (out / np.linalg.norm(out, axis=1, keepdims=True)).astype(np.float32)


def write_cases(path: Path, cases: Sequence[dict[str, Any]] = CASES) -> Path:
    path.write_text("".join(json.dumps(case) + "\n" for case in cases), "utf-8")
    return path


STRESSORS = {
    "t1": ("exams, sleep, night, worry, school", "I lie awake before exams.", 9),
    "t2": ("move, town, alone, friends, weekend", "I moved and know nobody.", 7),
    "t3": ("boss, work, hours, tired, shift", "My boss gives me more hours.", 5),
    "t4": ("sister, quarrel, phone, silence, march", "My sister does not call.", 3),
}
EXPECTATIONS = {
    "i1": ("how to sleep before exams", 4),
    "i2": ("where to find friends", 3),
    "i3": ("talk with my boss", 2),
}
FEEDBACK = {"f1": ("thank you for the hug", 6)}
FELT = {
    "t1": "Anxious",
    "t2": "Lonely",
    "t3": "Annoyed",
    "t4": "Sad",
    "i1": "Hopeful",
    "i2": "Wishing",
    "i3": "Afraid",
    "f1": "Grateful",
}
LINKS = [("t1", "i1", 5), ("t2", "i2", 4), ("t3", "i3", 2), ("t3", "i1", 1), ("t4", "i2", 1)]


def write_heal(
    folder: Path,
    *,
    stressors: dict[str, tuple[str, str, int]] | None = None,
    links: Sequence[tuple[str, str, int]] = LINKS,
    flags: dict[str, list[str]] | None = None,
    expectations: dict[str, tuple[str, int]] | None = None,
) -> Path:
    """A folder in HEAL's form; responses are ids only, as in the release."""
    told = STRESSORS if stressors is None else stressors
    wanted = EXPECTATIONS if expectations is None else expectations
    felt = {id: FELT.get(id, "Neutral") for id in (*told, *wanted, *FEEDBACK)}
    nodes = {
        "stressors": [{"id": k, "label": label, "story": story, "value": v} for k, (label, story, v) in told.items()],
        "expectations": [{"id": k, "label": label, "value": v} for k, (label, v) in wanted.items()],
        "feedback": [{"id": k, "label": label, "value": v} for k, (label, v) in FEEDBACK.items()],
        "affective_states": [{"id": f"e1-{k}", "label": label, "value": 1} for k, label in felt.items()]
        + [{"id": "e1-r1", "label": "Caring", "value": 1}],
    }
    edges = {
        "affective_states": [(k, f"e1-{k}", 1) for k in (*felt, "r1")],
        "expectations-responses": [("i1", "r1", 1)] if "i1" in wanted else [],
        "expectations-stressors": list(links),
        "responses-feedback": [("r1", "f1", 2)],
        "stressors-responses": [(next(iter(told)), "r1", 3)],
    }
    (folder / "nodes").mkdir(parents=True)
    (folder / "edges").mkdir()
    for name, records in nodes.items():
        (folder / "nodes" / f"{name}.json.gz").write_bytes(gzip.compress(json.dumps({"nodes": records}).encode()))
    for name, found in edges.items():
        content = {"edges": [{"from": a, "to": b, "value": n} for a, b, n in found]}
        (folder / "edges" / f"{name}.json").write_text(json.dumps(content), "utf-8")
    marked = {"stressors": [], "expectations": [], "feedback": [], **(flags or {})}
    (folder / "self_harm_flagged_nodes.json").write_text(json.dumps(marked), "utf-8")
    return folder
