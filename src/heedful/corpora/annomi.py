"""AnnoMI: demonstrations of good and poor motivational interviewing, labelled by experts.

Source: Wu et al., *Anno-MI: A Dataset of Expert-Annotated Counselling Dialogues*, ICASSP 2022 (GitHub uccollab/AnnoMI).
No licence; transcripts of videos. The 23 low-quality sessions are bad examples, not training targets:
`extra["mi_quality"]` tells.

`AnnoMI-simple.csv` holds each utterance once; `AnnoMI-full.csv` once per annotator and with subtypes. The split is that
of the published next-strategy benchmark (GitHub cw-wan/EmoDynamiX-v2; high quality only; other sessions have none).
`group` is the video: nine videos carry two transcripts or more, and one of them crosses that split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from heedful.corpora.base import Corpus, CorpusInfo, Count, Findings, find_file, gold, need_file, read_csv, read_json
from heedful.errors import DataError
from heedful.types import Conversation, Label, Role, Turn

Version = Literal["simple", "full"]
COLUMNS = (
    "transcript_id",
    "mi_quality",
    "video_url",
    "topic",
    "utterance_id",
    "interlocutor",
    "timestamp",
    "utterance_text",
    "main_therapist_behaviour",
    "client_talk_type",
)
_ROLES: Mapping[str, Role] = {"client": "user", "therapist": "assistant"}
_SUBTYPES = ("therapist_input", "reflection", "question")
_EXPECTED = {"train": 88, "valid": 11, "test": 11}

INFO = CorpusInfo(
    name="annomi",
    title="AnnoMI: motivational interviewing, good and poor, expert labels",
    url="https://github.com/uccollab/AnnoMI",
    licence="none stated; video transcripts, local use only",
    licence_class="L",
    lang="en",
    citation="Wu et al. (2022). Anno-MI: A Dataset of Expert-Annotated Counselling Dialogues. ICASSP.",
    splits=("train", "valid", "test"),
    gated=None,
    layers=("annomi_behaviour", "annomi_talk", "annomi_subtype"),
    folders=("annomi",),
    files={"AnnoMI-simple.csv": "b178db3b0b9858a0fa4ed670dabeccd63e975ba67e141d7ae16f2e8214f78e61"},
    known_leaks={"group train/valid": 1, "group train/test": 1, "group valid/test": 1},
    optional_files={
        "AnnoMI-full.csv": "3b60fec5e9d83cbb18ade0e412fb9afaef3b81724748a5d715f844bdd7432c9f",
        "emodynamix_split.json": "b3789c6738c11da1584575104723a4d2a43c6de3a12ab78974c54f163b911537",
    },
    example={
        "id": "0",
        "source": "annomi",
        "split": "train",
        "group": "https://example.org/video/1",
        "problem_type": "more exercise",
        "messages": [
            {"role": "assistant", "content": "What would a good week look like?", "timestamp": "00:00:10"},
            {"role": "user", "content": "Two walks. I managed none.", "timestamp": "00:00:14"},
        ],
        "labels": [
            {"turn": 0, "set": "annomi_behaviour", "value": "question", "source": "gold"},
            {"turn": 1, "set": "annomi_talk", "value": "neutral", "source": "gold"},
        ],
        "mi_quality": "high",
    },
)


def read(
    folder: Path,
    *,
    version: Version = "simple",
    quality: Literal["all", "high", "low"] = "all",
) -> list[Conversation]:
    """Read one conversation per transcript.

    Args:
        folder: the corpus folder.
        version: `simple` has one gold label per utterance; `full` has the labels of every annotator (source
            `human:<id>`) and the subtypes ("reflection simple", "question open", ...) in set `annomi_subtype`.
        quality: which sessions to keep.

    Raises:
        NotFoundError: the CSV is missing.
        DataError: a row that cannot be used.
    """
    path = need_file(folder, f"AnnoMI-{version}.csv")
    sessions: dict[str, dict[int, Turn]] = {}
    heads: dict[str, Mapping[str, str]] = {}
    columns = (*COLUMNS, "annotator_id") if version == "full" else COLUMNS
    for number, row in read_csv(path, columns=columns):
        try:
            index, role = int(row["utterance_id"]), _ROLES[row["interlocutor"]]
        except (ValueError, KeyError) as err:
            raise DataError(
                f"{path}, line {number}: utterance_id must be a number, interlocutor client or therapist."
            ) from err
        heads.setdefault(row["transcript_id"], row)
        turns = sessions.setdefault(row["transcript_id"], {})
        first = turns.get(index)
        if first is None:
            first = Turn(role=role, text=row["utterance_text"].strip(), extra={"timestamp": row["timestamp"]})
        turns[index] = first.with_labels(*_labels(row, version, f"{path}, line {number}"))
    split_of = _splits(folder)
    return [
        Conversation(
            id=id,
            turns=tuple(turns[i] for i in sorted(turns)),
            source="annomi",
            licence=INFO.licence,
            split=split_of.get(id),
            problem_type=heads[id]["topic"],
            group=heads[id]["video_url"],
            extra={"mi_quality": heads[id]["mi_quality"]},
        )
        for id, turns in sessions.items()
        if quality in ("all", heads[id]["mi_quality"])
    ]


def _labels(row: Mapping[str, str], version: Version, where: str) -> list[Label]:
    source = f"human:{row['annotator_id']}" if version == "full" else "gold"
    pairs = [("annomi_behaviour", row["main_therapist_behaviour"]), ("annomi_talk", row["client_talk_type"])]
    if version == "full":
        pairs += [("annomi_subtype", _subtype(kind, row.get(f"{kind}_subtype", "n/a"))) for kind in _SUBTYPES]
    return [gold(name, value, where=where, source=source) for name, value in pairs if value != "n/a"]


def _subtype(kind: str, value: str) -> str:
    # "n/a" means that the annotator saw no such act: no label at all.
    return "n/a" if value == "n/a" else f"{kind.replace('_', ' ')} {value}"


def _splits(folder: Path) -> dict[str, str]:
    path = find_file(folder, "emodynamix_split.json")
    if path is None:
        return {}
    try:
        return {str(id): split for split, ids in read_json(path)["transcripts"].items() for id in ids}
    except (KeyError, TypeError, AttributeError) as err:
        raise DataError(f"{path}: expected 'transcripts' with a list of transcript ids per split.") from err


def check(conversations: Sequence[Conversation], folder: Path) -> Findings:
    """Sessions by quality and split, utterances, videos; rows of the full file if it is there."""
    quality = Counter(c.extra["mi_quality"] for c in conversations)
    splits = Counter(c.split for c in conversations)
    videos = Counter(c.group for c in conversations)
    counts = [
        Count(name="sessions", found=len(conversations), expected=133),
        Count(name="high-quality sessions", found=quality["high"], expected=110),
        Count(name="low-quality sessions", found=quality["low"], expected=23),
        Count(name="utterances", found=sum(map(len, conversations)), expected=9_699),
        Count(name="videos with two transcripts or more", found=sum(n > 1 for n in videos.values()), expected=9),
    ]
    if find_file(folder, "emodynamix_split.json"):
        counts += [Count(name=f"{split} sessions", found=splits[split], expected=n) for split, n in _EXPECTED.items()]
    if find_file(folder, "AnnoMI-full.csv"):
        full = read(folder, version="full")
        per_annotator = sum(len(t.values("annomi_behaviour")) + len(t.values("annomi_talk")) for c in full for t in c)
        counts += [
            Count(name="utterances of the full file", found=sum(map(len, full)), expected=9_699),
            Count(name="rows of the full file", found=per_annotator, expected=13_551),
        ]
    return Findings(counts=tuple(counts))


ANNOMI = Corpus(info=INFO, read=read, check=check)
