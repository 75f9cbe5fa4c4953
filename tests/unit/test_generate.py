"""Decoding on trees equals `transformers.generate` word for word; sampling draws from the distribution it claims."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from conftest import needs

torch = pytest.importorskip("torch")

from heedful.errors import ConfigError, DataError
from heedful.formats import Sample, encode, make
from heedful.models.causal import CausalModel, add_markers, load
from heedful.models.decoding import Decoding, Step, Written, choose, chooser, draw_plain, stream
from heedful.models.embedded import DEFAULT_MODEL, EMBEDDED, packaged_file
from heedful.models.generate import end_ids, generate, prompt_only
from heedful.testing import conversations, tiny_model


@cache
def setup(kind: Any = "llama", spec: str = "chat", n: int = 3) -> tuple[CausalModel, list[Sample]]:
    causal = tiny_model(kind=kind)
    fmt = make({"name": "chat", "system": "Be kind."} if spec == "chat" else spec)
    add_markers(causal, fmt.markers)
    sharpen(causal)
    talks = conversations(n, seed=11)
    return causal, [s for conv in talks for s in fmt.samples(conv, causal.tokenizer, max_length=4000)]


def sharpen(causal: CausalModel) -> None:
    """An output layer of its own with a likely end token: else a tiny model repeats its last word for ever."""
    model, end = causal.model, causal.tokenizer.eos_token_id
    draw = torch.Generator().manual_seed(1)
    shape = model.get_input_embeddings().weight.shape
    head = torch.randn(shape, generator=draw) * 0.4
    head[end] *= 3
    model.config.tie_word_embeddings = False
    model.get_output_embeddings().weight = torch.nn.Parameter(head)


def written(causal: CausalModel, samples: list[Sample], settings: Decoding, **options: Any) -> dict[str, Written]:
    return {g.id: g.written for batch in generate(causal, samples, settings, **options) for g in batch}


def reference(causal: CausalModel, sample: Sample, **options: Any) -> tuple[int, ...]:
    """What transformers writes, one prompt at a time."""
    ids = torch.tensor([sample.prompt])
    out = causal.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=causal.pad_id, **options
    )
    return tuple(out[0, len(sample.prompt) :].tolist())


SETTINGS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2},
    {"min_new_tokens": 9},
    {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "min_new_tokens": 4},
    {"num_beams": 2},
    {"num_beams": 4},
    {"num_beams": 4, "length_penalty": 0.3},
    {"num_beams": 4, "length_penalty": 2.0, "min_new_tokens": 3},
    {"num_beams": 2, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
]
every_setting = pytest.mark.parametrize("options", SETTINGS, ids=lambda o: "-".join(f"{k}{v}" for k, v in o.items()))


@every_setting
@pytest.mark.parametrize(("kind", "spec"), [("llama", "chat"), ("gpt2", "chat"), ("llama", "structured")])
def test_equal_to_transformers(kind: str, spec: str, options: dict[str, Any]) -> None:
    causal, samples = setup(kind, spec)
    assert len(samples) >= 6
    expected = {s.id: reference(causal, s, max_new_tokens=16, **options) for s in samples}
    settings = Decoding(max_new_tokens=16, **options)
    for branches in (64, 3):
        found = written(causal, samples, settings, branches=branches)
        assert {name: w.tokens for name, w in found.items()} == expected
    for reply in found.values():
        ended = reply.tokens[-1] == causal.tokenizer.eos_token_id
        assert reply.finish == ("stop" if ended else "length")
        assert len(reply.logprobs) == len(reply.tokens) <= 16


def test_the_comparison_sees_short_and_long_replies() -> None:
    """Otherwise the equality above would say little about where a reply ends."""
    for kind in ("llama", "gpt2"):
        causal, samples = setup(kind)
        for beams in (1, 4):
            found = written(causal, samples, Decoding(max_new_tokens=16, num_beams=beams))
            assert {w.finish for w in found.values()} == {"stop", "length"}, (kind, beams)
            assert len({len(w.tokens) for w in found.values()}) > 2


@pytest.mark.parametrize("beams", [1, 2, 5])
def test_equal_with_several_end_tokens(beams: int) -> None:
    causal = tiny_model()
    sharpen(causal)
    more = [causal.tokenizer.eos_token_id, *range(120, 500)]
    causal.model.generation_config.eos_token_id = more
    assert end_ids(causal) == set(more)
    _, samples = setup()
    # Long replies are rewarded, so a search that runs out of live beams too early is seen.
    options: dict[str, Any] = {"num_beams": beams, "min_new_tokens": 2, "length_penalty": 3.0}
    found = written(causal, samples, Decoding(max_new_tokens=12, **options))
    assert {n: w.tokens for n, w in found.items()} == {
        s.id: reference(causal, s, max_new_tokens=12, **options) for s in samples
    }


def logprobs(causal: CausalModel, sample: Sample, tokens: tuple[int, ...], *, temperature: float = 1.0) -> np.ndarray:  # type: ignore[type-arg]
    ids = torch.tensor([[*sample.prompt, *tokens]])
    with torch.no_grad():
        logits = causal.model(input_ids=ids).logits[0, len(sample.prompt) - 1 : -1]
    rows: np.ndarray = (logits / temperature).log_softmax(-1)[torch.arange(len(tokens)), torch.tensor(tokens)].numpy()  # type: ignore[type-arg]
    return rows


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 2, "repetition_penalty": 1.5},
        {"do_sample": True},
        {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 40},
        {"do_sample": True, "min_new_tokens": 8},
    ],
)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_logprobs_are_those_of_the_model(kind: str, options: dict[str, Any]) -> None:
    """At the temperature and before cut-offs: the policy that a reply was drawn from is the one that is trained."""
    causal, samples = setup(kind)
    for name, reply in written(causal, samples, Decoding(max_new_tokens=12, **options)).items():
        (sample,) = [s for s in samples if s.id == name]
        expected = logprobs(causal, sample, reply.tokens, temperature=float(options.get("temperature", 1.0)))
        np.testing.assert_allclose(reply.logprobs, expected, atol=1e-4, rtol=0)


# ------------------------------------------------------------------ sampling


def test_a_reply_does_not_depend_on_its_neighbours() -> None:
    causal, samples = setup()
    settings = Decoding(max_new_tokens=16, do_sample=True, temperature=0.9, top_p=0.95)
    expected = written(causal, samples, settings)
    assert len({w.tokens for w in expected.values()}) == len(samples)
    for branches in (1, 3, 100):
        for order in (samples, samples[::-1], samples[1::2] + samples[::2]):
            found = written(causal, order, settings, branches=branches)
            assert {n: w.tokens for n, w in found.items()} == {n: w.tokens for n, w in expected.items()}
    alone = written(causal, samples[3:4], settings)
    assert alone[samples[3].id].tokens == expected[samples[3].id].tokens


def test_other_seeds_and_names_give_other_words() -> None:
    causal, samples = setup()
    settings = Decoding(max_new_tokens=16, do_sample=True)
    one, two = (written(causal, samples[:1], replace(settings, seed=s)) for s in (1, 2))
    assert one[samples[0].id].tokens != two[samples[0].id].tokens
    many = [replace(samples[0], id=f"{samples[0].id}#{i}") for i in range(8)]
    assert len({w.tokens for w in written(causal, many, settings).values()}) == 8
    assert stream(1, "a").random() == stream(1, "a").random() != stream(1, "b").random()


def draw(logits: Any, settings: Decoding, n: int, **options: Any) -> Counter[int]:
    counts: Counter[int] = Counter()
    for i in range(n):
        one = chooser(settings, name=str(i), prompt=(1, 2), end=frozenset({0}), **options)
        counts[one.step(logits).tokens[0]] += 1
    return counts


def exact(logits: Any, settings: Decoding) -> np.ndarray:  # type: ignore[type-arg]
    """The filtered softmax with transformers' own warpers."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    out = TemperatureLogitsWarper(settings.temperature)(None, logits) if settings.temperature != 1 else logits
    if settings.top_k:
        out = TopKLogitsWarper(settings.top_k)(None, out)
    if settings.top_p < 1:
        out = TopPLogitsWarper(settings.top_p)(None, out)
    found: np.ndarray = out[0].double().softmax(-1).numpy()  # type: ignore[type-arg]
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 1.7},
        {"top_k": 3},
        {"top_p": 0.7},
        {"top_p": 0.01},
        {"top_k": 6, "top_p": 0.8, "temperature": 1.3},
        {"top_k": 99},
    ],
)
def test_draws_follow_the_filtered_softmax(options: dict[str, Any]) -> None:
    logits = torch.tensor([[0.1, 2.0, -1.0, 1.5, 0.3, -0.4, 1.9, 0.0, -3.0, 0.9]])
    settings, n = Decoding(do_sample=True, **options), 1500
    counts, p = draw(logits, settings, n), exact(logits, settings)
    kept = np.flatnonzero(p)
    assert set(counts) <= set(kept.tolist())  # what is cut off never comes
    expected = p[kept] * n
    chi2 = float(((np.array([counts[int(k)] for k in kept]) - expected) ** 2 / expected).sum())
    # Mean k-1, deviation sqrt(2(k-1)): five deviations are exceeded once in a million; the seed is fixed besides.
    assert chi2 <= (len(kept) - 1) + 5 * np.sqrt(2 * max(len(kept) - 1, 1))


def assert_drawn_as_if_sorted_whole(logits: Any, settings: Decoding, name: str) -> None:
    values, order = (logits / settings.temperature).sort(descending=True)
    p = values.double().softmax(0).numpy()
    kept = p[np.cumsum(p) - p < settings.top_p]
    u = stream(settings.seed, name).random() * kept.sum()
    expected = int(order[int(np.searchsorted(np.cumsum(kept), u, side="right"))])
    one = chooser(settings, name=name, prompt=(1,), end=frozenset({0}))
    assert one.step(logits[None]).tokens == (expected,)


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])  # 1.0 is drawn in the order of the vocabulary, see draw_plain
@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0, 8.0])
def test_large_vocabularies_are_drawn_from_as_if_sorted_whole(spread: float, top_p: float) -> None:
    """Only the head of 5000 entries is looked at; the draw must be that of the full inverse distribution."""
    noise = torch.Generator().manual_seed(5)
    for i in range(40):
        logits = torch.randn(5000, generator=noise) * spread + torch.arange(5000) * 1e-4
        assert_drawn_as_if_sorted_whole(logits, Decoding(do_sample=True, top_p=top_p, temperature=0.8), str(i))


def test_a_few_likely_tokens_are_still_drawn_from() -> None:
    """Where the rest has no mass left, rounding once turned it into NaN, and the best token was always taken."""
    noise = torch.Generator().manual_seed(0)
    for i in range(500):
        spread, boost, k = (float(torch.rand(1, generator=noise)) for _ in range(3))
        logits = torch.randn(5000, generator=noise) * 3 * spread
        logits[: 1 + int(40 * k)] += 20 + 40 * boost
        assert_drawn_as_if_sorted_whole(logits, Decoding(do_sample=True, top_p=0.9), str(i))


def test_banned_tokens_and_an_early_end_never_come() -> None:
    logits = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0, 0.0, -1.0]])
    counts = draw(logits, Decoding(do_sample=True, min_new_tokens=1, max_new_tokens=4), 300, banned=(1, 3))
    assert set(counts) <= {2, 4, 5, 6}
    causal, samples = setup()
    plain = written(causal, samples, Decoding(max_new_tokens=6))
    common = [t for t, _ in Counter(t for w in plain.values() for t in w.tokens).most_common(5)]
    for beams in (1, 2):
        found = written(causal, samples, Decoding(max_new_tokens=6, num_beams=beams), banned=common)
        assert not {t for w in found.values() for t in w.tokens} & set(common)


# ------------------------------------------------------------------ around it


def test_streaming_tells_every_token_in_order() -> None:
    causal, samples = setup()
    told: dict[str, list[int]] = {}
    found = written(
        causal, samples, Decoding(max_new_tokens=8), on_token=lambda name, t: told.setdefault(name, []).append(t)
    )
    assert {n: tuple(t) for n, t in told.items()} == {n: w.tokens for n, w in found.items()}


def test_no_word_of_a_reply_is_in_a_repr() -> None:
    """Ids are words to whoever has the tokenizer."""
    causal, samples = setup()
    made = [g for batch in generate(causal, samples[:1], Decoding(max_new_tokens=5)) for g in batch]
    assert "tokens" not in repr(made)
    assert repr(Step(parents=(0,), tokens=(4711,))) == "Step(parents=(0,))"


def test_targets_are_not_read_and_batches_come_one_by_one() -> None:
    causal, samples = setup()
    settings = Decoding(max_new_tokens=5)
    blind = [prompt_only(s.id, s.conversation_id, s.turn, s.prompt) for s in samples]
    assert written(causal, blind, settings) == written(causal, samples, settings)
    batches = list(generate(causal, samples, settings, branches=1))
    assert len(batches) == len({s.conversation_id for s in samples})
    assert sorted(g.id for b in batches for g in b) == sorted(s.id for s in samples)
    assert list(generate(causal, [], settings)) == []


def test_one_prompt_with_many_replies_is_read_once() -> None:
    """GRPO's case: G branches from one prompt, cached once."""
    causal, samples = setup()
    many = [replace(samples[-1], id=f"g#{i}") for i in range(6)]
    widths: list[int] = []
    hook = causal.model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    found = written(causal, many, Decoding(max_new_tokens=4, do_sample=True, min_new_tokens=4))
    hook.remove()
    assert widths == [len(samples[-1].prompt), 6, 6, 6]
    assert len(found) == 6


def test_two_samples_of_one_name_are_refused() -> None:
    """The name keys the random stream, so a second one would be the same reply or a mixture."""
    causal, samples = setup()
    with pytest.raises(DataError, match=f"'{samples[0].id}' is there 2 times"):
        list(generate(causal, [samples[0], replace(samples[1], id=samples[0].id)], Decoding(max_new_tokens=2)))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"do_sample": True, "num_beams": 2}, "not both"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "got 5 and 4"),
        ({"max_new_tokens": 0}, "max_new_tokens >= 1"),
        ({"min_new_tokens": -1}, "got -1"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"num_beams": 0}, "num_beams"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
    ],
)
def test_settings_that_contradict_each_other(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Decoding(**options)


@pytest.mark.slow
def test_equal_to_transformers_on_a_real_model() -> None:
    needs(packaged_file(EMBEDDED[DEFAULT_MODEL]), f"needs the embedded model: {EMBEDDED[DEFAULT_MODEL].install}")
    causal, fmt = load(DEFAULT_MODEL, dtype="float32", device="cpu"), make("chat")
    samples = [s for c in conversations(2, seed=3, turns=4) for s in fmt.samples(c, causal.tokenizer, max_length=2000)]
    for options in ({}, {"num_beams": 2, "repetition_penalty": 1.2}):
        found = written(causal, samples, Decoding(max_new_tokens=20, **options))  # type: ignore[arg-type]
        assert {n: w.tokens for n, w in found.items()} == {
            s.id: reference(causal, s, max_new_tokens=20, **options) for s in samples
        }
    prompt = fmt.prompt(conversations(1, turns=3)[0], causal.tokenizer)
    single = prompt_only("x/1", "x", 1, encode(prompt, causal.tokenizer))
    (reply,) = written(causal, [single], Decoding(max_new_tokens=40)).values()
    assert fmt.parse(causal.tokenizer.decode(reply.tokens), causal.tokenizer).text


# ------------------------------------------------------------------ plain draws, many at once


def plain(n: int, settings: Decoding, **options: Any) -> list[Any]:
    return [chooser(settings, name=str(i), prompt=(1, 2), end=frozenset({0}), **options) for i in range(n)]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 1.7])
@pytest.mark.parametrize("banned", [(), (0, 3, 256, 599)])
@pytest.mark.parametrize("seed", [1, 2])
def test_plain_draws_follow_the_softmax(temperature: float, banned: tuple[int, ...], seed: int) -> None:
    """600 entries are three blocks, the last one not full; likely tokens stand in each of them, and at both ends."""
    noise = torch.Generator().manual_seed(9)
    row = torch.randn(600, generator=noise)
    row[[0, 3, 255, 256, 511, 512, 599]] += 4
    n = 8_000
    settings = Decoding(do_sample=True, temperature=temperature, seed=seed)
    steps = draw_plain(plain(n, settings, banned=banned), row[None].expand(n, -1))
    counts = np.bincount([s.tokens[0] for s in steps], minlength=600)
    allowed = row / temperature
    allowed[list(banned)] = -torch.inf
    p = allowed.double().softmax(0).numpy()
    assert not counts[list(banned)].any()
    # Rare tokens are pooled, so that every cell expects some draws.
    cells = np.array([x * n >= 5 for x in p])
    found = np.append(counts[cells], counts[~cells].sum())
    expected = np.append(p[cells], p[~cells].sum()) * n
    found, expected = found[expected > 0], expected[expected > 0]
    chi2 = float(((found - expected) ** 2 / expected).sum())
    assert chi2 <= (len(found) - 1) + 5 * np.sqrt(2 * (len(found) - 1))
    assert len(found) > 10


def test_plain_draws_are_the_inverse_of_the_distribution() -> None:
    """Token for token: where the running sum in the order of the vocabulary passes the stream's number."""
    noise = torch.Generator().manual_seed(3)
    logits = torch.randn(300, 777, generator=noise) * 3
    settings = Decoding(do_sample=True, seed=4)
    steps = draw_plain(plain(300, settings), logits)
    for i, step in enumerate(steps):
        p = logits[i].double().softmax(0).numpy()
        assert step.tokens == (int(np.searchsorted(p.cumsum(), stream(4, str(i)).random(), side="right")),)


def test_a_plain_draw_does_not_depend_on_its_neighbours() -> None:
    noise = torch.Generator().manual_seed(3)
    logits = torch.randn(40, 600, generator=noise) * 2
    settings = Decoding(do_sample=True)
    together = [s.tokens for s in draw_plain(plain(40, settings), logits)]
    alone = [c.step(logits[i : i + 1]).tokens for i, c in enumerate(plain(40, settings))]
    turned = [s.tokens for s in draw_plain(plain(40, settings)[::-1], logits.flip(0))]
    assert together == alone == turned[::-1]
    # Beside replies of another kind as well: greedy ones are passed by.
    greedy = chooser(Decoding(), name="greedy", prompt=(1,), end=frozenset({0}))
    mixed = choose([greedy, *plain(40, settings)], [logits[:1], *logits[:, None]])
    assert mixed[0].tokens == (int(logits[0].argmax()),)
    assert [s.tokens for s in mixed[1:]] == together


def test_plain_logprobs_are_at_the_temperature_and_before_bans() -> None:
    logits = torch.randn(20, 600, generator=torch.Generator().manual_seed(1))
    some = plain(20, Decoding(do_sample=True, temperature=0.6, max_new_tokens=1), banned=(5, 6))
    steps = draw_plain(some, logits)
    for row, step, one in zip(logits, steps, some, strict=True):
        assert one.done.logprobs == pytest.approx([float((row / 0.6).log_softmax(0)[step.tokens[0]])], abs=1e-5)
        assert one.done.finish == ("stop" if step.tokens == (0,) else "length")


def test_certain_tokens_are_drawn_even_at_the_edges() -> None:
    for token in (0, 255, 256, 599):
        row = torch.full((600,), -200.0)
        row[token] = 0.0
        assert {s.tokens for s in draw_plain(plain(50, Decoding(do_sample=True)), row[None].expand(50, -1))} == {
            (token,)
        }


def test_many_replies_of_several_prompts_cost_their_prompts_once() -> None:
    """As in a rollout: two prompts of different talks, five replies each, in one batch."""
    causal, samples = setup()
    one, other = samples[0], samples[-1]
    many = [prompt_only(f"{s.id}/{i}", s.id, 0, s.prompt) for s in (one, other) for i in range(5)]
    sizes: list[tuple[int, ...]] = []
    hook = causal.model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    found = written(causal, many, Decoding(max_new_tokens=5, do_sample=True, min_new_tokens=5))
    hook.remove()
    assert sizes[0] == (2, max(len(one.prompt), len(other.prompt)))
    assert sizes[1:] == [(2, 5)] * 4
    assert len({w.tokens for w in found.values()}) == 10
