"""Rewards `reward_model` and `perplexity`: values, sharing, what is unscored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from preference_kit import COLD, KIND, Kit

from heedful.errors import ConfigError, NotFoundError
from heedful.models import causal, reward
from heedful.scoring.rewards import Task, make
from heedful.scoring.rewards.learned import _reference
from heedful.testing import conversation
from heedful.types import Trace

PROMPT = "<|im_start|>user\nI slept badly.<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("learned"), "reward")


def asked(*replies: str, prompt: str | None = PROMPT) -> tuple[list[Trace], list[Task]]:
    context = conversation("I slept badly.")
    traces = [Trace(id="toy/1", conversation_id="toy", turn=1, reply=r, prompt=prompt) for r in replies]
    return traces, [Task(id="toy/1", context=context) for _ in replies]


def test_a_trained_model_is_a_reward(kit: Kit) -> None:
    folder = kit.run("judge", objective="binary", max_steps=2).folder
    z = reward.load(folder).logits([(conversation("I slept badly."), r) for r in (KIND, COLD, "")])
    specs = [
        {"name": "reward_model", "label": str(squash), "params": {"model": str(folder), "squash": squash}}
        for squash in (None, "none", "sigmoid", "tanh")
    ]
    found = make(specs)(*asked(KIND, COLD, ""))
    np.testing.assert_allclose(found.values[:, 0], 2 / (1 + np.exp(-z)) - 1, atol=1e-6)
    np.testing.assert_allclose(found.values[:, 1], z, atol=1e-6)
    np.testing.assert_allclose(found.values[:, 2], 1 / (1 + np.exp(-z)), atol=1e-6)
    assert (found.values[:, 3] == found.values[:, 0]).all()
    assert not found.clipped.any()
    assert not np.isnan(found.total).any()


def test_what_is_no_reward_model_is_said(kit: Kit) -> None:
    with pytest.raises(NotFoundError, match="There is no reward model at"):
        make([{"name": "reward_model", "params": {"model": "/no/where"}}])(*asked("No."))
    with pytest.raises(ConfigError, match="is no reward model of this heedful"):
        make([{"name": "reward_model", "params": {"model": str(kit.model)}}])(*asked("No."))
    with pytest.raises(ConfigError, match=r"option 'squash': .*but it is 'relu'"):
        make([{"name": "reward_model", "params": {"model": str(kit.model), "squash": "relu"}}])(*asked("No."))


def by_hand(model: Path, reply: str) -> float:
    """exp of the mean log-probability of the reply's tokens, from one plain row."""
    found = causal.load(str(model))
    prompt, target = (found.tokenizer(t, add_special_tokens=False).input_ids for t in (PROMPT, reply))
    with torch.no_grad():
        logits = found.model(input_ids=torch.tensor([prompt + target])).logits[0]
    log_p = torch.log_softmax(logits.double(), dim=-1)[len(prompt) - 1 : -1]
    return float(log_p[range(len(target)), target].mean().exp())


def perplexity(kit: Kit, **params: Any) -> Any:
    return make([{"name": "perplexity", "params": {"model": str(kit.model), **params}}])


def test_perplexity_is_that_of_plain_rows(kit: Kit) -> None:
    replies = ["What kept you awake?", "What kept you up?", "No.", "That sounds like a lonely time."]
    found = perplexity(kit)(*asked(*replies)).values[:, 0]
    np.testing.assert_allclose(found, [by_hand(kit.model, r) for r in replies], rtol=1e-5)


def test_an_empty_reply_is_the_least_likely_and_no_prompt_is_no_value(kit: Kit) -> None:
    found = perplexity(kit)(*asked("", "No."))
    assert found.values[0, 0] == 0.0
    assert found.values[1, 0] > 0.0
    bare = perplexity(kit)(*asked("No.", prompt=None))
    assert np.isnan(bare.total[0])
    assert bare.reasons[0][0] == "the trace has no prompt"


def test_one_prompt_is_computed_once(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    _reference.cache_clear()
    reference = _reference(str(kit.model))
    tokens: list[int] = []
    reference.causal.model.register_forward_pre_hook(
        lambda m, a, k: tokens.append(k["input_ids"].numel()), with_kwargs=True
    )
    count = len(reference.causal.tokenizer(PROMPT, add_special_tokens=False).input_ids)
    replies = ["What kept you awake?", "No.", "No.", "That sounds like a lonely time."]
    each = [len(reference.causal.tokenizer(r, add_special_tokens=False).input_ids) for r in replies]
    rewards = perplexity(kit)
    first = rewards(*asked(*replies)).values
    assert sum(tokens) < count + sum(each)
    before = sum(tokens)
    assert (rewards(*asked(*replies)).values == first).all()
    assert sum(tokens) == before


def test_what_the_model_cannot_read_loses_its_beginning(kit: Kit) -> None:
    long = perplexity(kit)(*asked("No.", prompt=PROMPT * 400)).values[0, 0]
    assert 0 < long < 1
