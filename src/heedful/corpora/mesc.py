"""MESC: 1,019 dialogues of a television therapy drama, emotion for every utterance, strategy for every therapist one.

Source: Chu et al., *Towards Multimodal Emotional Support Conversation Systems* (arXiv 2408.03650; IEEE TMM 2025). No
licence; the script is under copyright, so no line of it may be shared. Acted, often confrontational: not a model of
good practice. 98 to 99 % of the therapist turns are `neutral`, so a constant scores 99.3 % accuracy.

Needs `MESC.csv` (clean text). The text of `val.json`, `test.json` and `train.json` (each may be missing) is the clean
utterance followed by machine-written sentences about the video; those go to `turn.extra["clues"]`. Each JSON dialogue
is matched to its CSV dialogue by speaker sequence and letters. `split.json` gives the Dialogue_IDs of the splits.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from heedful.corpora.base import Corpus, CorpusInfo, Count, Findings, find_file, gold, need_file, read_csv, read_json
from heedful.corpora.pairs import pairs
from heedful.errors import DataError, NotFoundError
from heedful.types import Conversation, Role, Turn

SplitBy = Literal["official", "season"]
COLUMNS = ("Utterance", "Speaker", "Emotion", "Strategy", "Dialogue_ID", "Utterance_ID", "Season", "Episode")
_ROLES: Mapping[str, Role] = {"Client": "user", "Therapist": "assistant", "user": "user", "sys": "assistant"}
_JSON_SPLITS = {"train": "train", "val": "valid", "test": "test"}
_EXPECTED = {"train": (815, 23_126, 3_721), "valid": (102, 2_714, 445), "test": (102, 2_922, 454)}
_EXPECTED_THERAPIST = {
    "train": {"neutral": 3_659, "anger": 28, "joy": 23, "sadness": 5, "depression": 3, "disgust": 2, "fear": 1},
    "valid": {"neutral": 438, "joy": 3, "depression": 3, "anger": 1},
    "test": {"neutral": 451, "sadness": 3},
}

INFO = CorpusInfo(
    name="mesc",
    title="MESC: therapy scenes of a TV drama with emotions and therapist strategies",
    url="https://github.com/chuyq/MESC",
    licence="none stated; television script under copyright, local use only",
    licence_class="L",
    lang="en",
    citation="Chu et al. (2024). Towards Multimodal Emotional Support Conversation Systems. arXiv 2408.03650.",
    splits=("train", "valid", "test"),
    gated=None,
    layers=("mesc_emotion", "mesc_strategy"),
    folders=("mesc",),
    files={"MESC.csv": "0d93e6a7df679f9fd46306a20a162b3040e9d9f63cab3ae8e10e0cc4d074fb57"},
    optional_files={
        "split.json": "dd43a88f61723dcb9b27b158daad4a0637a3e9f83029b1de4a535275585605d3",
        "val.json": "559221b5ba040f62cc3227f9e2f8fa4a989a821872a003005e28b12ea74e5fc7",
        "test.json": "13795d167c68337303ac3ec9b87be325aa2f3845aaf2af6e2ee33afc82035181",
    },
    known_leaks={"group train/valid": 50, "group train/test": 59, "group valid/test": 41},
    example={
        "id": "0",
        "source": "mesc",
        "split": "test",
        "group": "S1E2",
        "problem_type": "fear of failure",
        "messages": [
            {"role": "user", "content": "I rehearsed this on the tram.", "clues": "The speaker looks at the floor."},
            {"role": "assistant", "content": "And what did you rehearse?"},
        ],
        "labels": [
            {"turn": 0, "set": "mesc_emotion", "value": "fear", "source": "gold"},
            {"turn": 1, "set": "mesc_emotion", "value": "neutral", "source": "gold"},
            {"turn": 1, "set": "mesc_strategy", "value": "Open question", "source": "gold"},
        ],
        "season": 1,
        "episode": 2,
    },
)

_Row = Mapping[str, str]


def read(folder: Path, *, split_by: SplitBy = "official") -> list[Conversation]:
    """Read the dialogues in the order of the CSV; one turn is one utterance (join runs with `Conversation.merged`).

    Args:
        folder: the corpus folder.
        split_by: `official` (`split.json`, else the matched JSON files), or `season`: seasons 1 and 2 train, 3 test.
            Every official valid and test episode also occurs in train; by season it does not.

    Raises:
        NotFoundError: `MESC.csv` is missing, or nothing tells the split.
        DataError: a row or JSON dialogue that cannot be used.
    """
    path = need_file(folder, "MESC.csv")
    groups: dict[str, list[_Row]] = defaultdict(list)
    for number, row in read_csv(path, columns=COLUMNS):
        if row["Speaker"] not in _ROLES:
            raise DataError(f"{path}, line {number}: Speaker must be Client or Therapist, but it is another name.")
        if not (row["Season"].isdecimal() and row["Episode"].isdecimal()):
            raise DataError(f"{path}, line {number}: Season and Episode must be whole numbers.")
        groups[row["Dialogue_ID"]].append(row)
    twins = _match(folder, groups)
    split_of = _splits(folder, groups, twins) if split_by == "official" else {}
    conversations = []
    for id, rows in groups.items():
        season = rows[0]["Season"]
        split = split_of.get(id) if split_by == "official" else ("test" if season == "3" else "train")
        conversations.append(_conversation(id, rows, twins.get(id, ("", None))[1], split=split, where=str(path)))
    return conversations


def _conversation(
    id: str, rows: Sequence[_Row], twin: Mapping[str, Any] | None, *, split: str | None, where: str
) -> Conversation:
    turns = []
    for i, row in enumerate(rows):
        at = f"{where}, dialogue {id}, utterance {i}"
        labels = [gold("mesc_emotion", row["Emotion"], where=at)]
        if row["Strategy"] != "undefined":
            labels.append(gold("mesc_strategy", row["Strategy"], where=at))
        extra: dict[str, Any] = {"start": row.get("StartTime"), "end": row.get("EndTime")}
        if twin is not None:
            extra["clues"] = _clues(twin["dialog"][i]["text"], row["Utterance"])
        turns.append(Turn(role=_ROLES[row["Speaker"]], text=row["Utterance"], labels=tuple(labels), extra=extra))
    season, episode = rows[0]["Season"], rows[0]["Episode"]
    problem = " ".join(str(twin["problem_type"]).split()).casefold() if twin else None
    return Conversation(
        id=id,
        turns=tuple(turns),
        source="mesc",
        licence=INFO.licence,
        split=split,
        situation=str(twin["situation"]).strip() if twin else None,
        problem_type=problem or None,
        group=f"S{season}E{episode}",
        extra={"season": int(season), "episode": int(episode)},
    )


# ------------------------------------------------------------------------------- CSV dialogue <-> JSON dialogue


def _letters(text: str) -> str:
    return "".join(ch for ch in text.casefold() if ch.isalnum())


def _clues(text: str, utterance: str) -> str:
    """What follows the utterance in the JSON text. The two differ in blanks and quotes, so letters are counted."""
    wanted = len(_letters(utterance))
    at = 0
    while at < len(text) and wanted > 0:
        wanted -= len(_letters(text[at]))
        at += 1
    # The utterance's own closing marks belong to it; a clue sentence starts with a letter.
    while at < len(text) and not text[at].isalnum():
        at += 1
    return text[at:].strip()


_Twin = tuple[str, Mapping[str, Any]]
"""Split and dialogue of a JSON file."""


def _match(folder: Path, groups: Mapping[str, Sequence[_Row]]) -> dict[str, _Twin]:
    """Dialogue_ID -> (split, JSON dialogue) for every JSON file that is at hand.

    Two scenes have the very same words, and a short scene may be the beginning of another. So each CSV dialogue is
    given once, to the first JSON dialogue that it fits best: most letters, then the split of `split.json`, then equal
    emotions, then the order of `MESC.csv`.

    Raises:
        DataError: a JSON dialogue that fits no CSV dialogue, or none that is left.
    """
    by_speakers: dict[tuple[Role, ...], list[str]] = defaultdict(list)
    for id, rows in groups.items():
        by_speakers[tuple(_ROLES[row["Speaker"]] for row in rows)].append(id)
    official = _split_table(folder)
    found: dict[str, _Twin] = {}
    for name, split in _JSON_SPLITS.items():
        path = find_file(folder, f"{name}.json")
        for k, dialogue in enumerate(_dialogues(path) if path else ()):
            turns = dialogue["dialog"]
            candidates = by_speakers[tuple(_ROLES[turn["speaker"]] for turn in turns)]
            fits = [id for id in candidates if id not in found and _fits(turns, groups[id])]
            if not fits:
                raise DataError(
                    f"{path}, dialogue {k}: expected a dialogue of MESC.csv with these utterances, found none that no "
                    "other dialogue has taken. Use files of the same release, each dialogue once."
                )
            best = max(fits, key=lambda id: _closeness(turns, groups[id], official.get(id) == split))
            found[best] = (split, dialogue)
    return found


def _dialogues(path: Path) -> list[Mapping[str, Any]]:
    """The dialogues of a JSON file, each with all fields that are used."""
    records = read_json(path)
    if not isinstance(records, list):
        raise DataError(f"{path}: expected a list of dialogues.")
    for k, record in enumerate(records):
        try:
            texts = [record["problem_type"], record["situation"]]
            texts += [turn[key] for turn in record["dialog"] for key in ("text", "emotion")]
            known = all(turn["speaker"] in _ROLES for turn in record["dialog"])
        except (KeyError, TypeError):
            known = False
        if not known or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{path}, dialogue {k}: a field is missing or has the wrong type.")
    return records


def _fits(turns: Sequence[Mapping[str, Any]], rows: Sequence[_Row]) -> bool:
    return all(
        _letters(turn["text"]).startswith(_letters(row["Utterance"])) for turn, row in zip(turns, rows, strict=True)
    )


def _closeness(turns: Sequence[Mapping[str, Any]], rows: Sequence[_Row], same_split: bool) -> tuple[int, bool, int]:
    letters = sum(len(_letters(row["Utterance"])) for row in rows)
    emotions = sum(turn["emotion"] == row["Emotion"] for turn, row in zip(turns, rows, strict=True))
    return letters, same_split, emotions


def _split_table(folder: Path) -> dict[str, str]:
    """`split.json` as Dialogue_ID -> split; empty if the file is not there."""
    path = find_file(folder, "split.json")
    table = read_json(path) if path else {}
    names = {**_JSON_SPLITS, "valid": "valid"}
    if not isinstance(table, dict) or not all(k in names and isinstance(v, list) for k, v in table.items()):
        raise DataError(f"{path}: expected lists of Dialogue_IDs under 'train', 'val' and 'test'.")
    return {str(id): names[name] for name, ids in table.items() for id in ids}


def _splits(folder: Path, ids: Iterable[str], twins: Mapping[str, _Twin]) -> dict[str, str]:
    """Dialogue_ID -> split.

    Raises:
        NotFoundError: neither `split.json` nor both of `val.json` and `test.json` are there.
    """
    table = _split_table(folder)
    if table:
        return table
    # Without both of them, their dialogues would be taken for training data.
    if not {"valid", "test"} <= {split for split, _ in twins.values()}:
        raise NotFoundError(f"Expected 'split.json', or 'val.json' and 'test.json', in '{folder}' to know the split.")
    return dict.fromkeys(ids, "train") | {id: split for id, (split, _) in twins.items()}


# ------------------------------------------------------------------------------------------------------- check


def check(conversations: Sequence[Conversation], folder: Path) -> Findings:
    """Dialogues, utterances and pairs per split, therapist labels of the pairs, and CSV against JSON."""
    counts: list[Count] = []
    for split, (dialogues, utterances, n_pairs) in _EXPECTED.items():
        part = [c for c in conversations if c.split == split]
        found = [pair for c in part for pair in pairs(c)]
        therapist = Counter(pair.reply.label("mesc_emotion") for pair in found)
        counts += [
            Count(name=f"{split} dialogues", found=len(part), expected=dialogues),
            Count(name=f"{split} utterances", found=sum(map(len, part)), expected=utterances),
            Count(name=f"{split} pairs", found=len(found), expected=n_pairs),
        ]
        counts += [
            Count(name=f"{split} pairs, therapist {emotion}", found=therapist[emotion], expected=n)
            for emotion, n in _EXPECTED_THERAPIST[split].items()
        ]
    groups: dict[str, list[_Row]] = defaultdict(list)
    for _, row in read_csv(need_file(folder, "MESC.csv"), columns=COLUMNS):
        groups[row["Dialogue_ID"]].append(row)
    twins = _match(folder, groups)
    if not twins:
        return Findings(counts=tuple(counts))
    by_id = {c.id: c for c in conversations}
    moved = sum(by_id[id].split != split for id, (split, _) in twins.items())
    counts.append(Count(name="matched dialogues in another split", found=moved, expected=0))
    for name, split in _JSON_SPLITS.items():
        if find_file(folder, f"{name}.json"):
            own = [(by_id[id], dialogue) for id, (at, dialogue) in twins.items() if at == split]
            counts += _twin_counts(name, own)
    return Findings(counts=tuple(counts))


def _twin_counts(name: str, twins: Sequence[tuple[Conversation, Mapping[str, Any]]]) -> list[Count]:
    """Numbers of one JSON file. `train.json` was never at hand, so only its size has an expected value."""
    dialogues, utterances, _ = _EXPECTED[_JSON_SPLITS[name]]
    turns = [pair for talk, dialogue in twins for pair in zip(talk.turns, dialogue["dialog"], strict=True)]
    differ = sum(turn.label("mesc_emotion") != other["emotion"] for turn, other in turns)
    bare = sum(not turn.extra.get("clues") for turn, _ in turns)
    known = None if name == "train" else 0
    return [
        Count(name=f"{name}.json dialogues matched", found=len(twins), expected=dialogues),
        Count(name=f"{name}.json utterances", found=len(turns), expected=utterances),
        Count(name=f"{name}.json emotions that differ from the CSV", found=differ, expected=known),
        Count(name=f"{name}.json utterances without clues", found=bare, expected=known),
    ]


MESC = Corpus(info=INFO, read=read, check=check)
