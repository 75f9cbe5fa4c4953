"""KEMI's four metrics on hand-made talks; e(u); simulators; and the corpus' own replies."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nltk")

from heedful import corpora
from heedful.agents.seeker import Recorded
from heedful.classify import features
from heedful.errors import ConfigError, DataError
from heedful.scoring import content_words as module
from heedful.scoring import metrics as table
from heedful.scoring.base import Rows
from heedful.scoring.content_words import Words, content_words, load_words
from heedful.scoring.initiative import SET
from heedful.scoring.intensity import Intensity, intensity, lessons
from heedful.scoring.support_metrics import Reply, SupportScores, gold_replies, replies_of, support_scores
from heedful.testing import conversation
from heedful.types import Conversation, Trace

LABELS = {1: {SET: "Question"}, 3: {SET: "Others"}}
TALK = conversation(
    "My neighbours play music.",
    "Which music do they play?",
    "Loud drums.",
    "Drums can be tiring.",
    labels=LABELS,
    id="a",
)


@dataclass
class Fake:
    """Answers with words that are written down; remembers what it was shown."""

    answers: list[str | None]
    seen: list[Conversation] = field(default_factory=list)
    fingerprint: str = "fake"

    def next(self, contexts: Sequence[Conversation]) -> list[str | None]:
        self.seen += contexts
        return [self.answers.pop(0) for _ in contexts]


class Length:
    """e(u) = number of words, in the shape of `Intensity`."""

    heldout: dict[str, Any] = {"all": {"n": 1}}  # noqa: RUF012
    fingerprint = "length"

    def __call__(self, texts: Sequence[str]) -> Any:
        return np.array([float(len(text.split())) for text in texts])


LENGTH: Any = Length()
PLAIN = Words(how="filter", star="*", stem=lambda word: word)


def scored(replies: Sequence[Reply] | None = None, talks: Sequence[Conversation] = (TALK,), **options: Any) -> Any:
    return support_scores("x", talks, gold_replies(talks) if replies is None else replies, words=PLAIN, **options)


def reply(turn: int, text: str, strategy: str | None = "Question", conv: str = "a") -> Reply:
    return Reply(conversation_id=conv, turn=turn, text=text, strategy=strategy)


# ---------------------------------------------------------------- words


def test_content_words_are_alphabetic_and_no_function_words() -> None:
    assert content_words("I can't sleep at 3 a.m., and Mum's radio hasn't helped!") == [
        "sleep",
        "mum",
        "radio",
        "helped",
    ]
    assert content_words("Yes, well, you should not have done it.") == []


def test_stems_and_the_star_where_the_tagger_is_missing() -> None:
    words = load_words()
    if words.how == "filter":
        assert words.star == "*"
        assert words("Sleeping, slept, sleeps: tired tires") == {"sleep", "slept", "tire"}


def test_the_tagger_is_used_where_its_data_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk
    import nltk.corpus

    class Stop:
        def words(self, name: str) -> list[str]:
            return ["the", "is"]

    tags = {"the": "DT", "quiet": "JJ", "dog": "NN", "is": "VBZ", "barking": "VBG", "2nd": "NN", "!": "."}
    load_words.cache_clear()
    monkeypatch.setattr("nltk.data.find", lambda name: name)
    monkeypatch.setattr(nltk.corpus, "stopwords", Stop())
    monkeypatch.setattr(nltk, "pos_tag", lambda tokens: [(t, tags[t]) for t in tokens])
    words = load_words()
    load_words.cache_clear()
    assert (words.how, words.star) == ("tagger", "")
    assert words("The quiet dog is barking! The 2nd dog") == {"dog", "bark", "2nd"}


def test_the_list_of_function_words_holds_no_feeling() -> None:
    assert not {"alone", "help", "need", "want", "feel", "cry", "sorry", "thank", "hard"} & module.function_words()


# ---------------------------------------------------------------- the first three


def test_gold_by_hand() -> None:
    found = scored()
    assert list(found.values("proactivity")) == [1.0, 0.0]
    # turn 1: {music, play}, both seen; turn 3: {drums, tiring}, "drums" seen and said by the seeker
    assert list(found.values("information")) == [0.0, 1.0]
    assert list(found.values("repetition")) == [2.0, 1.0]
    assert found.values("repetition", "initiative").tolist()[:1] == [2.0]
    assert np.isnan(found.values("repetition", "initiative")[1])
    assert found.result("information", "non_initiative").value == 1.0
    assert found.title("information") == "Information*"
    assert found.title("proactivity") == "Proactivity"


def test_all_words_before_a_reply_count_as_seen_and_those_after_it_do_not() -> None:
    new = [reply(1, "Which music, which drums?"), reply(3, "Play a song, neighbours.")]
    assert list(scored(new).values("information")) == [1.0, 1.0]  # drums come later; song alone is new
    assert list(scored(new).values("repetition")) == [1.0, 2.0]  # "play" is the seeker's too


def test_seen_as_the_release_counts_it() -> None:
    new = [reply(1, "Which songs?"), reply(3, "Songs they play, at which volume?")]
    # context: play, neighbours, music are seen; songs (its own, never heard) and volume are new
    assert list(scored(new).values("information")) == [1.0, 2.0]
    assert list(scored(new, seen="released").values("information")) == [1.0, 1.0]
    corpus = conversation("Hi.", "Try a walk.", "Ok.", "A walk helps.", labels=LABELS)
    own = [reply(3, "A walk helps.", conv="toy")]
    assert list(scored(own, [corpus]).values("information")) == [1.0]
    assert list(scored(own, [corpus], seen="released").values("information")) == [2.0]  # the corpus' reply is unseen


def test_an_unannounced_strategy_is_unscored_and_not_zero() -> None:
    found = scored([reply(1, "Hm.", None), reply(3, "Hm.")]).to_dict()["metrics"]
    assert (found["proactivity"]["value"], found["proactivity"]["n"], found["proactivity"]["unscored"]) == (1.0, 1, 1)
    assert found["information_initiative"]["n"] == 1


def test_distance_to_gold() -> None:
    gold = scored()
    other = scored([reply(1, "Hm."), reply(3, "Hm.")])
    record = json.loads(json.dumps(other.to_dict(gold)))
    assert record["metrics"]["proactivity"] | {"low": None, "high": None} == {
        "title": "Proactivity", "value": 1.0, "low": None, "high": None, "n": 2, "unscored": 0, "reasons": [],
        "gold": 0.5, "distance": 0.5,
    }  # fmt: skip
    assert "drums" not in json.dumps([record, other.rows_to_dicts()])
    with pytest.raises(DataError, match="not scored at the same places"):
        other.to_dict(scored([reply(1, "Hm.")]))
    with pytest.raises(DataError, match="not scored in the same way"):
        other.to_dict(scored(seen="released"))


def test_systems_are_compared_over_dialogues() -> None:
    talks = [replace(TALK, id=f"t{i}") for i in range(8)]
    gold = scored(talks=talks)
    other = scored([replace(r, text="Bus, train, plane.") for r in gold_replies(talks)], talks)
    pair = gold.paired(other, "information")
    assert pair is not None
    assert pair.difference == pytest.approx(2.5)
    assert pair.low == pair.high == pytest.approx(2.5)
    spread = gold.to_dict()["metrics"]["information"]
    assert spread["low"] == spread["high"] == 0.5  # equal dialogues


def test_wrong_replies_are_refused() -> None:
    for wrong in (reply(0, "x"), reply(9, "x"), reply(1, "x", conv="b")):
        with pytest.raises(DataError, match="there is no supporter's turn"):
            scored([wrong])
    with pytest.raises(DataError, match="two; score one decoding"):
        scored([reply(1, "x"), reply(1, "y")])
    with pytest.raises(ConfigError, match="give both"):
        scored(simulator=Fake([]))


def test_replies_of_traces_take_the_plan_and_leave_failures_out() -> None:
    traces = [
        Trace(id="a/1", conversation_id="a", turn=1, reply="So?", plan={SET: "Question"}),
        Trace(id="a/3", conversation_id="a", turn=3, reply="", finish="error"),
    ]
    assert replies_of(traces) == [reply(1, "So?")]


def test_the_metric_of_the_table() -> None:
    metric = table.METRICS.get("proactivity")
    rows = Rows.of(gold=["Others"] * 4, predicted=["Question", "Others", "Information", "Others"])
    assert metric.compute(rows).value == 50.0
    assert metric.higher_is_better is None


# ---------------------------------------------------------------- relaxation


def test_relaxation_is_positive_where_the_intensity_fell() -> None:
    fake = Fake(["Thanks.", "one two three"])
    found = scored(simulator=fake, intensity=LENGTH)
    assert list(found.values("relaxation")) == [3.0, -1.0]  # 4 - 1 and 2 - 3
    assert [[t.text for t in c.turns][-1] for c in fake.seen] == [TALK.turns[1].text, TALK.turns[3].text]
    assert found.relaxation == {("a", 1): 3.0, ("a", 3): -1.0}
    record = found.to_dict()
    assert record["intensity_heldout"] == {"all": {"n": 1}}
    assert (record["simulator"], record["intensity"]) == ("fake", "length")


def test_the_simulator_sees_the_systems_reply_and_not_the_corpus_own() -> None:
    fake = Fake(["x", "x"])
    scored([reply(1, "MINE"), reply(3, "MINE TOO")], simulator=fake, intensity=LENGTH)
    shown = [[t.text for t in c.turns] for c in fake.seen]
    assert shown[0] == [TALK.turns[0].text, "MINE"]
    assert shown[1] == [*(t.text for t in TALK.turns[:3]), "MINE TOO"]
    assert all(not c.survey and not c.extra for c in fake.seen)


def test_before_any_seeker_turn_and_without_an_answer_it_is_unscored() -> None:
    opens = conversation(
        "Hi.", "Noise.", "Since when?", first="assistant", labels={0: {SET: "Others"}, 2: {SET: "Question"}}
    )
    fake = Fake([" "])
    found = scored(gold_replies([opens], opening=True), [opens], simulator=fake, intensity=LENGTH)
    assert [row.why for row in found.rows] == ["no seeker turn before it", "the simulator said nothing"]
    assert found.to_dict()["metrics"]["relaxation"]["unscored"] == 2
    assert found.to_dict()["metrics"]["relaxation"]["value"] is None
    assert len(fake.seen) == 1
    assert list(found.values("repetition")) == [0.0, 0.0]


def test_recorded_answers_the_corpus_own_reply_alone() -> None:
    real = Recorded(conversations=[TALK])
    assert real.next([TALK.before(2), TALK]) == ["Loud drums.", None]
    other = replace(TALK, turns=(TALK.turns[0], replace(TALK.turns[1], text="Hm.")))
    assert real.next([other, replace(TALK.before(2), id="b")]) == [None, None]


# ---------------------------------------------------------------- e(u)


def surveyed(n: int, *, low: int = 1, high: int = 5, first: int = 0, turns: int = 14) -> list[Conversation]:
    """Talks that begin with loud words and end with calm ones."""
    out = []
    for i in range(first, first + n):
        half = turns // 4
        texts = [f"noise noise {k} {i}" if k // 2 < half else f"calm calm {k} {i}" for k in range(turns)]
        survey = {"initial_emotion_intensity": float(high), "final_emotion_intensity": float(low)}
        out.append(conversation(*texts, id=f"s{i}", survey=survey))
    return out


@pytest.fixture
def words_as_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentence vectors that say whether a text is loud or calm."""

    class Store:
        def encode(self, texts: Sequence[str]) -> Any:
            found = np.zeros((len(texts), 384), dtype=np.float32)
            found[:, 0] = ["noise" in text for text in texts]
            found[:, 1] = ["calm" in text for text in texts]
            return found

        def keep(self, texts: Sequence[str]) -> None:
            pass

    monkeypatch.setattr(features, "shared_vectors", lambda: Store())


def test_lessons_are_the_ends_of_talks_with_a_finished_survey() -> None:
    whole, none = surveyed(1)[0], replace(surveyed(1)[0], survey={"initial_emotion_intensity": 4.0}, id="n")
    asked = replace(whole, survey={"initial_emotion_intensity": 4.0, "final_emotion_intensity": None}, id="q")
    found = lessons([whole, none, asked])
    said = [turn.text for turn in whole.turns if turn.role == "user"]
    assert [(x.text, x.level, x.side) for x in found] == [
        *((text, "5", "before") for text in said[:3]),
        *((text, "1", "after") for text in said[-3:]),
    ]
    short = surveyed(1, turns=6)[0]  # three seeker turns: one at either end
    assert [x.side for x in lessons([short])] == ["before", "after"]
    with pytest.raises(DataError, match=r"must be 1 to 5, but it is 7"):
        lessons([replace(whole, survey={"initial_emotion_intensity": 7.0, "final_emotion_intensity": 1.0})])


def test_intensity_is_fitted_once_saved_privately_and_scored(tmp_path: Path, words_as_vectors: None) -> None:
    train, held = surveyed(12), surveyed(4, first=50)
    made = intensity(train, held, folder=tmp_path / "e")
    loud, calm = made(["noise noise", "calm calm"])
    assert loud > 4.5
    assert calm < 1.5
    assert made.heldout["all"]["error"] < made.heldout["all"]["constant"]
    assert made.heldout["all"]["correlation"] > 0.99
    assert made.heldout["before"] == pytest.approx(made.heldout["before"] | {"n": 12, "constant": 0.0})
    assert made.heldout["before"]["correlation"] is None  # one level: nothing to correlate with
    assert made.heldout["accuracy"] == 1.0
    assert all(stat.S_IMODE((tmp_path / "e" / f).stat().st_mode) == 0o600 for f in ("heldout.json", "scorer.npz"))
    told: list[str] = []
    again = intensity(train, held, folder=tmp_path / "e", say=told.append)
    assert not told
    assert again.fingerprint == made.fingerprint
    assert list(again(["noise noise"])) == [loud]
    other = intensity(surveyed(12, high=4), held, folder=tmp_path / "e", say=told.append)
    assert told
    assert other.fingerprint != made.fingerprint


def test_intensity_lies_in_the_users_folder_and_refuses_what_cannot_be_held_out(words_as_vectors: None) -> None:
    made = intensity(surveyed(4), surveyed(2, first=9))
    assert made.folder.parent.name == "intensity"
    assert isinstance(made, Intensity)
    with pytest.raises(DataError, match="2 stand in both parts"):
        intensity(surveyed(4), surveyed(2))
    with pytest.raises(DataError, match="finished closing survey"):
        intensity(surveyed(4), [TALK])


# ---------------------------------------------------------------- real data


@pytest.mark.data("esconv")
def test_gold_proactivity_of_esconv_test() -> None:
    """kemi.md: gold replies give 0.504 on zcj test exactly, over 2,801 places."""
    talks = corpora.load("esconv", "test")
    found: SupportScores = support_scores("gold", talks, gold_replies(talks), words=PLAIN)
    value = found.to_dict(found)["metrics"]["proactivity"]
    assert (round(value["value"], 3), value["n"], value["distance"]) == (0.504, 2_801, 0.0)
    assert sum(not any(t.role == "user" for t in c.turns[:i]) for c in talks for i in c.targets()) == 7
