"""A plan is chosen among its marks by a rule of its own; the words come after it, and no mark among them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from heedful import taxonomy
from heedful.agents.plan import PlanConfig, settle_plan
from heedful.errors import ConfigError, DataError, NotFoundError
from heedful.evaluation.config import EvalConfig
from heedful.evaluation.run import evaluate
from heedful.formats import Sample, make
from heedful.models.causal import CausalModel, add_markers
from heedful.models.decoding import Decoding, Written
from heedful.models.generate import generate
from heedful.models.plan import PlanRule
from heedful.testing import conversations, tiny_model
from heedful.types import Conversation

SET = "esconv_strategy"
NAMES = taxonomy.get(SET).names


@cache
def setup() -> tuple[CausalModel, list[Sample], dict[str, int], list[Conversation]]:
    causal, fmt = tiny_model(), make("strategy")
    add_markers(causal, fmt.markers)
    head = torch.randn(causal.model.get_input_embeddings().weight.shape, generator=torch.Generator().manual_seed(1))
    causal.model.config.tie_word_embeddings = False
    causal.model.get_output_embeddings().weight = torch.nn.Parameter(head * 0.4)
    talks = conversations(3, seed=11)
    marks = {name: causal.tokenizer.get_vocab()[f"[{name}]"] for name in NAMES}
    return causal, [s for c in talks for s in fmt.samples(c, causal.tokenizer, max_length=4000)], marks, talks


def written(rule: PlanRule | None, settings: Decoding | None = None, samples: Any = None) -> dict[str, Written]:
    causal, due, _, _ = setup()
    settings = settings or Decoding(max_new_tokens=6)
    return {g.id: g.written for b in generate(causal, samples or due, settings, plan=rule) for g in b}


def logits_of(sample: Sample) -> Any:
    causal, _, marks, _ = setup()
    with torch.no_grad():
        row = causal.model(input_ids=torch.tensor([sample.prompt])).logits[0, -1]
    return row[list(marks.values())].double().numpy()


def softmax(values: Any) -> Any:
    mass = np.exp(values - values.max())
    return mass / mass.sum()


def test_argmax_takes_the_best_mark_whatever_the_vocabulary_would_say() -> None:
    _, samples, marks, _ = setup()
    found = written(PlanRule(marks=marks))
    for sample in samples:
        wanted = softmax(logits_of(sample))
        assert found[sample.id].tokens[0] == list(marks.values())[int(wanted.argmax())]
        np.testing.assert_allclose(found[sample.id].probabilities, wanted, atol=1e-5)
        assert found[sample.id].logprobs[0] == pytest.approx(float(np.log(wanted.max())), abs=1e-4)


def test_the_words_are_those_of_a_prompt_that_ends_with_the_mark() -> None:
    """Greedy and drawn: the plan changes the prompt and nothing else; it takes no draw away from the words."""
    _, samples, marks, _ = setup()
    for settings in (
        Decoding(max_new_tokens=6),
        Decoding(max_new_tokens=6, do_sample=True, temperature=0.8, top_p=0.9),
    ):
        label = NAMES[3]
        found = written(PlanRule(marks=marks, choose="given", given={s.id: label for s in samples}), settings)
        longer = [replace(s, prompt=(*s.prompt, marks[label])) for s in samples]
        plain = {
            g.id: g.written
            for batch in generate(setup()[0], longer, settings, banned=tuple(marks.values()))
            for g in batch
        }
        for sample in samples:
            assert found[sample.id].tokens == (marks[label], *plain[sample.id].tokens)
            assert found[sample.id].finish == plain[sample.id].finish
            np.testing.assert_allclose(found[sample.id].logprobs[1:], plain[sample.id].logprobs, atol=1e-4)


def test_no_mark_is_written_twice() -> None:
    """Even where a mark is what the model wants most."""
    causal, _samples, marks, _ = setup()
    head = causal.model.get_output_embeddings().weight
    kept = head.data.clone()
    try:
        head.data[list(marks.values())] *= 50
        free = written(None)
        assert any(t in marks.values() for w in free.values() for t in w.tokens[1:])
        ruled = written(PlanRule(marks=marks))
        assert not any(t in marks.values() for w in ruled.values() for t in w.tokens[1:])
    finally:
        head.data.copy_(kept)


def test_beams_start_after_the_plan() -> None:
    _, samples, marks, _ = setup()
    settings = Decoding(max_new_tokens=5, num_beams=3)
    found = written(PlanRule(marks=marks), settings)
    longer = [replace(s, prompt=(*s.prompt, found[s.id].tokens[0])) for s in samples]
    batches = generate(setup()[0], longer, settings, banned=tuple(marks.values()))
    plain = {g.id: g.written.tokens for batch in batches for g in batch}
    assert all(found[s.id].tokens[1:] == plain[s.id] for s in samples)


def path(sample: Sample, words: tuple[int, ...]) -> Any:
    """log p of the word after `words` on each sheet (8, V), by reading every prompt anew, without a cache."""
    causal, _, marks, _ = setup()
    with torch.no_grad():
        rows = [
            causal.model(input_ids=torch.tensor([[*sample.prompt, mark, *words]])).logits[0, -1].double()
            for mark in marks.values()
        ]
    return torch.stack(rows).log_softmax(-1).numpy()


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 3.5])
def test_guided_words_are_those_of_the_formula(scale: float) -> None:
    """Worked out by hand: belief in each plan by Bayes, its mean over plans, and the power of the ratio."""
    _, samples, marks, _ = setup()
    label, sample = NAMES[2], samples[0]
    settings = Decoding(max_new_tokens=5)
    rule = PlanRule(marks=marks, choose="given", given={sample.id: label}, guidance_scale=scale)
    found = written(rule, settings, [sample])[sample.id]
    belief = np.log(softmax(logits_of(sample)))
    words: tuple[int, ...] = ()
    for token, logprob in zip(found.tokens[1:], found.logprobs[1:], strict=True):
        each = path(sample, words)
        unplanned = np.logaddexp.reduce(each + belief[:, None], axis=0)
        guided = unplanned + scale * (each[NAMES.index(label)] - unplanned)
        held = guided - np.logaddexp.reduce(guided)
        allowed = guided.copy()
        allowed[list(marks.values())] = -np.inf
        assert token == int(allowed.argmax())
        assert logprob == pytest.approx(float(held[token]), abs=1e-3)
        belief = belief + each[:, token]
        belief -= np.logaddexp.reduce(belief)
        words = (*words, token)
    assert found.own == (), "what the model itself held of guided words is not what they were chosen by"


def test_no_guidance_is_the_model_alone_and_one_label_more_or_less_changes_nothing_for_a_label_that_is_sure() -> None:
    _, samples, marks, _ = setup()
    settings = Decoding(max_new_tokens=6)
    plain = written(PlanRule(marks=marks), settings)
    assert written(PlanRule(marks=marks, guidance_scale=1.0), settings) == plain
    sure = {s.id: np.where(np.arange(8) == 4, 0.0, -1e3) for s in samples}
    strong = written(PlanRule(marks=marks, own=0.0, others=sure, guidance_scale=3.0), settings)
    alone = written(PlanRule(marks=marks, own=0.0, others=sure), settings)
    assert {k: w.tokens for k, w in strong.items()} == {k: w.tokens for k, w in alone.items()}


def test_guidance_goes_with_every_way_of_choosing_words_and_with_streaming() -> None:
    causal, samples, marks, _ = setup()
    given = {s.id: NAMES[i % 8] for i, s in enumerate(samples)}
    rule = PlanRule(marks=marks, choose="given", given=given, guidance_scale=2.5)
    for settings in (
        Decoding(max_new_tokens=6, do_sample=True, top_p=0.9),
        Decoding(max_new_tokens=5, num_beams=3),
        Decoding(max_new_tokens=5, do_sample=True, num_candidates=3),
    ):
        together = written(rule, settings)
        for sample in samples[:3]:
            alone = written(rule, settings, [sample])[sample.id]
            assert alone.tokens == together[sample.id].tokens, "a reply does not depend on its neighbours"
            assert alone.tokens[0] == marks[given[sample.id]]
    seen: list[int] = []
    (batch,) = generate(
        causal, samples[:1], Decoding(max_new_tokens=6), plan=rule, on_token=lambda _, t: seen.append(t)
    )
    assert tuple(seen) == batch[0].written.tokens


def test_stronger_guidance_makes_the_words_speak_for_their_plan() -> None:
    """P(plan | words) of the model itself, over all replies: it rises with the scale."""
    _, samples, marks, _ = setup()
    label = NAMES[5]
    shares = []
    for scale in (0.0, 1.0, 3.0):
        rule = PlanRule(marks=marks, choose="given", given={s.id: label for s in samples}, guidance_scale=scale)
        found = written(rule, Decoding(max_new_tokens=5), samples)
        held = []
        for sample in samples:
            belief, words = np.log(softmax(logits_of(sample))), found[sample.id].tokens[1:]
            for at, token in enumerate(words):
                belief = belief + path(sample, words[:at])[:, token]
            held.append(softmax(belief)[NAMES.index(label)])
        shares.append(float(np.mean(held)))
    assert shares[0] < shares[1] < shares[2]


def test_drawn_plans_follow_their_probabilities() -> None:
    _, samples, marks, _ = setup()
    sample = samples[0]
    wanted = softmax(logits_of(sample))
    n = 4000
    rule = PlanRule(marks=marks, choose="sample", top_p=1.0)
    draws = [rule.choice(wanted, "x", np.random.default_rng((3, i))) for i in range(n)]
    seen = np.bincount(draws, minlength=len(marks)) / n
    assert np.abs(seen - wanted).max() < 4 * np.sqrt(0.25 / n)
    cut = PlanRule(marks=marks, choose="sample", top_p=float(wanted.max()) * 0.99)
    assert {cut.choice(wanted, "x", np.random.default_rng(i)) for i in range(50)} == {int(wanted.argmax())}
    cold = PlanRule(marks=marks, choose="sample", top_p=1.0, temperature=0.05)
    cooled = Counter(cold.choice(wanted, "x", np.random.default_rng(i)) for i in range(200))
    assert cooled[int(wanted.argmax())] > seen[int(wanted.argmax())] * 200


def test_another_predictor_is_mixed_in_as_the_formula_says() -> None:
    _, samples, marks, _ = setup()
    name, own = samples[0].id, softmax(logits_of(samples[0]))
    other = np.full(8, 0.01)
    other[5] = 0.93
    for weight in (0.0, 0.3, 1.0):
        rule = PlanRule(marks=marks, own=1 - weight, others={name: weight * np.log(other)})
        wanted = own ** (1 - weight) * other**weight
        np.testing.assert_allclose(rule.probabilities(np.log(own), name), wanted / wanted.sum(), atol=1e-9)
    np.testing.assert_allclose(rule.probabilities(np.log(own), "somewhere else"), own, atol=1e-9)


def test_what_cannot_be_is_refused() -> None:
    _, samples, marks, talks = setup()
    with pytest.raises(ConfigError, match="at least two labels"):
        PlanRule(marks={"a": 1})
    with pytest.raises(ConfigError, match="own >= 0"):
        PlanRule(marks=marks, own=-1)
    with pytest.raises(ConfigError, match="is to be given, but it is none"):
        written(PlanRule(marks=marks, choose="given"), samples=samples[:1])
    with pytest.raises(ConfigError, match="needs a format whose replies begin with one marker"):
        settle_plan("argmax", make("chat"))
    with pytest.raises(NotFoundError, match="Unknown plan 'argmin'"):
        settle_plan("argmin", make("strategy"))
    with pytest.raises(NotFoundError):
        settle_plan(PlanConfig(ask=["runs/nowhere"]), make("strategy"))
    old = settle_plan("questions", make("strategy"))  # the spelling of the first release, and a small letter
    assert old is not None
    assert old.config.choose == "Question"
    setting = settle_plan("gold", make("strategy"))
    assert setting is not None
    assert setting.is_oracle
    with pytest.raises(DataError, match="needs a label of 'esconv_strategy' on every reply"):
        setting.rule(setup()[0].tokenizer.get_vocab(), {"a/1": talks[0].before(1)}, {"a/1": None})


def test_an_evaluation_keeps_the_choice_and_goes_on_only_with_the_same_rule(tmp_path: Path) -> None:
    """`gold` writes the corpus' label everywhere, `argmax` its own; the trace has all eight probabilities."""
    causal = tiny_model()
    causal.model.save_pretrained(str(tmp_path / "tiny"))
    causal.tokenizer.save_pretrained(str(tmp_path / "tiny"))
    common: dict[str, Any] = {
        "model_name_or_path": str(tmp_path / "tiny"), "dataset": "commons", "max_conversations": 2,
        "compare_base": False, "baselines": [],
        "metrics": ["length"], "bootstrap": 10, "decoding": {"max_new_tokens": 4},
        "format": "strategy",
        "dtype": "float32",
    }  # fmt: skip
    chosen: dict[str, list[str]] = {}
    for plan in ("gold", "argmax", "Question"):
        folder = tmp_path / plan
        evaluate(EvalConfig(**common, plan=plan, output_dir=str(folder)))
        header, *rows = [*_rows(folder / "traces" / "model.jsonl")]
        assert header["header"]["plan"]["choose"] == plan
        chosen[plan] = [row["plan"][SET] for row in rows]
        for row in rows:
            spread = row["plan"]["probabilities"][SET]
            assert list(spread) == list(NAMES)
            assert sum(spread.values()) == pytest.approx(1, abs=1e-3)
    assert set(chosen["Question"]) == {"Question"}
    assert len(set(chosen["gold"])) > 2
    assert chosen["gold"] != chosen["argmax"]


def _rows(path: Path) -> Any:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
