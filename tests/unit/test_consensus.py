"""Minimum Bayes risk: the draws are an engine's own, and the one that is kept has the highest mean agreement."""

from __future__ import annotations

import itertools
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

torch = pytest.importorskip("torch")

from heedful.errors import ConfigError
from heedful.formats import make
from heedful.models.consensus import UTILITIES, bleu2, common_subsequence, rouge_l
from heedful.models.decoding import Decoding, Written
from heedful.models.engine import TransformersEngine
from heedful.models.generate import end_ids, generate
from heedful.testing import conversations, tiny_model

words = st.lists(st.integers(0, 5), max_size=14)


@given(words, words)
def test_common_subsequence_equals_its_recursion(first: list[int], second: list[int]) -> None:
    @lru_cache(None)
    def longest(i: int, j: int) -> int:
        if i == len(first) or j == len(second):
            return 0
        if first[i] == second[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    assert common_subsequence(first, second) == longest(0, 0) == common_subsequence(second, first)


@given(words.filter(lambda w: len(w) > 1), words.filter(len))
def test_bleu2_equals_nltk(candidate: list[int], reference: list[int]) -> None:
    smooth = SmoothingFunction().method2  # one more in both counts of orders above 1
    if not set(candidate) & set(reference):
        assert bleu2(candidate, reference) == 0
        return
    expected = sentence_bleu([reference], candidate, weights=(0.5, 0.5), smoothing_function=smooth)
    assert bleu2(candidate, reference) == pytest.approx(expected)


@pytest.mark.parametrize("utility", UTILITIES)
def test_empty_replies_agree_with_each_other_alone(utility: str) -> None:
    measure = UTILITIES[utility]
    assert measure((), ()) == 1
    assert measure((), (1,)) == measure((1,), ()) == 0
    assert measure((1, 2), (1, 2)) == 1


def test_rouge_l_of_an_example() -> None:
    assert rouge_l((1, 2, 3, 4), (1, 9, 3)) == pytest.approx(2 * 2 / 7)


@pytest.mark.parametrize("utility", UTILITIES)
@pytest.mark.parametrize("extra", [{}, {"top_p": 0.8, "no_repeat_ngram_size": 2, "min_new_tokens": 3}])
def test_keeps_the_draw_of_highest_mean_agreement(utility: str, extra: dict[str, float]) -> None:
    causal = tiny_model()
    fmt = make("chat")
    samples = [s for c in conversations(3, seed=4) for s in fmt.samples(c, causal.tokenizer, max_length=4000)]
    plain = {"max_new_tokens": 10, "do_sample": True, "temperature": 0.5, "seed": 5, **extra}
    settings = Decoding(**plain, num_candidates=5, mbr_utility=utility)  # type: ignore[arg-type]
    found = {g.id: g.written for batch in generate(causal, samples, settings, branches=15) for g in batch}
    engine = TransformersEngine(causal)
    drawn = engine.sample(
        [s.prompt for s in samples],
        n=5,
        settings=Decoding(**plain),  # type: ignore[arg-type]
        names=[s.id for s in samples],
    )
    ends, measure = end_ids(causal), UTILITIES[utility]
    kept_first = 0
    for sample, draws in zip(samples, drawn, strict=True):

        def agreement(at: int, draws: list[Written] = draws) -> float:
            words = [[t for t in d.tokens if t not in ends] for d in draws]
            return sum(measure(words[at], other) for i, other in enumerate(words) if i != at)

        means = [agreement(i) for i in range(5)]
        got = found[sample.id].tokens
        assert got in {d.tokens for d in draws}
        assert means[[d.tokens for d in draws].index(got)] == pytest.approx(max(means))
        kept_first += got == draws[0].tokens
    assert kept_first < len(samples)


def test_a_plan_is_chosen_once_and_the_draws_follow_it() -> None:
    from heedful.models.causal import add_markers
    from heedful.models.plan import PlanRule

    causal = tiny_model()
    fmt = make("strategy")
    add_markers(causal, fmt.markers)
    marks = {m: causal.tokenizer.convert_tokens_to_ids(m) for m in itertools.islice(fmt.markers, 8)}
    samples = [s for c in conversations(2, seed=4, turns=6) for s in fmt.samples(c, causal.tokenizer, max_length=4000)]
    settings = Decoding(max_new_tokens=6, do_sample=True, num_candidates=3)
    for batch in generate(causal, samples, settings, plan=PlanRule(marks=marks)):
        for reply in batch:
            assert reply.written.tokens[0] in marks.values()
            assert not set(reply.written.tokens[1:]) & set(marks.values())
            assert len(reply.written.logprobs) == len(reply.written.tokens)


def test_choosing_among_draws_needs_draws() -> None:
    with pytest.raises(ConfigError, match="do_sample: true"):
        Decoding(num_candidates=4)
    with pytest.raises(ConfigError, match="num_candidates"):
        Decoding(do_sample=True, mbr_utility="bleu2")


def test_files_of_replies_without_a_choice_keep_their_header() -> None:
    assert "num_candidates" not in Decoding(do_sample=True).record()
    assert Decoding(do_sample=True, num_candidates=2).record()["mbr_utility"] == "rougeL"


def test_tokens_of_candidates_are_not_streamed() -> None:
    causal = tiny_model()
    samples = make("chat").samples(conversations(1, seed=4)[0], causal.tokenizer, max_length=4000)
    seen: list[int] = []
    settings = Decoding(max_new_tokens=4, do_sample=True, num_candidates=2)
    list(generate(causal, samples, settings, on_token=lambda name, token: seen.append(token)))
    assert not seen
