"""The prompt is computed once for its replies, and every number and gradient is that of a row for each reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from rl_kit import policy, prompts, rollouts

from heedful.models.causal import CausalModel
from heedful.training.rl.experience import Prompt
from heedful.training.rl.heads import ValueHead
from heedful.training.rl.passes import lay_out, run

Replies = list[list[tuple[int, ...]]]
both = pytest.mark.parametrize("kind", ["llama", "gpt2"])


@dataclass
class Plain:
    """What `Seen` has, out of one row per reply."""

    logprobs: Any
    entropy: Any
    states: Any
    gold: Any
    prompts: Any


def one_row(causal: CausalModel, prompt: tuple[int, ...], reply: tuple[int, ...]) -> tuple[Any, Any, Any, Any]:
    """(log-probabilities, entropies, states before each token, mean state of the prompt), without padding or masks."""
    out = causal.model(input_ids=torch.tensor([[*prompt, *reply]]), output_hidden_states=True)
    table = out.logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    states = out.hidden_states[-1][0]
    entropy = torch.distributions.Categorical(logits=table).entropy()
    own = table[torch.arange(len(reply)), torch.tensor(reply)]
    return own, entropy, states[len(prompt) - 1 : -1], states[: len(prompt)].mean(0)


def plain(causal: CausalModel, asked: Sequence[Prompt], replies: Replies) -> Plain:
    parts = [one_row(causal, p.tokens, r) for p, mine in zip(asked, replies, strict=True) for r in mine]
    gold = [one_row(causal, p.tokens, p.gold) for p in asked]
    means = torch.stack([g[3] for g in gold])
    return Plain(*(torch.cat([part[i] for part in parts]) for i in range(3)), torch.cat([g[0] for g in gold]), means)


@cache
def case(kind: str) -> tuple[CausalModel, list[Prompt], Replies]:
    """Three prompts of different lengths with replies that are alike in every way that replies can be alike."""
    causal = policy(kind)
    asked = prompts(causal, 3)
    assert len({len(p.tokens) for p in asked}) == 3
    replies: Replies = [[w.tokens for w in mine] for mine in rollouts(causal, asked, n=4)]
    first = replies[0][0]
    replies[0] += [first, first[:2], (*first[:2], 9, 2)]  # the same twice, cut short, another end
    replies[1] += [asked[1].gold, asked[1].gold[:3]]  # what the person wrote, and its beginning
    replies[2] = [(2,), *replies[2], (2,)]  # nothing but the end token, twice
    return causal, asked, replies


def gradients(causal: CausalModel, loss: Any) -> dict[str, Any]:
    causal.model.zero_grad(set_to_none=True)
    loss.backward()
    found = {n: p.grad.clone() for n, p in causal.model.named_parameters() if p.grad is not None}
    causal.model.zero_grad(set_to_none=True)
    return found


@both
@pytest.mark.parametrize("gold", [False, True])
def test_numbers_equal_those_of_separate_rows(kind: str, gold: bool) -> None:
    causal, asked, replies = case(kind)
    passing = lay_out(causal, asked, replies, gold=gold)
    # Every prompt enters once: the tokens of the pass are far fewer than those of the rows.
    alone = sum(len(p.tokens) + len(r) for p, mine in zip(asked, replies, strict=True) for r in mine)
    most = len(asked) * max(len(p.tokens) + sum(map(len, mine)) for p, mine in zip(asked, replies, strict=True))
    assert passing.batch["input_ids"].numel() <= most + sum(len(p.gold) for p in asked) * len(asked) < alone
    with torch.no_grad():
        found, expected = run(causal.model, passing), plain(causal, asked, replies)
    for name in ("logprobs", "entropy", "states", "prompts"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-4, rtol=0, msg=name)
    if gold:
        # They only ever enter a sum, so they come in the order of the pack.
        torch.testing.assert_close(found.gold.sort().values, expected.gold.sort().values, atol=1e-4, rtol=0)
    else:
        assert len(found.gold) == 0
    flat = [r for mine in replies for r in mine]
    assert passing.lengths.tolist() == [len(r) for r in flat]
    assert passing.owner.tolist() == [i for i, r in enumerate(flat) for _ in r]


@both
def test_gradients_equal_those_of_separate_rows(kind: str) -> None:
    """Of everything that a pass hands out at once, each weighted at random so that nothing can cancel."""
    causal, asked, replies = case(kind)
    draw = torch.Generator().manual_seed(2)

    def loss(seen: Any) -> Any:
        state = torch.Generator().manual_seed(5)
        parts = (seen.logprobs, seen.entropy, seen.states, seen.prompts)
        weighed = [(torch.randn(part.shape, generator=state) * part).sum() / part.numel() ** 0.5 for part in parts]
        return sum(weighed) + seen.gold.mean()

    found = gradients(
        causal, loss(run(causal.model, lay_out(causal, asked, replies, gold=True), entropy_gradient=True))
    )
    expected = gradients(causal, loss(plain(causal, asked, replies)))
    assert set(found) == set(expected) == {n for n, p in causal.model.named_parameters() if p.requires_grad}
    for name, value in expected.items():
        assert float(value.abs().max()) > 1e-3, name  # there is something to compare
        torch.testing.assert_close(found[name], value, atol=1e-4 * max(1.0, float(value.abs().max())), rtol=0, msg=name)
    # A loss on the log-probabilities alone, as GRPO has it.
    weight = torch.randn(sum(len(r) for mine in replies for r in mine), generator=draw)
    found = gradients(causal, (weight * run(causal.model, lay_out(causal, asked, replies, gold=False)).logprobs).sum())
    expected = gradients(causal, (weight * plain(causal, asked, replies).logprobs).sum())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4 * max(1.0, float(value.abs().max())), rtol=0, msg=name)


def test_the_entropy_has_a_gradient_only_where_it_is_asked_for() -> None:
    causal, asked, replies = case("llama")
    passing = lay_out(causal, asked, replies, gold=False)
    assert not run(causal.model, passing).entropy.requires_grad
    assert run(causal.model, passing, entropy_gradient=True).entropy.requires_grad
    with torch.no_grad():
        assert not run(causal.model, passing, entropy_gradient=True).entropy.requires_grad


def test_a_value_belongs_to_the_state_that_predicts_its_token() -> None:
    """V_t is made of the prompt and the tokens before t: it changes with token t - 1 and not with token t."""
    causal, asked, _ = case("llama")
    head = ValueHead(causal.model.get_output_embeddings().weight.shape[1])
    with torch.no_grad():
        head.out.weight.normal_(generator=torch.Generator().manual_seed(0))
        one, other = (11, 12, 13, 14), (11, 12, 99, 14)
        values = head(run(causal.model, lay_out(causal, asked[:1], [[one, other]], gold=False)).states)
        ids = torch.tensor([[*asked[0].tokens, *one]])
        states = causal.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
    first, second = values[:4], values[4:]
    torch.testing.assert_close(first[:3], second[:3], atol=1e-5, rtol=0)  # up to and with the token that differs
    assert abs(float(first[3] - second[3])) > 1e-3
    at = len(asked[0].tokens) - 1
    torch.testing.assert_close(first, head(states[at : at + 4]), atol=1e-4, rtol=0)


@both
def test_prompts_are_averaged_over_their_own_tokens(kind: str) -> None:
    """Neither replies nor padding enter, whichever replies there are."""
    causal, asked, replies = case(kind)
    with torch.no_grad():
        few = run(causal.model, lay_out(causal, asked, [[(2,)]] * 3, gold=False)).prompts
        many = run(causal.model, lay_out(causal, asked, replies, gold=True)).prompts
        alone = torch.cat([run(causal.model, lay_out(causal, [p], [[(5, 2)]], gold=False)).prompts for p in asked])
    torch.testing.assert_close(few, many, atol=1e-5, rtol=0)
    torch.testing.assert_close(few, alone, atol=1e-5, rtol=0)
    passing = lay_out(causal, asked, replies, gold=True)
    assert passing.prompts.sum((1, 2)).tolist() == [len(p.tokens) for p in asked]
    for p, prompt in enumerate(asked):
        assert tuple(passing.batch["input_ids"][passing.prompts[p]].tolist()) == prompt.tokens


@both
def test_long_prompts_are_counted_exactly_in_16_bit(kind: str) -> None:
    """bf16 has eight binary digits, so it counts 257 as 256 and the mean of a long prompt would be too large."""
    causal, asked, _ = case(kind)
    tokens = tuple(5 + i % 40 for i in range(259))
    long = replace(asked[0], tokens=tokens)
    passing = lay_out(causal, [long], [[(5, 2)]], gold=False)
    ones = torch.ones(*passing.batch["input_ids"].shape, 4, dtype=torch.bfloat16)
    width = int(passing.batch["row"].numel())

    def flat(model: Any, batch: Any) -> tuple[Any, Any]:
        return ones, torch.zeros(width, 50, dtype=torch.bfloat16)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("heedful.training.rl.passes.states_and_logits", flat)
        means = run(causal.model, passing).prompts
    # The sum itself is a bf16 number here (260); what is tested is that it is divided by 259 and not by 260 or 256.
    torch.testing.assert_close(
        means, torch.full((1, 4), float(torch.tensor(259.0).bfloat16()) / 259), atol=1e-6, rtol=0
    )


@both
def test_neighbours_order_and_the_gold_branch_change_nothing(kind: str) -> None:
    causal, asked, replies = case(kind)

    def logprobs(who: Sequence[int], *, gold: bool, turned: bool = False) -> dict[int, list[Any]]:
        mine = [replies[p][::-1] if turned else replies[p] for p in who]
        with torch.no_grad():
            seen = run(causal.model, lay_out(causal, [asked[p] for p in who], mine, gold=gold)).logprobs
        parts = iter(seen.split([len(r) for some in mine for r in some]))
        found = {p: [next(parts) for _ in some] for p, some in zip(who, mine, strict=True)}
        return {p: some[::-1] if turned else some for p, some in found.items()}

    expected = logprobs((0, 1, 2), gold=False)
    for other in (
        logprobs((0, 1, 2), gold=True),
        logprobs((2, 0, 1), gold=False),
        logprobs((0, 1, 2), gold=True, turned=True),
        *(logprobs((p,), gold=False) for p in range(3)),  # alone: no padding at all
    ):
        for p, some in other.items():
            for found, want in zip(some, expected[p], strict=True):
                torch.testing.assert_close(found, want, atol=5e-5, rtol=0)


def test_what_stands_in_the_padding_is_not_read() -> None:
    causal, asked, replies = case("llama")
    passing = lay_out(causal, asked, replies, gold=True)
    with torch.no_grad():
        expected = run(causal.model, passing)
        ids = passing.batch["input_ids"]
        used = torch.zeros_like(ids, dtype=torch.bool)
        for row in range(len(ids)):
            reached = [int(passing.batch["source"][passing.batch["row"] == row].max())]
            used[row, : 1 + reached[0]] = True
        passing.batch["input_ids"] = torch.where(used, ids, (ids + 17) % 500)
        found = run(causal.model, passing)
    assert not bool(used.all())
    for name in ("logprobs", "entropy", "states", "gold", "prompts"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-6, rtol=0, msg=name)


def test_no_token_is_in_a_repr() -> None:
    causal, asked, replies = case("llama")
    assert repr(lay_out(causal, asked, replies, gold=True)) == "Passing()"
    assert "tokens" not in repr(asked[0])
