"""CounselChat: public counselling questions with therapists' answers, as conversations of two turns.

Source: Bertagnolli, counsel-chat (GitHub nbertagnolli/counsel-chat). "MIT" is the scraper's own word over the
therapists' texts, so treat it as not cleared. Names, addresses and phone numbers are masked in the file
(`[therapist]`, `[email]`, `[url]`, `[phone]`); a model trained on the raw answers would learn to sign, so sentences
with such a mark, sign-offs and lines of credentials are taken out (`text="clean"`).

Only the newer file (`20200325_counsel_chat.csv`) is read: the older dump holds HTML and repeats 1,367 of its answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from heedful.corpora.base import Corpus, CorpusInfo, Count, Findings, need_file, read_csv
from heedful.errors import DataError
from heedful.types import Conversation, Turn

FILE = "20200325_counsel_chat.csv"
COLUMNS = (
    "row",
    "questionID",
    "questionTitle",
    "questionText",
    "topic",
    "therapist_id",
    "answerText",
    "upvotes",
    "split",
)
_SPLITS = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}
_EXPECTED = {"train": 1_839, "valid": 173, "test": 117}

INFO = CorpusInfo(
    name="counsel_chat",
    title="CounselChat: public questions answered by therapists",
    url="https://github.com/nbertagnolli/counsel-chat",
    licence="MIT (stated by the scraper; the texts belong to their authors)",
    licence_class="R*",
    lang="en",
    citation="Bertagnolli (2020). Counsel chat: bootstrapping high-quality therapy data.",
    splits=("train", "valid", "test"),
    gated=None,
    layers=(),
    folders=("counsel_chat",),
    # Two questions stand in the file under two ids each, with their answers.
    known_leaks={"near-copy train/valid": 2, "near-copy train/test": 38},
    files={FILE: "ab2c59dd98dce84630797ba34c942d4ba06d3ccaea9d3e8f6dc3eeafed97ae5e"},
    example={
        "id": "0",
        "source": "counsel_chat",
        "split": "train",
        "group": "question-0",
        "situation": "Should I tell my sister?",
        "problem_type": "family-conflict",
        "messages": [
            {"role": "user", "content": "My sister lent me money and I spent it on something else."},
            {"role": "assistant", "content": "What would you want to know, if you were her?"},
        ],
        "therapist_id": "12",
        "upvotes": 3,
    },
)

_MARK = re.compile(r"\[(?:therapist|email|url|phone)\]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)")
_SIGN_OFF = re.compile(
    r"(?:(?:kind|best|warm|warmest|sincere)\s+(?:regards|wishes)|best|warmly|sincerely|respectfully|regards|blessings|"
    r"namaste|cheers|yours(?:\s+truly)?|in\s+(?:peace|health|kindness)|be\s+well|take\s+care|wishing\s+you\s+well|"
    r"good\s+luck|all\s+the\s+best|peace)\W*",
    re.IGNORECASE,
)
_CREDENTIAL = re.compile(
    r"\b(?:Ph\.?\s?D|Psy\.?\s?D|Ed\.?\s?D|M\.?\s?Ed|LMFTA?|LMHC|LPCC?|LPC-?S?|LCSW(?:-?[A-Z])?|LICSW|LCPC|LCMHC|MFT|"
    r"MSW|NCC|CADC|LADC|CSAT|RN|CCH|LMSW|LPA|LCAT|AMFT|MFTI|CHT|BCPC)\b"
)
_TAIL = 4
"""Sign-offs and credentials are looked for in the last lines only."""


def read(folder: Path, *, text: Literal["clean", "raw"] = "clean") -> list[Conversation]:
    """Read one conversation per answer; `group` is the question, `situation` its title.

    Args:
        folder: the corpus folder.
        text: `clean` takes out contact marks, sign-offs and credentials (an answer of which nothing is left is
            dropped), `raw` leaves the answer as it is, apart from blanks.

    Raises:
        NotFoundError: the file is missing.
        DataError: a row that cannot be used.
    """
    path = need_file(folder, FILE)
    conversations = []
    for number, row in read_csv(path, columns=COLUMNS):
        if row["split"] not in _SPLITS:
            raise DataError(f"{path}, line {number}: split must be one of {', '.join(_SPLITS)}.")
        if not re.fullmatch(r"\d*", row["upvotes"].strip()):
            raise DataError(f"{path}, line {number}: upvotes must be a whole number or empty.")
        question = _blanks(row["questionText"]) or _blanks(row["questionTitle"])
        answer = _blanks(row["answerText"])
        if text == "clean":
            answer = clean_answer(answer)
        if question and answer:
            conversations.append(_conversation(row, question, answer))
    return conversations


def _conversation(row: Mapping[str, str], question: str, answer: str) -> Conversation:
    return Conversation(
        id=row["row"],
        turns=(
            Turn(role="user", text=question),
            Turn(role="assistant", text=answer, speaker_id=f"therapist-{row['therapist_id']}"),
        ),
        source="counsel_chat",
        licence=INFO.licence,
        split=_SPLITS[row["split"]],
        situation=_blanks(row["questionTitle"]) or None,
        problem_type=row["topic"] or None,
        group=f"question-{row['questionID']}",
        extra={"therapist_id": row["therapist_id"], "upvotes": int(row["upvotes"].strip() or 0)},
    )


def _blanks(text: str) -> str:
    """Non-breaking spaces and runs of blanks become one blank; line ends stay."""
    lines = (" ".join(line.split()) for line in text.replace("\u00a0", " ").splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def clean_answer(answer: str) -> str:
    """The answer without sentences that hold a contact mark, and without sign-off and credentials at its end.

    >>> clean_answer("Start with one small step. Call me at [phone].\\nWarmly,\\n[therapist], LMFT")
    'Start with one small step.'
    """
    lines = answer.split("\n")
    full = [i for i, line in enumerate(lines) if line.strip()]
    tail = set(full[-_TAIL:])
    kept: list[str] = []
    for i, line in enumerate(lines):
        if i in tail and _closes(line):
            continue
        sentences = [s for s in _SENTENCE_END.split(line) if not _MARK.search(s)]
        kept.append(" ".join(sentences))
    return _blanks("\n".join(kept))


def _closes(line: str) -> bool:
    short = len(line.split()) <= 12
    return bool(short and (_SIGN_OFF.fullmatch(line.strip()) or _CREDENTIAL.search(line)))


def check(conversations: Sequence[Conversation], folder: Path) -> Findings:
    """Answers per split, questions, marks that are left, answers of which cleaning left nothing."""
    raw = read(folder, text="raw")
    splits = Counter(c.split for c in raw)
    counts = [Count(name=f"{split} answers", found=splits[split], expected=n) for split, n in _EXPECTED.items()]
    left = sum(bool(_MARK.search(c.turns[1].text)) for c in conversations)
    before = {c.id: c.turns[1].text for c in raw}
    counts += [
        Count(name="questions", found=len({c.group for c in raw}), expected=815),
        Count(name="answers with contact marks left", found=left, expected=0),
        Count(name="answers shortened by cleaning", found=sum(c.turns[1].text != before[c.id] for c in conversations)),
        Count(name="answers dropped by cleaning", found=len(raw) - len(conversations)),
    ]
    return Findings(counts=tuple(counts))


COUNSEL_CHAT = Corpus(info=INFO, read=read, check=check)
