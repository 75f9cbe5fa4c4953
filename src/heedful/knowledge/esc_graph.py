"""A support graph out of ESConv's training dialogues, in the place of HEAL (systems/kemi.md, E).

- *Stressors*: k-means (k = 400) of MiniLM vectors of situations and seekers' turns; a node's vector is the centre, its
  text the five words that tell it apart (TF-IDF over the clusters).
- *Responses*: sentences of the supporter's turns that follow, where the turn is labelled Providing Suggestions,
  Information or Affirmation and Reassurance. Equal sentences are one node.
- *Affects*: the emotion that the seeker chose before the talk.
- *Edges*: how often two occur together.

Only the split `train` is read: whatever is made from it may be used on `valid` and `test`. On `train` itself a response
is never shown to a dialogue that it was taken from (`Item.origins`). The screen reads turns and sentences before they
enter, so no cluster is made of them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from heedful.corpora.base import need_file
from heedful.corpora.esconv import ESCONV
from heedful.errors import ConfigError, DataError, MissingExtraError
from heedful.knowledge.item import Draft, Edge, Item, Source, Vectors
from heedful.knowledge.readers import Encoder, Reader
from heedful.safety import load_screen
from heedful.types import Conversation

CLUSTERS, KEYWORDS, SEED, SHORTEST = 400, 5, 13, 4
STRATEGIES = ("Providing Suggestions", "Information", "Affirmation and Reassurance")
_TRAIN = "zcj_split/train.jsonl"
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"[a-z][a-z']{2,}")


@dataclass(frozen=True, slots=True)
class _Said:
    """A situation or a seeker's turn, and the responses that followed it."""

    text: str
    talk: str
    emotion: str
    responses: tuple[str, ...] = ()


def read(place: Path, encoder: Encoder | None) -> Source:
    """The graph of the training split.

    Raises:
        ConfigError: no encoder; this graph is made of vectors.
        NotFoundError, DataError: as the corpus' own loader.
    """
    if encoder is None:
        raise ConfigError("The graph 'esc-graph' is made of sentence vectors; build it with an encoder (minilm).")
    return graph(ESCONV.load("train", path=place), encoder)


def graph(conversations: Sequence[Conversation], encoder: Encoder, *, clusters: int = CLUSTERS) -> Source:
    """The graph of some dialogues with strategies (set `esconv_strategy`) and an emotion (set `esconv_emotion`).

    Args:
        clusters: stressor nodes; fewer where there are fewer distinct texts.

    Raises:
        DataError: a dialogue of another split than train, or without an emotion; or nothing to make a node of.
    """
    left: Counter[str] = Counter()
    said = [one for talk in conversations for one in _said(talk, left)]
    if not said:
        raise DataError("There is no seeker's turn that a support graph could be made of.")
    texts = [one.text for one in said]
    vectors = encoder.encode(texts)
    places, centres = _clusters(vectors, min(clusters, len(set(texts))))
    drafts = [
        _stressor(k, keywords, places, centres, said)
        for k, keywords in enumerate(_keywords(texts, places, len(centres)))
    ]
    responses = sorted({text for one in said for text in one.responses})
    names = {text: f"r{n:05d}" for n, text in enumerate(responses)}
    origins: dict[str, set[str]] = defaultdict(set)
    pairs: Counter[tuple[str, str]] = Counter()
    counts: Counter[str] = Counter()
    for one, at in zip(said, places.tolist(), strict=True):
        stressor, affect = f"s{at:03d}", f"a-{one.emotion}"
        pairs[stressor, affect] += 1
        counts[affect] += 1
        for text in one.responses:
            name = names[text]
            origins[name].add(one.talk)
            counts[name] += 1
            pairs[stressor, name] += 1
            pairs[name, affect] += 1
    for text, name in names.items():
        drafts.append(Draft(item=_item(name, "response", text, counts[name], origins[name])))
    emotions = sorted({one.emotion for one in said})
    drafts += [Draft(item=_item(f"a-{name}", "affect", name, counts[f"a-{name}"])) for name in emotions]
    edges = tuple(Edge(one, other, float(n)) for (one, other), n in sorted(pairs.items()))
    return Source(drafts=tuple(drafts), edges=edges, left_out=dict(left))


def _item(id: str, kind: str, text: str, weight: int, origins: set[str] | None = None) -> Item:
    return Item(
        id=id, kind=kind, text=text, source="esconv train", weight=float(weight), origins=tuple(sorted(origins or ()))
    )


def _stressor(k: int, keywords: str, places: npt.NDArray[Any], centres: Vectors, said: Sequence[_Said]) -> Draft:
    members = [one for one, at in zip(said, places, strict=True) if at == k]
    return Draft(
        item=_item(f"s{k:03d}", "stressor", keywords, len(members)),
        search=" ".join((keywords, *sorted({one.text for one in members}))),
        vector=centres[k],
    )


def _said(talk: Conversation, left: Counter[str]) -> Iterator[_Said]:
    if talk.split != "train":
        raise DataError(f"A support graph is made of the split train alone, but '{talk.id}' is of '{talk.split}'.")
    emotion = next((label.value for label in talk.labels if label.set == "esconv_emotion"), None)
    if emotion is None:
        raise DataError(f"The dialogue '{talk.id}' has no label of the set 'esconv_emotion'.")
    name = f"{talk.source}/{talk.id}"
    screen = load_screen()
    if talk.situation and talk.situation.strip():
        if screen.why(talk.situation):
            left["situations that the screen stops"] += 1
        else:
            yield _Said(talk.situation.strip(), name, emotion)
    for at, turn in enumerate(talk.turns):
        if turn.role != "user" or not turn.text.strip():
            continue
        if screen.why(turn.text):
            left["seekers' turns that the screen stops"] += 1
        else:
            yield _Said(turn.text.strip(), name, emotion, tuple(_following(talk, at, left)))


def _following(talk: Conversation, at: int, left: Counter[str]) -> Iterator[str]:
    """Sentences of the supporter's labelled turns up to the seeker's next one."""
    screen = load_screen()
    for turn in talk.turns[at + 1 :]:
        if turn.role == "user":
            return
        if turn.label("esconv_strategy") not in STRATEGIES:
            continue
        for sentence in _SENTENCE.split(" ".join(turn.text.split())):
            if len(sentence.split()) < SHORTEST:
                left[f"sentences of fewer than {SHORTEST} words"] += 1
            elif screen.why(sentence):
                left["supporters' sentences that the screen stops"] += 1
            else:
                yield sentence


def _clusters(vectors: Vectors, k: int) -> tuple[npt.NDArray[Any], Vectors]:
    """Cluster of every row (N,), and the centres as unit vectors (k, dim). Equal rows give equal clusters."""
    try:
        from sklearn.cluster import KMeans
    except ImportError as err:
        raise MissingExtraError("Clusters need scikit-learn; run: pip install 'heedful[eval]'") from err
    made = KMeans(n_clusters=k, init="k-means++", n_init=1, max_iter=100, random_state=SEED).fit(vectors)
    norms = np.linalg.norm(made.cluster_centers_, axis=1, keepdims=True)
    return made.labels_, (made.cluster_centers_ / np.maximum(norms, 1e-12)).astype(np.float32)


def _keywords(texts: Sequence[str], places: npt.NDArray[Any], k: int) -> list[str]:
    """Five words for each cluster: highest tf times idf, a cluster being one document; among equals by the alphabet."""
    try:
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
    except ImportError as err:
        raise MissingExtraError("Keywords need scikit-learn; run: pip install 'heedful[eval]'") from err
    # Contractions of stop words ("don't", "i'm") say as little as these.
    counts = [Counter[str]() for _ in range(k)]
    for text, at in zip(texts, places.tolist(), strict=True):
        found = _WORD.findall(text.lower().replace("’", "'"))
        counts[at].update(w for w in found if w not in ENGLISH_STOP_WORDS and "'" not in w)
    spread = Counter(word for counted in counts for word in counted)
    named = []
    for counted in counts:
        scores = {word: n * np.log((1 + k) / (1 + spread[word])) for word, n in counted.items()}
        named.append(", ".join(sorted(scores, key=lambda w: (-scores[w], w))[:KEYWORDS]) or "(no words)")
    return named


ESC_GRAPH = Reader(
    name="esc-graph",
    title="A support graph out of ESConv's training dialogues",
    folders=ESCONV.info.folders,
    files=lambda place: {_TRAIN: need_file(place, _TRAIN)},
    read=read,
    advice=f"Get ESConv from {ESCONV.info.url}.",
)
