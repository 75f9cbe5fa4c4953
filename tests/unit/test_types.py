"""The records: what they refuse, what they keep, and that the future and the text stay where they belong."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heedful.errors import DataError, shown
from heedful.testing import conversation, conversations
from heedful.types import Conversation, Label, Role, Score, Span, Trace, Turn, text_hash

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
    assert turn.label("mesc_emotion", source="gold") == "joy"
    assert turn.label("mesc_emotion", source="human:7") == "fear"
    assert turn.label("mesc_emotion", source="model") is None
    assert turn.label("absent") is None
    assert turn.values("mesc_emotion") == ("joy", "fear")
    assert turn.values("mesc_emotion", source="human") == ("fear",)


def test_a_correction_takes_effect() -> None:
    def said(value: str, source: str) -> Label:
        return Label(set="mesc_emotion", value=value, source=source)

    turn = Turn(role="user", text="x", labels=(said("joy", "gold"), said("surprise", "model")))
    assert turn.label("mesc_emotion") == "joy"  # a model's guess overrules nothing
    once = turn.with_labels(said("fear", "human:7"))
    twice = once.with_labels(said("anger", "human:7"), said("neutral", "model"))
    assert once.label("mesc_emotion") == "fear"
    assert twice.label("mesc_emotion") == "anger"
    assert twice.label("mesc_emotion", source="human:7") == "anger"
    assert twice.label("mesc_emotion", prefer=()) == "joy"
    assert twice.label("mesc_emotion", prefer=("absent", "model", "human")) == "neutral"
    assert Label(set="s", value="v", source="humanoid").by("human") is False


def test_before_leaves_the_future_and_whole_talk_knowledge_out() -> None:
    conv = replace(
        conversations(1, turns=6)[0],
        labels=(Label(set="outcome", value="good"),),
        extra={"summary": "it went well"},
        known={"emotion_type": "fear"},
        scores=(Score(name="empathy", value=4.0, turn=5),),
    )
    past = conv.before(3)
    assert past.turns == conv.turns[:3]
    assert not past.survey
    assert not past.labels
    assert not past.extra
    assert not past.scores
    assert past.situation == conv.situation
    assert past.known == {"emotion_type": "fear"}
    assert conv.before(0).turns == ()


def test_targets_leave_an_opening_turn_out() -> None:
    conv = conversation("Hi.", "I cannot sleep.", "Since when?", first="assistant")
    assert conv.targets() == [2]
    assert conv.targets(opening=True) == [0, 2]
    assert conv.targets(role="any") == [1, 2]
    assert conv.targets(role="user") == [1]
    assert conversation("Hm.", "Yes?", "No.").targets(role="user", opening=True) == [0, 2]
    assert talk(("system", "Be kind."), ("system", "x"), ("user", "Hm.")).targets(role="any", opening=True) == [2]
    with pytest.raises(DataError, match="system, user, assistant or any, but it is 'therapist'"):
        conv.targets(role="therapist")  # type: ignore[arg-type]


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


def test_merged_moves_spans_and_scores_with_their_words() -> None:
    tear = Label(set="s", value="v", span=Span(start=5, end=9))
    turns = (
        Turn(role="user", text="One long turn."),
        Turn(role="user", text="Two, tear.", labels=(tear,)),
        Turn(role="assistant", text="Three."),
    )
    scores = (
        Score(name="a", value=True, turn=1, spans=(Span(start=0, end=3),)),
        Score(name="b", value=1.0, turn=2),
        Score(name="c", value=0.5),
    )
    joined = Conversation(id="c", turns=turns, scores=scores).merged(separator=" / ")
    span = joined.turns[0].labels[0].span
    assert span is not None
    assert joined.turns[0].text[span.start : span.end] == "tear"
    assert [score.turn for score in joined.scores] == [0, 1, None]
    (place,) = joined.scores[0].spans
    assert joined.turns[0].text[place.start : place.end] == "Two"


def test_what_is_inside_a_record_cannot_be_changed() -> None:
    given: dict[str, object] = {"a": {"b": [1, {"c": 2}]}, "t": (1, [2])}
    turn = Turn(role="user", text="x", extra=given)
    conv = Conversation(id="c", turns=(turn,), extra=given, known={"persona": {"age": 30}}, survey={"e": 1.0})
    trace = Trace(id="c/0", conversation_id="c", turn=0, reply="r", plan={"s": ["x"]}, messages=({"role": "user"},))
    changes = (
        lambda: turn.extra["a"].update(b=1),
        lambda: turn.extra["a"]["b"].append(1),
        lambda: turn.extra["a"]["b"][1].pop("c"),
        lambda: conv.known["persona"].__setitem__("age", 31),
        lambda: conv.survey.__delitem__("e"),  # type: ignore[attr-defined]
        lambda: conv.extra.__ior__({"z": 1}),  # type: ignore[attr-defined]
        lambda: conv.extra["t"][1].sort(),
        lambda: trace.plan["s"].clear(),
        lambda: trace.messages[0].setdefault("content", "x"),  # type: ignore[attr-defined]
    )
    for change in changes:
        with pytest.raises(TypeError, match="cannot be changed"):
            change()
    given["a"] = 5  # what was handed in is a copy by now
    assert turn.extra["a"] == {"b": [1, {"c": 2}]}
    for record in (turn, conv, trace):
        twin = pickle.loads(pickle.dumps(record))
        assert twin == record
        assert copy.deepcopy(record) == record
        assert hash(twin) == hash(record)
        assert {record: 1}[twin] == 1
    assert json.loads(json.dumps(conv.extra)) == {"a": {"b": [1, {"c": 2}]}, "t": [1, [2]]}
    with pytest.raises(TypeError, match="cannot be changed"):
        pickle.loads(pickle.dumps(turn)).extra["a"].clear()
    record = conv.to_dict()
    record["known"]["persona"]["age"] = 31  # the JSON form is the caller's own
    assert conv.known["persona"]["age"] == 30
    assert asdict(turn)["extra"] == turn.extra


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
        ({"id": "a", "messages": [], "labels": [{"set": "s"}]}, "label 0: 'value' is missing"),
        ({"id": "a", "messages": [], "labels": [{"turn": 0, "set": "s", "value": "v"}]}, "turn 0"),
        (
            {
                "id": "a",
                "messages": [{"role": "user", "content": "x"}],
                "labels": [{"turn": True, "set": "s", "value": 1}],
            },
            "turn true",
        ),
    ],
)
def test_a_bad_record_is_named(record: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        Conversation.from_dict(record)


HALF = "\ud83d"  # the first half of an emoji
MESSAGE = {"role": "user", "content": "The tide is high."}
LABEL: dict[str, object] = {"turn": 0, "set": "s", "value": "v"}
SCORE: dict[str, object] = {"name": "n", "value": 1}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *(({name: ["x"]}, f"'{name}' must be a text") for name in ("situation", "group", "split", "lang", "licence")),
        *(({name: 1}, f"'{name}' must be a text, but it is 1") for name in ("split", "source", "problem_type")),
        ({"lang": 5}, "'lang' must be a text, but it is 5"),
        ({"id": 1.5}, "'id' must be a text or a whole number"),
        ({"id": True}, "'id' must be a text or a whole number"),
        ({"survey": {"x": "y"}}, "'survey': 'x' must be a number, but it is 'y'"),
        ({"survey": {"x": True}}, "'survey': 'x' must be a number"),
        ({"survey": {"x": float("inf")}}, "'survey' holds a number that is not finite"),
        ({"known": "x"}, "'known' must be an object, but it is a text"),
        ({"extra": "x"}, "'extra' must be an object"),
        ({"video": 1, "extra": {"video": 2}}, "'video' stands in 'extra' and beside it"),
        ({"video": float("nan")}, "'video' holds a number that is not finite"),
        ({"video": {"a": [HALF]}}, "'video' holds half a character"),
        ({"video": {HALF: 1}}, "each key holds half a character"),
        ({"situation": HALF}, "'situation' holds half a character"),
        ({"messages": [{"role": "user", "content": f"Oh {HALF}"}]}, "message 0: 'content' holds half a character"),
        ({"messages": [MESSAGE | {"speaker_id": []}]}, "message 0: 'speaker_id' must be a text"),
        ({"messages": [MESSAGE | {"extra": 1}]}, "message 0: 'extra' must be an object"),
        ({"labels": {"0": LABEL}}, "'labels' must be a list of objects"),
        ({"labels": [LABEL, "x"]}, "label 1: expected an object with 'turn', 'set' and 'value'"),
        *(
            ({"labels": [LABEL | {"span": span}]}, r"label 0: a span must be a list of two whole numbers")
            for span in ({"start": 0, "end": 3}, [1], [], [0.0, 3.0], [True, 3], "0-3", [0, 1, 2])
        ),
        ({"labels": [LABEL | {"span": [3, 3]}]}, "label 0: A span needs 0 <= start < end"),
        ({"labels": [LABEL | {"span": [0, 18]}]}, "label 0 has a span that ends at 18, but the text has 17 characters"),
        ({"labels": [{"set": "s", "value": "v", "span": [0, 3]}]}, "label 0 has a span but no turn"),
        ({"labels": [LABEL | {"value": None}]}, "label 0: 'value' is null.*leave the entry out"),
        ({"labels": [LABEL | {"value": " "}]}, "label 0: 'value' is empty"),
        ({"labels": [LABEL | {"value": ["v"]}]}, "'value' must be a text or a whole number, but it is a list"),
        ({"labels": [LABEL | {"value": False}]}, "'value' must be a text or a whole number, but it is false"),
        ({"labels": [LABEL | {"set": None}]}, "'set' must be the name of a label set, but it is null"),
        ({"labels": [LABEL | {"source": 3}]}, "'source' must be a text, but it is 3"),
        ({"labels": [LABEL | {"evidence": 3}]}, "'evidence' must be a text, but it is 3"),
        ({"labels": [LABEL | {"confidence": 2}]}, "'confidence' must be a number between 0 and 1, but it is 2"),
        ({"labels": [LABEL | {"confidence": "high"}]}, "'confidence' must be a number, but it is 'high'"),
        ({"labels": [LABEL | {"sorce": "x"}]}, "the key 'sorce' is not known. Did you mean 'source'"),
        ({"scores": [SCORE | {"value": {}}]}, "score 0: 'value' must be a number, but it is an object"),
        ({"scores": [SCORE | {"value": None}]}, "score 0: The score 'n' has no value"),
        ({"scores": [SCORE | {"turn": 4}]}, "score 0: it points to turn 4"),
        ({"scores": [SCORE | {"spans": [[0, 2]]}]}, "The score 'n' of a conversation has spans; say in 'turn'"),
        ({"scores": [SCORE | {"turn": 0, "spans": [[0, 99]]}]}, "ends at 99, but the text has 17 characters"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(change: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        Conversation.from_dict({"id": "a", "messages": [MESSAGE], **change})
    assert "tide" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_deep_columns_are_refused_and_not_a_crash() -> None:
    deep: object = 1
    for _ in range(400):
        deep = [deep]
    with pytest.raises(DataError, match="'video' is nested more than 50 levels deep"):
        Conversation.from_dict({"id": "a", "messages": [], "video": deep})


@pytest.mark.parametrize("said", ["I want out", "我今晚不想活了", "two\nlines", "x" * 21])
def test_a_short_sentence_is_described_not_quoted(said: str) -> None:
    for make in (
        lambda: Turn(role=said, text="user"),  # type: ignore[arg-type]
        lambda: Conversation.from_dict({"id": said, "messages": 1}),
        lambda: Conversation.from_dict({"id": "a", "messages": [{"role": said, "content": "user"}]}),
        lambda: Conversation.from_dict({"id": "a", "messages": [MESSAGE], "labels": [LABEL | {"turn": said}]}),
        lambda: Conversation.from_dict({"id": "a", "messages": [MESSAGE], "labels": [LABEL | {said: 1}]}),
        lambda: Trace.from_dict({"id": said, "conversation_id": "c", "turn": said, "reply": "r"}),
        lambda: Score(name=said, value=None),
    ):
        with pytest.raises(DataError, match=f"a text of {len(said)} characters") as caught:
            make()
        assert said not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("x" * 20, f"'{'x' * 20}'"),
        ("café-2", "'café-2'"),
        ("", "an empty text"),
        (HALF, "a text of 1 character"),
        (True, "true"),
        (0.5, "0.5"),
        pytest.param(10**5000, "a long number", id="digits"),
        ({"a": 1}, "an object"),
        ((1,), "a list"),
        (b"x", "a bytes"),
    ],
)
def test_shown(value: object, says: str) -> None:
    assert shown(value) == says


def test_whole_numbers_may_be_ids_and_values() -> None:
    record = {"id": 7, "messages": [MESSAGE | {"speaker_id": 3}], "labels": [LABEL | {"value": 4}], "lang": None}
    conv = Conversation.from_dict(record)
    assert (conv.id, conv.turns[0].speaker_id, conv.turns[0].label("s"), conv.lang) == ("7", "3", "4", "en")
    assert Conversation.from_dict({"id": None, "messages": []}).id == ""


@pytest.mark.parametrize("value", [None, "", " ", 3])
def test_a_label_has_a_value(value: object) -> None:
    with pytest.raises(DataError, match="leave the entry out"):
        Label(set="s", value=value)  # type: ignore[arg-type]


def test_turns_refuse_what_cannot_be_read_later() -> None:
    with pytest.raises(DataError, match="half a character"):
        Turn(role="user", text=HALF)
    with pytest.raises(DataError, match="A turn's text must be a text, but it is null"):
        Turn(role="user", text=None)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="ends at 2, but the text has 1 characters"):
        Turn(role="user", text="x", labels=(Label(set="s", value="v", span=Span(start=0, end=2)),))


def test_columns_that_are_called_like_fields_replace_nothing() -> None:
    column = {"id": 9, "messages": ["m"], "labels": 1, "turns": 3, "extra": {"x": 1}, "video": "v"}
    turn = Turn(role="user", text="x", extra={"role": "r", "content": 2, "merged": "yes", "time": 3})
    conv = Conversation(id="c", turns=(turn,), extra=column)
    record = json.loads(json.dumps(conv.to_dict()))
    assert (record["id"], record["video"], record["turns"]) == ("c", "v", 3)
    assert record["messages"][0]["merged"] == "yes"
    assert Conversation.from_dict(record) == conv
    # A column `turns` of somebody else's file is kept.
    assert Conversation.from_dict({"id": "a", "messages": [], "turns": 12}).extra == {"turns": 12}


def test_missing_is_not_zero() -> None:
    with pytest.raises(DataError):
        Score(name="bleu", value=None)
    assert Score(name="bleu", value=0.0).reason is None
    assert Score(name="bleu", value=None, reason="no reference").value is None
    for value in (float("nan"), float("inf")):
        with pytest.raises(DataError, match="Give value=None with a reason"):
            Score(name="bleu", value=value)


def test_scores_hold_checks_and_answers_and_quote_nobody() -> None:
    secret = "she said that she cannot go on"
    answer = Score(name="q1", value=secret, explanation=secret, by="judge/v2", source="judge", turn=3)
    assert secret not in repr(answer)
    assert repr(Score(name="asks", value=True)) == "Score(name='asks', value=True, source='metric')"
    assert repr(Score(name="q", value="Yes")) == "Score(name='q', value='Yes', source='metric')"
    with pytest.raises(DataError, match="'at' must be a time in ISO 8601, but it is 'noon'"):
        Score(name="q", value=1.0, at="noon")
    assert Score(name="q", value=1.0, at="2026-11-21T10:30:00Z").at == "2026-11-21T10:30:00Z"


def test_a_whole_conversation_can_be_scored() -> None:
    conv = conversation("Hm.", "Yes?").with_scores(
        Score(name="empathy", value=4.0, source="human", by="h7", at="2026-11-21T10:30:00+00:00"),
        Score(name="asks", value=True, turn=1, spans=(Span(start=3, end=4),), explanation="a question mark"),
        Score(name="verdict", value="good", source="judge"),
        Score(name="safety", value=None, reason="the judge gave no answer"),
    )
    again = Conversation.from_dict(json.loads(json.dumps(conv.to_dict())))
    assert again == conv
    assert again.scores[1].value is True
    with pytest.raises(DataError, match="about turn 2, but there are 2 turns"):
        conv.with_scores(Score(name="n", value=1.0, turn=2))


def test_traces_grow_by_scores_and_survive_json() -> None:
    trace = Trace(id="c/1", conversation_id="c", turn=1, reply="Hi.", plan={"strategy": "Question"}, tokens=3)
    scored = trace.with_scores(Score(name="a", value=1.0)).with_scores(Score(name="b", value=None, reason="empty"))
    assert trace.scores == ()
    assert [s.name for s in scored.scores] == ["a", "b"]
    assert Trace.from_dict(json.loads(json.dumps(scored.to_dict()))) == scored
    with pytest.raises(DataError, match="missing: \\['reply'\\]"):
        Trace.from_dict({"id": "c/1", "conversation_id": "c", "turn": 1})


TRACE: dict[str, object] = {"id": "c/1", "conversation_id": "c", "turn": 1, "reply": "Hi."}


def test_traces_say_how_a_reply_came_about() -> None:
    trace = Trace(
        id="c/1",
        conversation_id="c",
        turn=1,
        reply="Hi.",
        info={"model": "m", "prompt_hash": text_hash("p")},
        messages=({"role": "planner", "content": "ask"}, {"role": "writer", "content": "Hi."}),
        sources=({"name": "atomic", "text": "x wants rest", "score": 0.7},),
        usage={"calls": 2, "prompt_tokens": 40},
        scores=(Score(name="greets", value=True, spans=(Span(start=0, end=2),), explanation="it does"),),
        extra={"id": "other", "later": [1]},
    )
    record = json.loads(json.dumps(trace.to_dict()))
    assert Trace.from_dict(record) == trace
    assert record["later"] == [1]
    assert "rest" not in repr(trace)
    # A file of an older version: the same bytes when written again.
    old = TRACE | {"system": "s", "reference": None, "finish": "stop", "tokens": 3}
    old["scores"] = [{"name": "a", "value": 1.0, "source": "metric", "reason": None}]
    assert Trace.from_dict(old).to_dict() == old
    # One of a newer version: what is not known is kept.
    assert Trace.from_dict(TRACE | {"video": "v"}).to_dict()["video"] == "v"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scores": [{"name": "a", "value": 1, "weight": 2}]}, "'c/1', score 0: the key 'weight' is not known"),
        ({"scores": [{"name": "a", "value": float("nan")}]}, "score 0: 'value' must be a number"),
        ({"scores": [{"name": "a", "value": 1, "spans": [[0, 4]]}]}, "span that ends at 4, but the reply has 3"),
        ({"scores": ["a"]}, "score 0: expected an object"),
        ({"scores": 3}, "'scores' must be a list of objects"),
        ({"turn": "1"}, "'turn' must be a whole number from 0 up, but it is '1'"),
        ({"turn": -1}, "'turn' must be a whole number from 0 up"),
        ({"tokens": 1.5}, "'tokens' must be a whole number"),
        ({"reply": ["Hi."]}, "'reply' must be a text, but it is a list"),
        ({"plan": "ask"}, "'plan' must be an object"),
        ({"messages": ["Hi."]}, "'messages' must be a list of objects, but it holds a text"),
        ({"sources": {}}, "'sources' must be a list of objects"),
        ({"usage": {"calls": "two"}}, "'usage': 'calls' must be a number"),
        ({"info": {"x": HALF}}, "'info' holds half a character"),
    ],
)
def test_a_bad_trace_is_named(change: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        Trace.from_dict(TRACE | change)
    with pytest.raises(DataError, match="A trace: expected an object"):
        Trace.from_dict([change])  # type: ignore[arg-type]


def test_invented_conversations_depend_on_seed_and_place_only() -> None:
    assert conversations(3, seed=5) == conversations(7, seed=5)[:3]
    assert conversations(3, seed=5) != conversations(3, seed=6)
    assert [len(c) for c in conversations(4, turns=6)] == [6] * 4
    assert all(len(c.targets()) == 3 for c in conversations(4, turns=6))
