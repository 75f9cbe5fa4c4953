"""ESConv: 1,300 crowd-worker emotional-support chats, every supporter turn labelled with one of 8 strategies.

Source: Liu et al., *Towards Emotional Support Dialog Systems*, ACL 2021 (arXiv 2106.01144). Split: `codes_zcj` of the
released code, `random.seed(13)`, 15 % valid, 15 % test. Non-commercial; academic use only.

The emotion that the seeker chose before the chat is a label of the conversation (set `esconv_emotion`).

Needs `zcj_split/{train,valid,test}.jsonl`. With `ESConv_reconstructed.json` beside it, seeker feedback (label set
`feedback`, "1" to "5") and the closing survey are joined in, by equal situation and equal turns within the split; the
two files hold the talks in different order. 150 seekers did not finish the survey: their scores are None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from heedful.corpora import esconv_counts as counts
from heedful.corpora.base import Corpus, CorpusInfo, Findings, find_file, gold, need_file, read_json
from heedful.corpora.jsonl import read_objects
from heedful.errors import DataError
from heedful.types import Conversation, Role, Turn

SURVEY = ("initial_emotion_intensity", "final_emotion_intensity", "empathy", "relevance")
_ROLES: Mapping[str, Role] = {
    "usr": "user",
    "sys": "assistant",
    "seeker": "user",
    "supporter": "assistant",
    "speaker": "user",
    "listener": "assistant",
}

INFO = CorpusInfo(
    name="esconv",
    title="ESConv: emotional support chats with 8 support strategies",
    url="https://github.com/thu-coai/Emotional-Support-Conversation",
    licence="CC-BY-NC-4.0",
    licence_class="NC",
    lang="en",
    citation="Liu et al. (2021). Towards Emotional Support Dialog Systems. ACL. arXiv 2106.01144.",
    splits=("train", "valid", "test"),
    gated=None,
    layers=("esconv_strategy", "feedback", "esconv_emotion"),
    folders=("esconv",),
    files={
        "zcj_split/train.jsonl": "3479656501c3469a4ba1a70eda7f04621b02e39b01482515f5f254e0f14434d4",
        "zcj_split/valid.jsonl": "64a641ee1235bf70d809e0eb8789fb2302ffda57a1ee03048e33c9b588e50833",
        "zcj_split/test.jsonl": "0fcbe0d35e1a5c713572d01d1aaff65742475d8131de68357bb49e1449936a73",
    },
    optional_files={
        "ESConv_reconstructed.json": "4f1ea0761b31def52ab78892a87aa35dbc32302e1a2dc97a519e4558a0de7426",
        "FailedESConv.json": "d21bad5409d88ecbca18abfee26a8c188d09c34b03962cb53a4c30d8de95b279",
        "official1053_devWithStrategy_short.tsv": "625b511f40cf9a9285582e808e6bbb4c2f35d0b0cd063f3709db430b8d0c3bdc",
        "official1053_testWithStrategy_short.tsv": "b85ae888bf747cefa54bba2a6c3e2f6ccb4c1005d4e0b6d1d3be3823cf040aef",
        "strategy.json": "79d335ea4d5b2e460cf2f1ffab100b2d7486624f9554de7927713e941458c73c",
    },
    example={
        "id": "train-0000",
        "source": "esconv",
        "split": "train",
        "situation": "My shifts were cut and I do not know how to tell my flatmate.",
        "problem_type": "job crisis",
        "survey": {"initial_emotion_intensity": 4, "final_emotion_intensity": 2, "empathy": 5, "relevance": 4},
        "messages": [
            {"role": "user", "content": "They halved my hours this week."},
            {"role": "assistant", "content": "When does the new rota start?"},
        ],
        "labels": [
            {"turn": 0, "set": "feedback", "value": "4", "source": "gold"},
            {"turn": 1, "set": "esconv_strategy", "value": "Question", "source": "gold"},
            {"turn": None, "set": "esconv_emotion", "value": "anxiety", "source": "gold"},
        ],
    },
)


def read(folder: Path, *, part: Literal["zcj", "failed"] = "zcj") -> list[Conversation]:
    """Read the talks.

    Args:
        folder: the corpus folder.
        part: `zcj` for the 1,300 talks in their three splits, `failed` for the 196 talks that did not help
            (a negative set without splits; old strategy names are brought to the 8).

    Raises:
        NotFoundError: a file is missing.
        DataError: a record is not as expected; the message names file and line.
    """
    if part == "failed":
        return _read_failed(need_file(folder, "FailedESConv.json"))
    original = find_file(folder, "ESConv_reconstructed.json")
    survey = _index(original) if original else {}
    conversations = []
    for split in INFO.splits:
        path = need_file(folder, f"zcj_split/{split}.jsonl")
        for i, (number, record) in enumerate(read_objects(path)):
            where = f"{path}, line {number}"
            try:
                conversations.append(_conversation(record, survey, split=split, index=i, where=where))
            except (KeyError, TypeError, AttributeError) as err:
                raise _broken(where) from err
    return conversations


def _conversation(
    record: Mapping[str, Any], survey: Mapping[Any, Mapping[str, Any]], *, split: str, index: int, where: str
) -> Conversation:
    texts = [turn["text"] for turn in record["dialog"]]
    twin = survey.get(_key(split, record["situation"], texts))
    turns = []
    for i, turn in enumerate(record["dialog"]):
        labels = [gold("esconv_strategy", turn["strategy"], where=where)] if turn.get("strategy") else []
        feedback = twin["dialog"][i]["annotation"].get("feedback") if twin else None
        if feedback is not None:
            labels.append(gold("feedback", str(feedback), where=where))
        turns.append(Turn(role=_ROLES[turn["speaker"]], text=turn["text"], labels=tuple(labels)))
    return Conversation(
        id=f"{split}-{index:04d}",
        turns=tuple(turns),
        source="esconv",
        licence=INFO.licence,
        split=split,
        situation=record["situation"],
        problem_type=record["problem_type"],
        known={"emotion_type": record["emotion_type"]},
        survey=_survey(twin, where) if twin else {},
        labels=(gold("esconv_emotion", record["emotion_type"], where=where),),
        extra={"orig_index": twin["orig_index"]} if twin else {},
    )


def _survey(record: Mapping[str, Any], where: str) -> dict[str, float | None]:
    scores = record["survey_score"]["seeker"]
    try:
        return {name: float(scores[name]) if scores.get(name) is not None else None for name in SURVEY}
    except ValueError:
        # Without its cause, which repeats the value.
        raise DataError(f"{where}: each score of the survey must be a number or null.") from None


def _key(split: str, situation: str, texts: Sequence[str]) -> tuple[str, ...]:
    # White space differs between the two files, so it is not compared.
    return (split, *(" ".join(text.split()) for text in (situation, *texts)))


def _index(path: Path) -> dict[tuple[str, ...], Mapping[str, Any]]:
    try:
        return {
            _key(r["split_zcj_seed13"], r["situation"], [t["content"] for t in r["dialog"]]): r for r in read_json(path)
        }
    except (KeyError, TypeError, AttributeError) as err:
        raise _broken(str(path)) from err


def _read_failed(path: Path) -> list[Conversation]:
    conversations = []
    for i, record in enumerate(read_json(path)):
        where = f"{path}, record {i}"
        try:
            turns = []
            for turn in record["dialog"]:
                note = turn["annotation"]
                labels = [gold("esconv_strategy", note["strategy"], where=where)] if note.get("strategy") else []
                labels += [gold("feedback", str(note["feedback"]), where=where)] if note.get("feedback") else []
                turns.append(Turn(role=_ROLES[turn["speaker"]], text=turn["content"].strip(), labels=tuple(labels)))
            conversations.append(
                Conversation(
                    id=f"failed-{i:04d}",
                    turns=tuple(turns),
                    source="esconv",
                    licence=INFO.licence,
                    situation=record["situation"],
                    problem_type=record["problem_type"],
                    survey=_survey(record, where),
                    labels=(gold("esconv_emotion", record["emotion_type"], where=where),),
                    known={"emotion_type": record["emotion_type"], "experience_type": record.get("experience_type")},
                )
            )
        except (KeyError, TypeError, AttributeError) as err:
            raise _broken(where) from err
    return conversations


def _broken(where: str) -> DataError:
    return DataError(f"{where}: not an ESConv record; a field is missing or has the wrong type. Get the file again.")


def check(conversations: Sequence[Conversation], folder: Path) -> Findings:
    """Every number that is known of the corpus, of the files that are here (`esconv_counts`)."""
    found = [*counts.sizes(conversations), *counts.strategies(conversations), *counts.overlaps(conversations)]
    if find_file(folder, "ESConv_reconstructed.json") is not None:
        found += counts.surveys(conversations)
    if find_file(folder, "FailedESConv.json") is not None:
        found += counts.failed(read(folder, part="failed"))
    found += counts.official(conversations, folder)
    supporters = [t for c in conversations for t in c.turns if t.role == "assistant"]
    problems = []
    if any(t.label("esconv_strategy") is None for t in supporters):
        problems.append("Supporter turns without a strategy exist.")
    if (problem := counts.tokens_in_order(folder)) is not None:
        problems.append(problem)
    return Findings(counts=tuple(found), problems=tuple(problems))


ESCONV = Corpus(info=INFO, read=read, check=check)
