"""Preference data: files in TRL's columns, and pairs made from conversations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heedful import corpora
from heedful.errors import ConfigError, DataError, LeakError, NotFoundError
from heedful.settings import check
from heedful.testing import conversation, conversations
from heedful.training.preferences import (
    Answer,
    Preference,
    PreferenceSettings,
    gather,
    hold_out,
    is_preference_file,
    merged_replies,
    random_pairs,
    read_file,
    read_traces,
    trace_pairs,
)
from heedful.types import Trace, Turn

SECRET = "zebra lantern"


def settings(dataset: Path | str, **more: Any) -> PreferenceSettings:
    return check(PreferenceSettings, {"dataset": str(dataset), **more})


def lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    return path


def talks(tmp_path: Path, *splits: str) -> Path:
    found = [
        replace(c, split=split)
        for k, split in enumerate(splits)
        for c in conversations(6, seed=k + 1, id=f"{split}{k}")
    ]
    path = tmp_path / "talks.jsonl"
    corpora.write_jsonl(path, found)
    return path


# ------------------------------------------------------------------------------------------------ random replies


def test_the_worse_reply_is_one_of_another_talk() -> None:
    found = conversations(8, seed=3)
    pairs = random_pairs(found, merged_replies, draw="13/0")
    of = {c.id: {t.text for t in c.merged().turns} for c in found}
    assert [p.id for p in pairs] == [f"{c.id}/{i}" for c in found for i, *_ in merged_replies(c)]
    for pair in pairs:
        assert pair.chosen.text in of[pair.conversation_id]
        assert any(pair.rejected.text in said for id, said in of.items() if id != pair.conversation_id)
        assert pair.chosen.text != pair.rejected.text
        assert pair.context.turns[-1].role == "user"


def test_equal_seeds_draw_equal_pairs() -> None:
    found = conversations(8, seed=3)
    one, again, other = (random_pairs(found, merged_replies, draw=d) for d in ("13/0", "13/0", "14/0"))
    assert one == again
    assert [p.rejected for p in one] != [p.rejected for p in other]


def test_one_talk_has_no_other_reply() -> None:
    with pytest.raises(DataError, match="at least two conversations of a split, but only 1 of 1"):
        random_pairs([conversation("Hi.", "Hello.")], merged_replies, draw="1")


def test_splits_are_kept_apart(tmp_path: Path) -> None:
    found = gather(settings(talks(tmp_path, "train", "valid")), seed=13)
    train_texts = {t.text for c in corpora.load(str(tmp_path / "talks.jsonl"), "train") for t in c.merged().turns}
    assert {p.conversation_id[:5] for p in found.train} == {"train"}
    assert {p.conversation_id[:5] for p in found.held} == {"valid"}
    assert all(p.rejected.text in train_texts for p in found.pairs("train"))
    assert found.form == "pairs"
    assert "at random" in found.negatives
    assert found.hash != gather(settings(tmp_path / "talks.jsonl"), seed=14).hash


# -------------------------------------------------------------------------------------------- replies of a run


def trace(turn: int, reply: str, reference: str | None, id: str = "toy") -> Trace:
    return Trace(id=f"{id}/{turn}", conversation_id=id, turn=turn, reply=reply, reference=reference)


def test_a_run_wrote_the_worse_reply() -> None:
    conv = conversation("Hi.", "Hello.", "I am tired.", "Since when?")
    pairs, equal = trace_pairs([conv], [trace(1, "Bye.", "Hello."), trace(3, "since  when?", "Since when?")])
    assert equal == 1
    assert [(p.chosen.text, p.rejected.text, len(p.context)) for p in pairs] == [("Hello.", "Bye.", 1)]


def test_turns_count_as_the_run_counted_them() -> None:
    turns = [Turn(role=r, text=t) for r, t in (("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"))]
    conv = replace(conversation("x", "y"), turns=tuple(turns))
    single, _ = trace_pairs([conv], [trace(2, "no", "c")])
    joined, _ = trace_pairs([conv], [trace(1, "no", "c d")])
    assert (single[0].chosen.text, len(single[0].context)) == ("c", 2)
    assert (joined[0].chosen.text, len(joined[0].context)) == ("c d", 1)


def test_traces_of_other_data_are_refused() -> None:
    with pytest.raises(DataError, match="'toy/1' does not fit its conversation") as err:
        trace_pairs([conversation("Hi.", SECRET)], [trace(1, "Bye.", "Something else.")])
    assert SECRET not in str(err.value)


def test_traces_of_another_split_are_not_enough(tmp_path: Path) -> None:
    path = lines(tmp_path / "traces.jsonl", {"header": {}}, trace(1, "Bye.", None, "elsewhere").to_dict())
    with pytest.raises(DataError, match=r"None of the 1 replies in .* belongs to the 6 conversations of split 'train'"):
        gather(settings(talks(tmp_path, "train", "valid"), negatives=str(path)), seed=1)


def test_a_file_of_traces_makes_pairs(tmp_path: Path) -> None:
    data = talks(tmp_path, "train", "valid")
    written = [
        trace(i, "I see.", conv.merged().turns[i].text, conv.id).to_dict()
        for conv in corpora.load(str(data))
        for i, *_ in merged_replies(conv)
    ]
    path = lines(tmp_path / "traces.jsonl", {"header": {}}, *written)
    found = gather(settings(data, negatives=str(path)), seed=1)
    assert {p.rejected.text for p in found.pairs("train")} == {"I see."}
    assert len(found.train) + len(found.held) == len(written)
    assert found.negatives == f"generated replies of {path}"


# ------------------------------------------------------------------------------------------------------- files


def test_texts_and_messages_say_the_same(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "p.jsonl",
        {"prompt": "I am sad.", "chosen": "That is hard.", "rejected": "So?"},
        {
            "prompt": [{"role": "user", "content": "I am sad."}],
            "chosen": [{"role": "assistant", "content": "That is hard."}],
            "rejected": [{"role": "assistant", "content": "So?"}],
        },
    )
    first, second = read_file(path)
    assert isinstance(first, Preference)
    assert isinstance(second, Preference)
    assert first.context == second.context
    assert (first.chosen, first.rejected) == (second.chosen, second.rejected)
    assert is_preference_file(str(path))


def test_single_replies(tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", {"prompt": "I am sad.", "completion": "So?", "label": False})
    (found,) = read_file(path)
    assert isinstance(found, Answer)
    assert (found.reply.text, found.label) == ("So?", False)


GOOD = {"prompt": "a", "chosen": "b", "rejected": "c"}
BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "no prompt": ([{"chosen": SECRET, "rejected": "c"}], r"line 1: 'prompt' must be a text or a list of messages, but"),
    "no rejected": ([{"prompt": SECRET, "chosen": SECRET}], r"line 1: 'rejected' must be a text, or messages"),
    "the same": ([{"prompt": "a", "chosen": SECRET, "rejected": SECRET}], r"line 1: chosen and rejected are the same"),
    "label": (
        [{"prompt": "a", "completion": SECRET, "label": 1}],
        r"line 1: 'label' must be true or false, but it is 1",
    ),
    "mixed": ([GOOD, {"prompt": "a", "completion": SECRET, "label": True}], r"line 2: pairs .* cannot be mixed"),
    "role": ([{**GOOD, "prompt": [{"role": SECRET, "content": "a"}]}], r"line 1: .*role"),
    "user ends": ([{**GOOD, "chosen": [{"role": "user", "content": SECRET}]}], r"line 1: 'chosen' must be a text"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_lines_are_named_and_not_quoted(tmp_path: Path, case: str) -> None:
    records, said = BAD[case]
    with pytest.raises(DataError, match=said) as err:
        read_file(lines(tmp_path / "p.jsonl", *records))
    assert SECRET not in str(err.value)


def test_what_is_held_out_is_whole_conversations(tmp_path: Path) -> None:
    records = [{**GOOD, "prompt": f"p{k % 10}", "rejected": f"c{k}"} for k in range(40)]
    found = gather(settings(lines(tmp_path / "p.jsonl", *records), eval_share=0.3), seed=5)
    train, held = ({e.context.turns[0].text for e in part} for part in (found.train, found.held))
    assert (len(train), len(held)) == (7, 3)
    assert not train & held
    assert any("12 of 40 lines are held out" in note for note in found.notes)
    same = hold_out(read_file(tmp_path / "p.jsonl"), 0.3, seed=5)[1]
    assert [e.id for e in same] == [e.id for e in found.held]


def test_a_prompt_of_the_training_part_is_not_held_out(tmp_path: Path) -> None:
    records = [{**GOOD, "prompt": f"p{k % 5}", "conversation_id": k} for k in range(20)]
    found = gather(settings(lines(tmp_path / "p.jsonl", *records), eval_share=0.3), seed=5)
    assert len(found.train) == 14
    assert not {e.context.turns[0].text for e in found.train} & {e.context.turns[0].text for e in found.held}
    assert any("lines are in neither part" in note for note in found.notes)


def test_a_file_may_state_its_splits(tmp_path: Path) -> None:
    records = [{**GOOD, "prompt": f"p{k}", "split": "train" if k else "valid", "licence": "MIT"} for k in range(5)]
    path = lines(tmp_path / "p.jsonl", *records)
    found = gather(settings(path), seed=1)
    assert [e.context.turns[0].text for e in found.held] == ["p0"]
    assert found.licence == "MIT"
    with pytest.raises(NotFoundError, match=r"has no line with split 'dev'\. It has: train, valid\."):
        gather(settings(path, eval_split="dev"), seed=1)


# ----------------------------------------------------------------------------------------------------- refusals


def test_the_test_split_teaches_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train_split is test"):
        settings("mesc", train_split="test")
    with pytest.raises(ConfigError, match="both valid"):
        settings("mesc", train_split="valid")
    data = talks(tmp_path, "train", "test")
    with pytest.raises(ConfigError, match=r"6 of the training examples are of the split 'test'"):
        gather(settings(data, train_split=None, eval_split=None), seed=1)
    path = lines(tmp_path / "p.jsonl", {**GOOD, "split": "test"}, {**GOOD, "split": "train"})
    with pytest.raises(ConfigError, match=r"1 of the training examples are of the split 'test'"):
        gather(settings(path, train_split=None, eval_split=None), seed=1)


def test_one_prompt_on_both_sides_is_a_leak(tmp_path: Path) -> None:
    sides = [{**GOOD, "split": s, "conversation_id": s} for s in ("train", "valid")]
    path = lines(tmp_path / "p.jsonl", *sides)
    with pytest.raises(LeakError, match="1 conversations or prompts stand in both"):
        gather(settings(path), seed=1)
    assert len(gather(settings(path, allow_leaks=True), seed=1).held) == 1


def test_a_file_of_preferences_has_its_own_negatives(tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", GOOD)
    with pytest.raises(ConfigError, match="brings its own rejected replies; leave out negatives"):
        gather(settings(path, negatives="random_reply"), seed=1)


def test_a_line_that_is_no_trace_is_named(tmp_path: Path) -> None:
    good = Trace(id="t/1", conversation_id="t", turn=1, reply="Hm.").to_dict()
    path = lines(tmp_path / "traces.jsonl", good, {"reply": SECRET})
    with pytest.raises(DataError, match=r"traces\.jsonl, line 2: A trace needs") as err:
        read_traces(path)
    assert SECRET not in str(err.value)
