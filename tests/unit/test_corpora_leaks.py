"""The leak check finds what was planted, and nothing in clean data."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from heedful import corpora
from heedful.corpora.leaks import SHINGLE_WORDS, SIMILARITY, grams, words
from heedful.errors import LeakError
from heedful.types import Conversation, Turn

STEMS = ["kelt", "brin", "sova", "mard", "tull", "onde", "fysk", "rapa"]
VOCABULARY = [stem + end for stem in STEMS for end in ("a", "en", "il", "os")]


def invent(rng: random.Random, n: int) -> str:
    return " ".join(rng.choice(VOCABULARY) for _ in range(n))


def talk(
    id: str, split: str | None, *texts: str, group: str | None = None, situation: str | None = None
) -> Conversation:
    roles = ("user", "assistant")
    turns = tuple(Turn(role=roles[i % 2], text=text) for i, text in enumerate(texts))  # type: ignore[arg-type]
    return Conversation(id=id, turns=turns, split=split, group=group, situation=situation)


@pytest.fixture
def clean() -> list[Conversation]:
    rng = random.Random(3)
    splits = ["train"] * 6 + ["valid"] * 2 + ["test"] * 2
    return [talk(f"c{i}", s, *(invent(rng, 12) for _ in range(4))) for i, s in enumerate(splits)]


def kinds(talks: list[Conversation]) -> dict[tuple[str, str, tuple[str, str]], int]:
    return {(f.kind, f.level, f.splits): f.count for f in corpora.find_leaks(talks).findings}


def test_clean_data_has_no_finding(clean: list[Conversation]) -> None:
    report = corpora.find_leaks(clean)
    assert report.findings == ()
    assert (report.conversations, report.turns) == (10, 40)
    report.refuse()


def test_shared_id_and_group(clean: list[Conversation]) -> None:
    rng = random.Random(4)
    planted = [
        talk("c0", "test", invent(rng, 12), invent(rng, 12)),
        talk("x", "train", invent(rng, 12), invent(rng, 12), group="speaker-9"),
        talk("y", "valid", invent(rng, 12), invent(rng, 12), group="speaker-9"),
    ]
    assert kinds([*clean, *planted]) == {
        ("conversation", "leak", ("train", "test")): 1,
        ("group", "leak", ("train", "valid")): 1,
    }


def spoken(c: Conversation, *, user: str | None = None, assistant: str | None = None) -> Conversation:
    who = {"user": user, "assistant": assistant}
    return replace(c, turns=tuple(replace(turn, speaker_id=who[turn.role]) for turn in c.turns))


def test_the_same_help_seeker_is_a_leak_and_the_same_supporter_a_note(clean: list[Conversation]) -> None:
    rng = random.Random(8)
    new = [talk(f"x{i}", s, invent(rng, 12), invent(rng, 12)) for i, s in enumerate(("train", "train", "test"))]
    planted = [
        spoken(new[0], user="person-7", assistant="helper-2"),
        spoken(new[1], user="person-8", assistant="helper-2"),
        spoken(new[2], user="person-7", assistant="helper-2"),
    ]
    report = corpora.find_leaks([*clean, *planted])
    assert kinds([*clean, *planted]) == {
        ("speaker", "leak", ("train", "test")): 1,
        ("supporter", "overlap", ("train", "test")): 1,
    }
    with pytest.raises(LeakError, match=r"help-seekers \(speaker_id of a user's turn\) in both .*: 1, such as x0 / x2"):
        report.refuse()
    report.refuse(known={"speaker train/test": 1})
    assert "person-7" not in json.dumps(report.to_dict())


def test_one_id_for_a_seeker_here_and_a_supporter_there_is_no_leak(clean: list[Conversation]) -> None:
    rng = random.Random(9)
    planted = [
        spoken(talk("x", "train", invent(rng, 12), invent(rng, 12)), user="1"),
        spoken(talk("y", "test", invent(rng, 12), invent(rng, 12)), assistant="1"),
    ]
    assert kinds([*clean, *planted]) == {}


def test_near_copy_of_a_conversation(clean: list[Conversation]) -> None:
    copied = [t.text for t in clean[2].turns]
    copied[0] = copied[0].replace(copied[0].split()[0], "Otherword", 1).upper() + " !"
    found = kinds([*clean, talk("x", "test", *copied)])
    assert found[("near-copy", "leak", ("train", "test"))] == 1
    assert found[("turn", "overlap", ("train", "test"))] == 3


def test_near_copy_threshold_is_exact() -> None:
    """Every pair that brute force finds is found, and no other."""
    rng = random.Random(5)
    base = [invent(rng, 60).split() for _ in range(12)]
    talks = []
    for i, tokens in enumerate(base):
        talks.append(talk(f"a{i}", "train", " ".join(tokens), "Yes."))
        changed = list(tokens)
        for at in rng.sample(range(60), k=i % 6):
            changed[at] = "changed"
        talks.append(talk(f"b{i}", "test", " ".join(changed), "Yes."))

    def similar(a: Conversation, b: Conversation) -> bool:
        x, y = (grams(words(" ".join(t.text for t in c)), SHINGLE_WORDS) for c in (a, b))
        return len(x & y) >= SIMILARITY * len(x | y)

    expected = sum(similar(a, b) for a in talks if a.split == "train" for b in talks if b.split == "test")
    assert 0 < expected < 12
    assert kinds(talks)[("near-copy", "leak", ("train", "test"))] == expected


def test_equal_short_conversations_are_near_copies(clean: list[Conversation]) -> None:
    rng = random.Random(6)
    texts = invent(rng, 6), invent(rng, 5)
    found = kinds([*clean, talk("x", "train", *texts), talk("y", "valid", *texts)])
    assert found[("near-copy", "leak", ("train", "valid"))] == 1


def test_turns_situations_and_stock_replies_are_notes(clean: list[Conversation]) -> None:
    rng = random.Random(7)
    long_reply, where = invent(rng, 8), invent(rng, 30)
    near = " ".join(["Other", *where.split()[1:]])
    planted = [
        talk("x", "train", invent(rng, 20), long_reply, situation=where),
        talk("y", "test", invent(rng, 20), long_reply.title() + "!", situation=where),
        talk("z", "valid", invent(rng, 20), "Thank you.", situation=near),
        talk("w", "train", invent(rng, 20), "thank you"),
    ]
    report = corpora.find_leaks([*clean, *planted])
    assert report.leaks == ()
    assert kinds([*clean, *planted]) == {
        ("situation", "overlap", ("train", "test")): 1,
        ("near-situation", "overlap", ("train", "valid")): 1,
        ("near-situation", "overlap", ("valid", "test")): 1,
        ("turn", "overlap", ("train", "test")): 1,
        ("stock", "overlap", ("train", "valid")): 1,
    }


def test_one_split_or_none_is_never_a_leak(clean: list[Conversation]) -> None:
    twins = [talk("x", "train", "a b c", "d"), talk("x", "train", "a b c", "d"), talk("x", None, "a b c", "d")]
    assert corpora.find_leaks(twins).findings == ()
    assert corpora.find_leaks([]).findings == ()


def test_refuse_and_known_leaks(clean: list[Conversation]) -> None:
    report = corpora.find_leaks([*clean, talk("c0", "test", "one", "two")])
    with pytest.raises(LeakError, match=r"leak: conversation ids in both train and test: 1, such as c0\."):
        report.refuse()
    report.refuse(known={"conversation train/test": 1})
    with pytest.raises(LeakError):
        report.refuse(known={"conversation train/valid": 1})


def test_no_text_in_the_report(clean: list[Conversation]) -> None:
    secret = "my sister Wilhelmina moved out of the lighthouse last winter"
    report = corpora.find_leaks([*clean, talk("x", "train", secret, "a"), talk("y", "test", secret, "b")])
    assert report.findings
    assert "lighthouse" not in repr(report) + str(report.to_dict()) + " ".join(f.sentence() for f in report.findings)


def test_shared_runs() -> None:
    own = [talk("a", None, "we carried the long blue ladder over the wet garden wall", "why")]
    other = [talk("b", None, "He said: we carried the long blue ladder over the wet grass.", "no")]
    assert corpora.shared_runs(own, other, n=9) == [("a", 0, "b")]
    assert corpora.shared_runs(own, other, n=11) == []
