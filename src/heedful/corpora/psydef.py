"""PsyDefConv: psychological defence level (DMRS, 0 to 8) of a help-seeker's turn, on ESConv dialogues.

Source: the PsyDefDetect shared task (arXiv 2512.15601). Non-commercial. At hand: 371 of the 1,864 labelled training
rows, and the 472 test rows without labels. A conversation here is one row: the talk up to and including the turn to be
judged, which carries the label `dmrs_level`.

The official split is by turn, so 163 dialogues stand in train and test, and a train row's context can hold a test row's
turn: evaluate within the 371 rows by grouped cross-validation on `group` (the dialogue). Most dialogues are in ESConv's
train part; `extra["esconv_split"]` says where.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from heedful.corpora.base import Corpus, CorpusInfo, Count, Findings, find_file, gold, need_file, read_json
from heedful.corpora.jsonl import read_objects
from heedful.errors import DataError
from heedful.types import Conversation, Role, Turn

TRAIN, TEST = "psydefconv_train_labelled_partial.jsonl", "psydefconv_test_unlabelled.json"
_ROLES: Mapping[str, Role] = {"seeker": "user", "supporter": "assistant"}
_LEVELS = {"0": 57, "1": 22, "2": 12, "3": 20, "4": 17, "5": 10, "6": 34, "7": 194, "8": 5}

INFO = CorpusInfo(
    name="psydef",
    title="PsyDefConv: defence level of a help-seeker's turn",
    url="https://github.com/PsyDefDetect-Shared-Task/PsyDefDetect-Shared-Task.github.io",
    licence="CC-BY-NC-4.0",
    licence_class="NC",
    lang="en",
    citation="PsyDefConv and DMRS Co-Pilot (2025). arXiv 2512.15601.",
    splits=("train", "test"),
    gated="The full training set (1,864 rows) is the data set AIMH/PsyDefConv, to be fetched by the user.",
    layers=("dmrs_level",),
    folders=("psydef",),
    files={TRAIN: "a6740c799bcccc0cb01fd020170d904ab6b420e8c48caafdf95a064fb3b0aa76"},
    optional_files={
        TEST: "ad9420426c62a2c8c740fbb3deea432910ae598ae6aecd8f386bfe64cd7e7aba",
        "esconv_map.json": "d26d5930fb1e7830a56b8565a2153cd63d16236e05511dab5cc5e7d4f693e6ef",
    },
    known_leaks={"group train/test": 163, "near-copy train/test": 120},
    example={
        "id": "train-0000",
        "source": "psydef",
        "split": "train",
        "group": "ESConv_000",
        "messages": [
            {"role": "assistant", "content": "How was the visit?"},
            {"role": "user", "content": "Fine. My father is simply a saint, nothing to discuss."},
        ],
        "labels": [{"turn": 1, "set": "dmrs_level", "value": "4", "source": "gold"}],
        "esconv_split": "train",
    },
)


def read(folder: Path) -> list[Conversation]:
    """Read one conversation per row; ids are `train-0000` and `test-0000` by place in the file.

    Raises:
        NotFoundError: the labelled file is missing.
        DataError: a record is not as expected; the message names file and row.
    """
    found = find_file(folder, "esconv_map.json")
    places = read_json(found) if found else {}
    train = need_file(folder, TRAIN)
    conversations = list(_rows((r for _, r in read_objects(train)), "train", places, train))
    test = find_file(folder, TEST)
    if test is not None:
        conversations += _rows(read_json(test), "test", places, test)
    return conversations


def _rows(
    records: Iterable[Mapping[str, Any]], split: str, places: Mapping[str, Mapping[str, Any]], path: Path
) -> Iterable[Conversation]:
    for i, record in enumerate(records):
        where = f"{path}, row {i + 1}"
        try:
            turns = [Turn(role=_ROLES[t["speaker"]], text=t["text"].strip()) for t in record["dialogue"]]
            if not turns or turns[-1].text != record["current_text"].strip():
                raise DataError(f"{where}: the last turn of 'dialogue' must be 'current_text'.")
            if record.get("label") is not None:
                turns[-1] = turns[-1].with_labels(gold("dmrs_level", str(record["label"]), where=where))
            dialogue = record.get("dialogue_id")
            place = places.get(dialogue or "", {})
        except (KeyError, TypeError, AttributeError) as err:
            raise DataError(f"{where}: a field is missing or has the wrong type.") from err
        yield Conversation(
            id=f"{split}-{i:04d}",
            turns=tuple(turns),
            source="psydef",
            licence=INFO.licence,
            split=split,
            group=dialogue,
            extra={
                "official_id": record.get("id"),
                "esconv_split": place.get("esconv_split"),
                "esconv_orig_index": place.get("esconv_orig_index"),
            },
        )


def check(conversations: Sequence[Conversation], folder: Path) -> Findings:
    """Rows per split, labels, dialogues."""
    train = [c for c in conversations if c.split == "train"]
    test = [c for c in conversations if c.split == "test"]
    levels = Counter(c.turns[-1].label("dmrs_level") for c in train)
    known = len(train) == 371
    counts = [Count(name="labelled rows", found=len(train), expected=371)]
    if test:
        counts.append(Count(name="test rows", found=len(test), expected=472))
    counts += [Count(name=f"level {v}", found=levels[v], expected=n if known else None) for v, n in _LEVELS.items()]
    lost = sum(c.group is None for c in conversations)
    counts += [
        Count(name="dialogues", found=len({c.group for c in conversations if c.group})),
        Count(name="rows whose dialogue is not known", found=lost),
    ]
    warnings = [f"{lost} rows have no dialogue id; leave them out of grouped folds."] if lost else []
    return Findings(counts=tuple(counts), warnings=tuple(warnings))


PSYDEF = Corpus(info=INFO, read=read, check=check)
