"""HOPE: counselling sessions from public videos, one of twelve dialogue acts per utterance.

Source: Malhotra et al., *Speaker and Time-aware Joint Contextual Learning for Dialogue-act Classification in
Counselling Conversations*, WSDM 2022 (arXiv 2111.06647). 212 sessions, gated; eight of them (479 utterances) are
public samples, too small to report a score on.

One CSV per session, in folders `Train/`, `Validation/`, `Test/` or loose. Columns: `ID` ("<session>_<index>"),
`Type` (T therapist, P patient), `Utterance`, `Dialog_Act` or `Dialogue_Act`; `Dialogue_Act_1` and `Emotion` are kept.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from heedful.corpora.base import Corpus, CorpusInfo, Count, Findings, read_csv
from heedful.errors import ConfigError, DataError, NotFoundError, shown
from heedful.taxonomy import hope, normalise
from heedful.types import Conversation, Label, Role, Turn

Acts = Literal["twelve", "merged_yna"]
SEED = 13
_ROLES: Mapping[str, Role] = {"P": "user", "T": "assistant"}
_FOLDERS = {"train": "train", "validation": "valid", "valid": "valid", "val": "valid", "dev": "valid", "test": "test"}
_ACT_COLUMNS = ("Dialog_Act", "Dialogue_Act")
_KEPT = ("Dialogue_Act_1", "Emotion")
_SAMPLES = {
    "163.csv": "514c34f033c729fd2eeec773d3f1389dd452e36368a192152157966e2c9a0b79",
    "204.csv": "f1f2ae68eb301a0e4c8a5caaeac1cc0a9d23d3a6562fed656631c138ad84f26b",
    "206.csv": "f2aee321b3f7a4710188d18eba1b3e9618647d92dd2bdc9c184c62aea6fd2c14",
    "27.csv": "3fa5b672e169bc532c3f2c8f6fea657ed1105dc378344554d11b59e855691d67",
    "48.csv": "4343cf7b53ee8bd4b1f7b5b987060c1c7741864c4733a1c3599be00b501d77c4",
    "67.csv": "0c288b5524a601623b1158c62af194f466c34f0bda47f57139d1a92aaf2dc7f8",
    "75.csv": "07d013c1ab800b77f2cd6bd8d49d848c8926c93dab8188597d0c72df90ed9ee2",
    "97.csv": "7ea6be1251f0a232751c8859758fe152af56a9666c46d3945b652232ba11c86c",
}
_SAMPLE_ACTS = {"id": 156, "irq": 140, "gc": 69, "ynq": 41, "yna": 31, "ack": 28, "gt": 14}

INFO = CorpusInfo(
    name="hope",
    title="HOPE: counselling sessions with twelve dialogue acts",
    url="https://github.com/LCS2-IIITD/SPARTA_WSDM2022",
    licence="none stated; by request, local use only",
    licence_class="L",
    lang="en",
    citation="Malhotra et al. (2022). Speaker and Time-aware Joint Contextual Learning for Dialogue-act "
    "Classification in Counselling Conversations. WSDM. arXiv 2111.06647.",
    splits=("train", "valid", "test"),
    gated="The full set is given out on request: fill in the form linked in the README of "
    "github.com/LCS2-IIITD/SPARTA_WSDM2022; eight sample sessions lie open there.",
    layers=("hope_act", "hope_act_merged"),
    folders=("hope", "hope_samples"),
    optional_files=_SAMPLES,
    example={
        "id": "9001",
        "source": "hope",
        "split": "train",
        "messages": [
            {"role": "assistant", "content": "Did you sleep at all?", "act_raw": "ynq"},
            {"role": "user", "content": "No, not since Sunday.", "act_raw": "yna"},
        ],
        "labels": [
            {"turn": 0, "set": "hope_act", "value": "YNQ", "source": "gold"},
            {"turn": 1, "set": "hope_act", "value": "NA", "source": "rule"},
        ],
    },
)


def read(
    folder: Path,
    *,
    acts: Acts = "twelve",
    table: Mapping[str, str | None] | None = None,
    seed: int = SEED,
    folds: int | None = None,
    fold: int = 0,
) -> list[Conversation]:
    """Read the sessions, sorted by number; turns by the number after the underscore.

    Args:
        folder: holds the CSVs, loose or in `Train/`, `Validation/`, `Test/`.
        acts: `twelve` decides `yna` by the first words (label source `rule`); `merged_yna` gives the eleven-class
            scheme, in which PA, NA and `yna` are one class, kept in label set `hope_act_merged` as "YNA".
        table: raw act string -> act or None; asked before the built-in table.
        seed: for loose files, which are divided 70:20:10 into train, test and valid by session; and for folds.
        folds: leave sessions out instead, whatever folders the files are in. All sessions are dealt into so many folds:
            `fold` is the test part, a tenth of all sessions (at least one) out of the next fold is the validation part,
            and the rest is the training part.
        fold: which one is left out, from 0.

    Raises:
        ConfigError: fewer than 2 folds, more folds than sessions, or no fold of this number.
        NotFoundError: no CSV in the folder.
        DataError: a file without the needed columns, or an ID that is not "<session>_<index>".
        LabelError: `table` leads to something that is no act.
    """
    files = sorted(folder.glob("*.csv")) + sorted(folder.glob("*/*.csv"))
    if not files:
        raise NotFoundError(f"Expected one CSV per session in '{folder}' or its folders, but there is none.")
    sessions: dict[str, list[tuple[int, dict[str, str]]]] = {}
    split_of: dict[str, str | None] = {}
    for path in files:
        split = _FOLDERS.get(path.parent.name.lower()) if path.parent != folder else None
        for number, row in read_csv(path, columns=("ID", "Type", "Utterance")):
            session, index = _place(row, f"{path}, line {number}")
            if split_of.setdefault(session, split) != split:
                raise DataError(f"{path}, line {number}: session {session} also stands in another split's folder.")
            sessions.setdefault(session, []).append((index, row))
    order = sorted(sessions, key=lambda s: (not s.isdigit(), int(s) if s.isdigit() else 0, s))
    if folds is not None:
        split_of.update(_leave_out(order, seed, folds=folds, fold=fold))
    elif not any(split_of.values()):
        split_of.update(_divide(order, seed))
    return [
        Conversation(
            id=session,
            turns=tuple(_turn(row, acts, table) for _, row in sorted(sessions[session], key=lambda pair: pair[0])),
            source="hope",
            licence=INFO.licence,
            split=split_of[session],
        )
        for session in order
    ]


def _place(row: Mapping[str, str], where: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.+)_(\d+)", row["ID"].strip())
    if match is None:
        raise DataError(f"{where}: ID must be '<session>_<index>', such as 75_0.")
    if row["Type"].strip().upper() not in _ROLES:
        raise DataError(f"{where}: Type must be T (therapist) or P (patient).")
    if not any(name in row for name in _ACT_COLUMNS):
        raise DataError(f"{where}: expected a column Dialog_Act or Dialogue_Act.")
    return match[1], int(match[2])


def _turn(row: Mapping[str, str], acts: Acts, table: Mapping[str, str | None] | None) -> Turn:
    raw = next(row[name] for name in _ACT_COLUMNS if name in row)
    text = row["Utterance"].strip()
    result = hope.normalise_act(raw, text=text, table=table)
    extra: dict[str, Any] = {"act_raw": raw, "act_known": result.known}
    if result.alternatives:
        extra["act_alt"] = list(result.alternatives)
    extra |= {name.lower(): row[name] for name in _KEPT if row.get(name, "").strip()}
    merged = acts == "merged_yna" and (result.source == "rule" or result.value in ("PA", "NA"))
    labels: tuple[Label, ...] = ()
    if acts == "merged_yna" and (merged or result.value):
        labels = (Label(set="hope_act_merged", value="YNA" if merged else str(result.value)),)
    elif result.value:
        labels = (Label(set="hope_act", value=result.value, source=result.source),)
    return Turn(role=_ROLES[row["Type"].strip().upper()], text=text, labels=labels, extra=extra)


def _divide(sessions: Sequence[str], seed: int) -> dict[str, str]:
    """70:20:10 train:test:valid by session."""
    shuffled = list(sessions)
    random.Random(seed).shuffle(shuffled)
    n_test, n_valid = round(0.2 * len(shuffled)), round(0.1 * len(shuffled))
    names = ["test"] * n_test + ["valid"] * n_valid + ["train"] * (len(shuffled) - n_test - n_valid)
    return dict(zip(shuffled, names, strict=True))


def _leave_out(sessions: Sequence[str], seed: int, *, folds: int, fold: int) -> dict[str, str]:
    """Session -> split where one of `folds` is left out; sessions are shuffled by `seed` and dealt out in turn."""
    if not 2 <= folds <= len(sessions) or not 0 <= fold < folds:
        raise ConfigError(
            f"dataset_options of hope: expected folds between 2 and the {len(sessions)} sessions there are, and fold "
            f"between 0 and folds - 1, but got folds: {folds}, fold: {fold}."
        )
    shuffled = list(sessions)
    random.Random(seed).shuffle(shuffled)
    split_of = dict.fromkeys(shuffled, "train")
    split_of.update(dict.fromkeys(shuffled[(fold + 1) % folds :: folds][: max(1, round(0.1 * len(shuffled)))], "valid"))
    split_of.update(dict.fromkeys(shuffled[fold::folds], "test"))
    return split_of


def check(conversations: Sequence[Conversation], folder: Path) -> Findings:
    """Sessions, utterances and raw acts; against the known numbers where the folder holds the eight samples."""
    turns = [t for c in conversations for t in c.turns]
    # Only known strings are listed by name: in a file with swapped columns the others are what people said.
    raw = Counter(_first_act(t) for t in turns if t.extra["act_known"])
    samples = {c.id for c in conversations} == {name.removesuffix(".csv") for name in _SAMPLES}
    wanted = _SAMPLE_ACTS if samples else {}
    counts = [
        Count(name="sessions", found=len(conversations), expected=8 if samples else None),
        Count(name="utterances", found=len(turns), expected=479 if samples else None),
    ]
    counts += [
        Count(name=f"{split} sessions", found=sum(c.split == split for c in conversations)) for split in INFO.splits
    ]
    counts += [
        Count(name=f"raw act {act or '(empty)'}", found=raw[act], expected=wanted.get(act))
        for act in sorted({*raw, *wanted}, key=lambda act: (-raw[act], act))
    ]
    by_rule = sum(label.source == "rule" for t in turns for label in t.labels)
    counts += [
        Count(name="yes or no decided by rule", found=by_rule),
        Count(name="utterances without an act", found=sum(t.label("hope_act") is None for t in turns)),
    ]
    strange = Counter(shown(str(t.extra["act_raw"]).strip()) for t in turns if not t.extra["act_known"])
    warnings = [f"Unknown act {act} on {n} utterances; left without an act." for act, n in strange.most_common(20)]
    if len(strange) > 20:
        warnings.append(f"{len(strange) - 20} more unknown acts. Is the act column swapped with another one?")
    if samples:
        warnings.append("These are the eight public samples; nothing measured on them is a benchmark.")
    return Findings(counts=tuple(counts), warnings=tuple(warnings))


def _first_act(turn: Turn) -> str:
    """The part of the cell that counts (see `hope.normalise_act`), as compared."""
    return normalise(re.split(r"[,/]", str(turn.extra["act_raw"]))[0])


HOPE = Corpus(info=INFO, read=read, check=check)
