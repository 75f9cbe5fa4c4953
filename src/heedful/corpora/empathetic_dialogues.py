"""EmpatheticDialogues: short chats about an emotional event, one of 32 emotions per chat.

Source: Rashkin et al., *Towards Empathetic Open-domain Conversation Models*, ACL 2019 (arXiv 1811.00207).
Non-commercial.

Reads the repacked file `ed_dialogues_with_split.jsonl` (24,856 dialogues). Its split was recovered from derived sets
and differs a little from the official one (19,533 / 2,770 / 2,547). The speaker's emotion is a label of the
conversation (set `empathetic_emotion`). `auto_label` is the output of a classifier with 41 classes, not gold, so it
becomes a label of set `empathetic_intents` with source `model`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from heedful.corpora.base import Corpus, CorpusInfo, Count, Findings, gold, need_file
from heedful.corpora.jsonl import read_objects
from heedful.errors import DataError
from heedful.types import Conversation, Role, Turn

FILE = "ed_dialogues_with_split.jsonl"
_ROLES: Mapping[str, Role] = {"user": "user", "listener": "assistant"}
_EXPECTED = {"train": 19_511, "valid": 2_778, "test": 2_567}

INFO = CorpusInfo(
    name="empathetic_dialogues",
    title="EmpatheticDialogues: short chats about an emotional event, 32 emotions",
    url="https://github.com/facebookresearch/EmpatheticDialogues",
    licence="CC-BY-NC-4.0",
    licence_class="NC",
    lang="en",
    citation="Rashkin et al. (2019). Towards Empathetic Open-domain Conversation Models. ACL. arXiv 1811.00207.",
    splits=("train", "valid", "test"),
    gated=None,
    layers=("empathetic_emotion", "empathetic_intents"),
    folders=("empathetic_dialogues",),
    files={FILE: "3d3158392a7b701a4daefa49b37df21352c67f96fa4f42fd914e563d04b26c13"},
    example={
        "id": "hit:0_conv:0",
        "source": "empathetic_dialogues",
        "split": "train",
        "situation": "My neighbour left soup at my door while I was ill.",
        "messages": [
            {"role": "user", "content": "Somebody left soup on my step and did not even ring."},
            {"role": "assistant", "content": "What a quiet kindness. Do you know who it was?"},
        ],
        "labels": [
            {"turn": None, "set": "empathetic_emotion", "value": "grateful", "source": "gold"},
            {"turn": 0, "set": "empathetic_intents", "value": "grateful", "source": "model"},
        ],
        "split_source": "situation",
    },
)


def read(folder: Path, *, conflicts: Literal["keep", "drop"] = "keep") -> list[Conversation]:
    """Read the dialogues.

    Args:
        folder: the corpus folder.
        conflicts: `drop` leaves out the 35 dialogues whose split the two derived sets disagree on.

    Raises:
        NotFoundError: the file is missing.
        DataError: a record is not as expected; the message names the line.
    """
    path = need_file(folder, FILE)
    conversations = []
    for number, record in read_objects(path):
        if conflicts == "drop" and record.get("split_source") == "conflict":
            continue
        try:
            conversations.append(_conversation(record, f"{path}, line {number}"))
        except (KeyError, TypeError, AttributeError) as err:
            raise DataError(
                f"{path}, line {number}: not a record of EmpatheticDialogues; a field is missing or has the wrong type."
            ) from err
    return conversations


def _conversation(record: Mapping[str, Any], where: str) -> Conversation:
    if record["split"] not in INFO.splits:
        raise DataError(f"{where}: split must be one of {', '.join(INFO.splits)}.")
    turns = tuple(
        Turn(
            role=_ROLES[u["role"]],
            text=u["text"],
            labels=(gold("empathetic_intents", u["auto_label"], where=where, source="model"),)
            if u.get("auto_label")
            else (),
        )
        for u in record["utterances"]
    )
    return Conversation(
        id=record["conv_id"],
        turns=turns,
        source="empathetic_dialogues",
        licence=INFO.licence,
        split=record["split"],
        situation=record["situation"],
        labels=(gold("empathetic_emotion", record["emotion"], where=where),),
        extra={"split_source": record["split_source"]},
    )


def check(conversations: Sequence[Conversation], folder: Path) -> Findings:
    """Dialogues per split, utterances, emotions, rows with a disputed split."""
    splits = Counter(c.split for c in conversations)
    counts = [Count(name=f"{split} dialogues", found=splits[split], expected=n) for split, n in _EXPECTED.items()]
    counts += [
        Count(name="utterances", found=sum(map(len, conversations)), expected=107_247),
        Count(name="emotions", found=len({n.value for c in conversations for n in c.labels}), expected=32),
        Count(
            name="dialogues whose split is disputed",
            found=sum(c.extra["split_source"] == "conflict" for c in conversations),
            expected=35,
        ),
    ]
    return Findings(counts=tuple(counts))


EMPATHETIC_DIALOGUES = Corpus(info=INFO, read=read, check=check)
