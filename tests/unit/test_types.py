"""The records: what they refuse, what they keep, and that the future and the text stay where they belong."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heedful.errors import DataError
from heedful.testing import conversation, conversations
from heedful.types import Conversation, Label, Role, Score, Span, Trace, Turn

# A shared machine is slow now and then; equal examples in every run.
steady = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def talk(*pairs: tuple[Role, str], **fields: object) -> Conversation:
    return Conversation(id="c", turns=tuple(Turn(role=r, text=t) for r, t in pairs), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (3, 3), (4, 2)])
def test_a_span_must_have_room(start: int, end: int) -> None:
    with pytest.raises(DataError, match=f"start is {start} and end is {end}"):
        Span(start=start, end=end)


@pytest.mark.parametrize("confidence", [-0.01, 1.01])
def test_confidence_lies_between_0_and_1(confidence: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        Label(set="mesc_emotion", value="joy", confidence=confidence)
    assert Label(set="mesc_emotion", value="joy", confidence=1.0).confidence == 1.0


def test_an_unknown_role_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"system, user, assistant.*'client'"):
        Turn(role="client", text="x")  # type: ignore[arg-type]


def test_records_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        conversation().turns[0].text = "other"  # type: ignore[misc]


def test_no_repr_holds_text() -> None:
    secret = "a very private sentence"
    turn = Turn(role="user", text=secret, extra={"note": secret}, labels=(Label(set="s", value="v", evidence=secret),))
    conv = Conversation(id="c", turns=(turn,), situation=secret, extra={"raw": secret})
    trace = Trace(id="c/0", conversation_id="c", turn=0, reply=secret, reference=secret, prompt=secret)
    for record in (turn, conv, trace, turn.labels[0]):
        assert secret not in repr(record)
    assert "4 words" in repr(turn)


def test_labels_are_layers() -> None:
    gold = Label(set="mesc_emotion", value="joy")
    second = Label(set="mesc_emotion", value="fear", source="human:7")
    turn = Turn(role="user", text="x", labels=(gold,)).with_labels(second, Label(set="other", value="a"))
    assert turn.label("mesc_emotion") == "joy"
    assert turn.label("mesc_emotion", source="human:7") == "fear"
    assert turn.label("mesc_emotion", source="model") is None
    assert turn.label("absent") is None
    assert turn.values("mesc_emotion") == ("joy", "fear")


def test_before_leaves_the_future_and_whole_talk_knowledge_out() -> None:
    conv = replace(
        conversations(1, turns=6)[0], labels=(Label(set="outcome", value="good"),), extra={"summary": "it went well"}
    )
    past = conv.before(3)
    assert past.turns == conv.turns[:3]
    assert not past.survey
    assert not past.labels
    assert not past.extra
    assert past.situation == conv.situation
    assert conv.before(0).turns == ()


def test_targets_leave_an_opening_turn_out() -> None:
    conv = conversation("Hi.", "I cannot sleep.", "Since when?", first="assistant")
    assert conv.targets() == [2]
    assert conv.targets(opening=True) == [0, 2]


def test_merged_joins_runs_and_keeps_the_last_turns_labels() -> None:
    a, b = Label(set="mesc_emotion", value="joy"), Label(set="mesc_emotion", value="fear")
    turns = (
        Turn(role="user", text="One.", labels=(a,)),
        Turn(role="user", text="Two.", labels=(b,)),
        Turn(role="assistant", text="Three."),
    )
    conv = Conversation(id="c", turns=turns)
    joined = conv.merged()
    assert [t.text for t in joined] == ["One. Two.", "Three."]
    assert joined.turns[0].values("mesc_emotion") == ("fear",)
    assert joined.turns[0].extra["merged"] == turns[:2]
    assert joined.turns[1] is turns[2]
    assert joined.merged().turns == joined.turns
    assert "merged" not in json.dumps(joined.to_dict())


@steady
@given(st.lists(st.sampled_from(["user", "assistant", "system"]), max_size=12))
def test_merged_alternates_and_loses_no_word(roles: list[Role]) -> None:
    conv = talk(*((role, f"w{i}") for i, role in enumerate(roles)))
    joined = conv.merged()
    assert " ".join(t.text for t in joined) == " ".join(t.text for t in conv)
    assert all(a.role != b.role for a, b in zip(joined.turns, joined.turns[1:], strict=False))


def test_json_round_trip() -> None:
    for conv in conversations(5, seed=3):
        full = replace(
            conv,
            split="train",
            group="g1",
            labels=(Label(set="outcome", value="good", source="model", confidence=0.25, evidence="by rule"),),
            turns=(
                replace(
                    conv.turns[0],
                    speaker_id="s1",
                    extra={"time": 3},
                    labels=(Label(set="x", value="y", span=Span(start=0, end=2)),),
                ),
                *conv.turns[1:],
            ),
            extra={"video": "v1"},
        )
        record = json.loads(json.dumps(full.to_dict()))
        assert Conversation.from_dict(record) == full
        assert Conversation.from_dict(record).to_dict() == record


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"id": "a"}, "'a'.*'messages' must be a list"),
        ({"id": "a", "messages": "hello"}, "'messages' must be a list"),
        ({"id": "a", "messages": [{"role": "user"}]}, "message 0.*'content'"),
        ({"id": "a", "messages": [{"role": "client", "content": "x"}]}, "message 0.*'client'"),
        ({"id": "a", "messages": [], "labels": [{"turn": 0, "set": "s"}]}, "'labels' needs"),
        ({"id": "a", "messages": [], "labels": [{"turn": 0, "set": "s", "value": "v"}]}, "turn 0"),
        (
            {
                "id": "a",
                "messages": [{"role": "user", "content": "x"}],
                "labels": [{"turn": True, "set": "s", "value": 1}],
            },
            "turn True",
        ),
    ],
)
def test_a_bad_record_is_named(record: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        Conversation.from_dict(record)


def test_missing_is_not_zero() -> None:
    with pytest.raises(DataError):
        Score(name="bleu", value=None)
    assert Score(name="bleu", value=0.0).reason is None
    assert Score(name="bleu", value=None, reason="no reference").value is None


def test_traces_grow_by_scores_and_survive_json() -> None:
    trace = Trace(id="c/1", conversation_id="c", turn=1, reply="Hi.", plan={"strategy": "Question"}, tokens=3)
    scored = trace.with_scores(Score(name="a", value=1.0)).with_scores(Score(name="b", value=None, reason="empty"))
    assert trace.scores == ()
    assert [s.name for s in scored.scores] == ["a", "b"]
    assert Trace.from_dict(json.loads(json.dumps(scored.to_dict()))) == scored
    with pytest.raises(DataError, match="missing: \\['reply'\\]"):
        Trace.from_dict({"id": "c/1", "conversation_id": "c", "turn": 1})


def test_invented_conversations_depend_on_seed_and_place_only() -> None:
    assert conversations(3, seed=5) == conversations(7, seed=5)[:3]
    assert conversations(3, seed=5) != conversations(3, seed=6)
    assert [len(c) for c in conversations(4, turns=6)] == [6] * 4
    assert all(len(c.targets()) == 3 for c in conversations(4, turns=6))
