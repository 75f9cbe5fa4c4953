"""READER's traps 5 to 11 on purpose-built rows, and the clean way, in which nothing else moves act logits or loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from rl_kit import experience, policy

from heedful.errors import ConfigError
from heedful.formats import make
from heedful.models.causal import CausalModel
from heedful.models.decoding import Decoding, SeenBanned, Written, chooser
from heedful.scoring.rewards import make as make_rewards
from heedful.settings import check
from heedful.taxonomy import get as label_set
from heedful.testing import conversation
from heedful.training.rl.acts import act_logits
from heedful.training.rl.algorithms import PPO
from heedful.training.rl.collect import Collector, prompts_of
from heedful.training.rl.config import GRPOConfig, PPOConfig
from heedful.training.rl.experience import Prompt
from heedful.training.rl.heads import ActHead, ValueHead
from heedful.training.rl.passes import lay_out, run
from heedful.training.rl.quirks import Compat, one_early, one_session, padded, pooled_with_replies
from heedful.training.rl.run import decoding

REWARD: dict[str, Any] = {"rewards": [{"name": "bleu1"}]}


# ------------------------------------------------------------------ trap 5: the leash


def test_released_kl_is_cut_at_zero_and_a_thousandth() -> None:
    seen = experience([1.0], [3], old=[-1.0, -2.0, -3.0], reference=[-2.0, -1.5, -7.0], values=[0.0, 0.0, 0.0])
    plain = PPO(gamma=1.0, lam=1.0, whiten="none").targets(seen, kl_coef=0.2)
    # log pi_old - log pi_ref is 1, -0.5, 4
    np.testing.assert_allclose(plain.advantages, [1 - 0.2 * 4.5, 1 - 0.2 * 3.5, 1 - 0.2 * 4])
    released = PPO(gamma=1.0, lam=1.0, whiten="none", kl_relu=True, kl_scale=0.001).targets(seen, kl_coef=0.2)
    np.testing.assert_allclose(released.advantages, [1 - 0.0002 * 5, 1 - 0.0002 * 4, 1 - 0.0002 * 4])
    config = check(PPOConfig, {**REWARD, "compat": {"kl_relu": True, "kl_scale": 0.001}}, where="test")
    assert config.algorithm() == replace(PPO(), kl_relu=True, kl_scale=0.001)
    assert check(PPOConfig, REWARD, where="test").algorithm() == PPO()


# ------------------------------------------------------------------ trap 8: the sampler


def draws(settings: Decoding, logits: Sequence[float], prompt: Sequence[int], count: int = 400) -> list[int]:
    found = []
    for i in range(count):
        one = chooser(settings, name=str(i), prompt=prompt, end=frozenset({9}))
        found.append(one.step(torch.tensor([list(logits)])).tokens[0])
    return found


def test_seen_tokens_are_barred_after_the_cut() -> None:
    """Tokens 0 and 1 pass top-k 2; 0 was seen, so 1 is left alone."""
    logits, settings = (
        [5.0, 4.0, 3.9, 3.8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        {"top_k": 2, "top_p": 0.999, "do_sample": True},
    )
    assert set(draws(SeenBanned(**settings), logits, [0, 7])) == {1}
    assert set(draws(Decoding(**settings), logits, [0, 7])) == {0, 1}
    loose = set(draws(SeenBanned(do_sample=True), logits, [0, 1, 7]))
    assert {2, 3} <= loose
    assert not loose & {0, 1, 7}


def test_where_all_survivors_were_seen_the_draw_is_uniform_over_the_row() -> None:
    """The prompt's filling (8) and a token with a hopeless logit (7) are as likely as the best ones."""
    logits = [5.0, 4.0, 3.9, 3.8, 0.0, 0.0, 0.0, -50.0, -50.0, 0.0]
    found = draws(SeenBanned(top_k=2, top_p=0.999, do_sample=True), logits, [0, 1, 7, 8, 8], count=800)
    assert set(found) == {0, 1, 7, 8}
    shares = np.bincount(found)[[0, 1, 7, 8]] / 800
    assert np.abs(shares - 0.25).max() < 0.06


def test_own_tokens_count_as_seen_and_an_end_before_its_time_ends_nothing() -> None:
    settings = SeenBanned(top_k=1, do_sample=True, max_new_tokens=4, min_new_tokens=4)
    one = chooser(settings, name="a", prompt=[9], end=frozenset({9}))
    logits = torch.zeros(1, 10)
    logits[0, 3] = 6.0
    assert one.step(logits).tokens == (3,)
    for _ in range(3):  # 3 and the end token are all that the row holds
        assert one.done is None
        assert one.step(logits).tokens[0] in (3, 9)
    assert one.done is not None
    assert (one.done.finish, len(one.done.tokens)) == ("length", 4)
    assert one.done.logprobs[0] == pytest.approx(float(logits.log_softmax(1)[0, 3]), rel=1e-4)


def test_exactly_so_many_tokens_without_a_stop() -> None:
    settings = Decoding(do_sample=True, max_new_tokens=5, min_new_tokens=5)
    one = chooser(settings, name="a", prompt=[1], end=frozenset({9}))
    logits = torch.zeros(1, 10)
    logits[0, 9] = 30.0
    while one.done is None:
        assert one.step(logits).tokens != (9,)
    assert (one.done.finish, len(one.done.tokens)) == ("length", 5)


def test_the_sampler_follows_the_configuration() -> None:
    values = {**REWARD, "max_new_tokens": 20, "min_new_tokens": 20, "top_k": 6, "top_p": 0.9}
    with pytest.raises(ConfigError, match="for compat switches of method: ppo only"):
        check(PPOConfig, values, where="test")
    clean = decoding(check(PPOConfig, {**values, "compat": {"values_shifted": True}}, where="test"))
    assert type(clean) is Decoding
    assert (clean.min_new_tokens, clean.max_new_tokens, clean.top_k, clean.top_p) == (20, 20, 6, 0.9)
    assert type(decoding(check(PPOConfig, {**values, "compat": {"ban_seen_tokens": True}}, where="test"))) is SeenBanned


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"compat": {"lm_on_samples": True}}, "needs a ptx_coef above 0"),
        ({"compat": {"act_sees_reply": True}}, "needs act_head"),
        ({"compat": {"ban_seen_tokens": True}, "engine": "llama_cpp"}, "need engine: transformers"),
        ({"compat": {"ban_seen": True}}, "Did you mean 'ban_seen_tokens'"),
        ({"min_new_tokens": 65}, r"min_new_tokens \(65\) must not exceed max_new_tokens \(64\)"),
    ],
)
def test_a_quirk_without_an_effect_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check(PPOConfig, {**REWARD, **values}, where="test")


def test_all_quirks_are_off_by_default_and_other_methods_have_none() -> None:
    assert (
        Compat() == check(PPOConfig, REWARD, where="test").quirks() == check(GRPOConfig, REWARD, where="test").quirks()
    )
    assert not any(value for name, value in Compat().model_dump().items() if name != "kl_scale")
    with pytest.raises(ConfigError, match="compat"):
        check(GRPOConfig, {**REWARD, "compat": {"kl_relu": True}}, where="test")


# ------------------------------------------------------------------ traps 6, 7, 9: what a pass reads


@cache
def scene() -> tuple[CausalModel, list[Prompt], list[list[tuple[int, ...]]], ActHead]:
    causal, fmt = policy("llama"), make("chat")
    talks = [conversation("I slept badly.", "Why?", id="a"), conversation("Noise again, all night.", "I see.", id="b")]
    samples = [s for talk in talks for s in fmt.samples(talk, causal.tokenizer, max_length=4000)]
    torch.manual_seed(0)
    head = ActHead(32, label_set("hope_act").names).eval()
    return causal, prompts_of(talks, fmt, samples), [[(10, 11, 12), (10, 40)], [(50, 51, 2)]], head


def states_of(causal: CausalModel, tokens: Sequence[int]) -> Any:
    with torch.no_grad():
        return causal.model(input_ids=torch.tensor([tokens]), output_hidden_states=True).hidden_states[-1][0]


def seen(replies: list[list[tuple[int, ...]]], *, only: int | None = None, **options: Any) -> Any:
    causal, prompts, _, _ = scene()
    with torch.no_grad():
        passing = lay_out(
            causal, prompts[only : only + 1] if only is not None else prompts, replies, **{"gold": False, **options}
        )
        return passing, run(causal.model, passing)


def test_clean_act_logits_read_the_prompt_and_nothing_else() -> None:
    """Other replies, their gold branch, other rows and the filling of a batch change neither logits nor loss."""
    causal, prompts, replies, head = scene()
    _, plain = seen(replies)
    with torch.no_grad():
        logits = head(plain.prompts)
    for i, prompt in enumerate(prompts):
        torch.testing.assert_close(plain.prompts[i], states_of(causal, prompt.tokens).mean(0), atol=1e-4, rtol=0)
    others: list[list[tuple[int, ...]]] = [[(90, 91, 92, 93, 94, 95, 96)], [(7,)]]
    for case in (seen(others)[1], seen(replies, gold=True)[1], seen(others, gold=True, prompts_as_gold=True)[1]):
        torch.testing.assert_close(head(case.prompts), logits, atol=1e-4, rtol=0)
    for i in range(2):  # without the other row, so without its filling
        torch.testing.assert_close(head(seen([replies[i]], only=i)[1].prompts)[0], logits[i], atol=1e-4, rtol=0)
    np.testing.assert_allclose(act_logits(causal, head, prompts), logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(act_logits(causal, head, prompts[1:])[0], logits[1].numpy(), atol=1e-4)
    gold = torch.tensor([1, 4])
    loss = torch.nn.functional.cross_entropy(logits, gold)
    torch.testing.assert_close(
        torch.nn.functional.cross_entropy(head(seen(others)[1].prompts), gold), loss, atol=1e-4, rtol=0
    )


def test_released_act_logits_read_the_own_sample_too() -> None:
    causal, prompts, replies, head = scene()
    passing, found = seen(replies)
    prompt_of = torch.tensor([0, 0, 1])
    pooled = pooled_with_replies(found, passing, prompt_of)
    flat = [r for mine in replies for r in mine]
    for n, reply in enumerate(flat):
        expected = states_of(causal, (*prompts[int(prompt_of[n])].tokens, *reply[:-1])).mean(0)
        torch.testing.assert_close(pooled[n], expected, atol=1e-4, rtol=0)
    assert (head(pooled[0]) - head(found.prompts[0])).abs().max() > 1e-3


def test_padding_enters_the_released_pooling() -> None:
    causal, prompts, _, _ = scene()
    length = len(prompts[0].tokens) + 6
    filled = padded(prompts[0], length=length, pad_id=causal.pad_id)
    assert (len(filled.tokens), filled.padding, filled.tokens[-1]) == (length, 6, causal.pad_id)
    short = padded(prompts[0], length=5, pad_id=causal.pad_id)
    assert (short.tokens, short.padding) == (prompts[0].tokens[:5], 0)
    with torch.no_grad():
        found = run(causal.model, lay_out(causal, [filled], [[(10, 11)]], gold=False))
    torch.testing.assert_close(found.prompts[0], states_of(causal, filled.tokens).mean(0), atol=1e-4, rtol=0)


def test_the_released_language_model_loss_is_on_prompt_and_sample() -> None:
    causal, prompts, replies, _ = scene()
    filled = padded(prompts[0], length=len(prompts[0].tokens) + 3, pad_id=causal.pad_id)
    with torch.no_grad():
        passing = lay_out(causal, [filled], [replies[1]], gold=True, prompts_as_gold=True)
        found = run(causal.model, passing)
        table = causal.model(input_ids=torch.tensor([prompts[0].tokens])).logits[0].log_softmax(-1)
    own = table[:-1].gather(1, torch.tensor(prompts[0].tokens[1:])[:, None])[:, 0]
    torch.testing.assert_close(found.gold, own, atol=1e-4, rtol=0)  # without the filling
    assert len(found.logprobs) == 3
    _, plain = seen(replies, gold=True)
    assert len(plain.gold) == sum(len(p.gold) for p in prompts)


@pytest.mark.parametrize("shifted", [False, True])
def test_released_values_stand_one_token_early(shifted: bool) -> None:
    causal, prompts, replies, _ = scene()
    head = ValueHead(32)
    torch.nn.init.normal_(head.out.weight)
    fmt = make("chat")
    collector = Collector(
        causal=causal, fmt=fmt, engine=None, rewards=make_rewards(["bleu1"]), decoding=Decoding(), value_head=head,  # type: ignore[arg-type]
        quirks=Compat(values_shifted=shifted),
    )  # fmt: skip
    passing, found = seen(replies)
    with torch.no_grad():
        values = collector._values(head, found, passing, [2, 1])
        expected = []
        for p, mine in zip(prompts, replies, strict=True):
            for reply in mine:
                states = head(states_of(causal, (*p.tokens, *reply)))
                first = len(p.tokens) - 1 - shifted
                expected += states[first : first + len(reply)].tolist()
    np.testing.assert_allclose(values, expected, atol=1e-4)


def test_one_early_by_hand() -> None:
    found = one_early(np.array([1.0, 2.0, 3.0, 10.0]), np.array([0.5, 9.0]), np.array([3, 1]))
    np.testing.assert_allclose(found, [0.5, 1.0, 2.0, 9.0])


# ------------------------------------------------------------------ traps 10, 11: rows and words


def test_released_rows_cross_sessions_and_the_last_has_act_zero() -> None:
    first = conversation("One.", "Two.", id="x", labels={1: {"hope_act": "ACK"}})
    second = conversation("Three.", "Four.", id="y", labels={0: {"hope_act": "GT"}, 1: {"hope_act": "ID"}})
    fmt, tokenizer = make({"name": "reader", "window": 2}), scene()[0].tokenizer

    def rows(talks: Any) -> list[tuple[str, str, str | None]]:
        found = prompts_of(talks, fmt, [s for c in talks for s in fmt.samples(c, tokenizer, max_length=500)])
        return [
            (p.task.context.turns[-1].text, p.task.reference.text, p.task.reference.label("hope_act"))
            for p in found
            if p.task.reference
        ]

    assert rows([first, second]) == [("One.", "Two.", "ACK"), ("Three.", "Four.", "ID")]
    joined = one_session([first, second], act_set="hope_act")
    assert rows(joined) == [
        ("One.", "Two.", "ACK"),
        ("Two.", "Three.", "GT"),  # the next session's first utterance answers this one's last
        ("Three.", "Four.", "ID"),
        ("Four.", "", label_set("hope_act").names[0]),
    ]
    assert rows(one_session([first, second], act_set=None)) == rows(joined)[:3]
    assert one_session([], act_set="hope_act") == []


def test_special_tokens_stand_in_what_released_rewards_read() -> None:
    causal, prompts, _, _ = scene()
    fmt, rewards = make("chat"), make_rewards(["bleu1"])
    reply = (*causal.tokenizer("Why?", add_special_tokens=False).input_ids, causal.tokenizer.eos_token_id)
    written = [[Written(tokens=reply, logprobs=tuple(-1.0 for _ in reply), finish="stop")]]
    scores = []
    for quirks in (Compat(), Compat(special_tokens_in_reward=True)):
        collector = Collector(
            causal=causal, fmt=fmt, engine=None, rewards=rewards, decoding=Decoding(), value_head=None,  # type: ignore[arg-type]
            reference=False, quirks=quirks,
        )  # fmt: skip
        found = collector.experience(prompts[:1], written)
        assert found.traces[0].reply == "Why?"
        scores.append(float(found.scored.total[0]))
    assert scores[0] == pytest.approx(1.0)
    assert scores[1] < 0.9
