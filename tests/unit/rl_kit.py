"""What the tests of reinforcement learning share: experience by hand, tiny runs, rewards with bad habits, a killer.

Run as a program it is a training run that kills itself: `python rl_kit.py rollout 30 '{"method": "grpo", ...}'`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training_kit import corpus

from heedful import corpora
from heedful.formats import make as make_format
from heedful.models import DELTAS
from heedful.models.causal import CausalModel
from heedful.models.decoding import Decoding, Written
from heedful.models.delta import DeltaSettings, attach
from heedful.models.engine import TransformersEngine
from heedful.scoring.rewards import Scored, Task, reward
from heedful.testing import conversation, conversations, tiny_model
from heedful.training.methods import Run, configured
from heedful.training.rl import improve, state
from heedful.training.rl.collect import prompts_of
from heedful.training.rl.experience import Experience, Prompt
from heedful.types import Trace

# ------------------------------------------------------------------ by hand


def scored(total: Sequence[float], *, columns: dict[str, Sequence[float]] | None = None, **weights: float) -> Scored:
    """Judgements with these totals; NaN = unscored."""
    named = columns or {"only": list(total)}
    values = np.array(list(named.values()), dtype=np.float64).T
    n, k = values.shape
    return Scored(
        names=tuple(named),
        weights=np.array([weights.get(name, 1.0) for name in named]),
        values=values,
        reasons=tuple(tuple(None if v == v else "not applicable" for v in row) for row in values),
        total=np.array(total, dtype=np.float64),
        gated=np.zeros(n, dtype=np.bool_),
        clipped=np.zeros(k, dtype=np.int64),
        raised=np.zeros(k, dtype=np.int64),
    )


def experience(
    total: Sequence[float],
    lengths: Sequence[int],
    *,
    group: Sequence[int] | None = None,
    old: Sequence[float] | None = None,
    reference: Sequence[float] | None = None,
    values: Sequence[float] | None = None,
    judged: Scored | None = None,
) -> Experience:
    """A round without a model: N replies of these lengths, M = sum of lengths numbers each."""
    groups = np.array(range(len(total)) if group is None else group, dtype=np.int64)
    tokens = np.zeros(sum(lengths)) if old is None else np.array(old, dtype=np.float64)
    ends = np.cumsum(lengths)
    return Experience(
        prompts=tuple(toy_prompt(i) for i in range(int(groups.max()) + 1)),
        group=groups,
        written=tuple(
            Written(tokens=tuple(range(3, 3 + n)), logprobs=tuple(tokens[end - n : end]), finish="stop")
            for n, end in zip(lengths, ends, strict=True)
        ),
        traces=tuple(
            Trace(id=f"{i}", conversation_id=f"{g}", turn=1, reply="Rest a while.", finish="stop", tokens=n)
            for i, (g, n) in enumerate(zip(groups, lengths, strict=True))
        ),
        scored=judged or scored(total),
        old=tokens,
        reference=None if reference is None else np.array(reference, dtype=np.float64),
        values=None if values is None else np.array(values, dtype=np.float64),
    )


def toy_prompt(number: int, *, gold: tuple[int, ...] = (7, 8, 2)) -> Prompt:
    """A prompt without a model."""
    task = Task(id=f"{number}/1", context=conversation("I slept badly.", id=f"{number}"))
    return Prompt(task=task, tokens=(1, 5, 6 + number), gold=gold)


# ------------------------------------------------------------------ a policy


def sharpen(causal: CausalModel) -> None:
    """An output layer of its own with a likely end token: else a tiny model hardly ever ends a reply."""
    model, end = causal.model, causal.tokenizer.eos_token_id
    draw = torch.Generator().manual_seed(1)
    head = torch.randn(model.get_input_embeddings().weight.shape, generator=draw) * 0.4
    head[end] *= 3
    model.config.tie_word_embeddings = False
    model.get_output_embeddings().weight = torch.nn.Parameter(head)


def policy(kind: Any = "llama", delta: str = "lora", *, spread: float = 0.2, **settings: Any) -> CausalModel:
    """A tiny model with an adapter that visibly changes what it says."""
    causal = tiny_model(kind=kind)
    sharpen(causal)
    torch.manual_seed(3)
    options = settings or ({"rank": 4} if delta in ("lora", "rslora", "dora", "vera") else {})
    causal.model = attach(causal.model, DELTAS.get(delta)(DeltaSettings(**options)), name=delta)
    noise = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in causal.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=noise) * spread)
    causal.model.eval()
    return causal


def prompts(causal: CausalModel, n: int = 3) -> list[Prompt]:
    """Prompts of different lengths from invented conversations."""
    talks, fmt = conversations(4, seed=11), make_format({"name": "chat", "system": "Be kind."})
    samples = [s for conv in talks for s in fmt.samples(conv, causal.tokenizer, max_length=4000)]
    return prompts_of(talks, fmt, samples)[:n]


def rollouts(causal: CausalModel, asked: Sequence[Prompt], n: int = 3, **settings: Any) -> list[list[Written]]:
    """Replies of the policy itself."""
    draw = Decoding(max_new_tokens=10, do_sample=True, **settings)
    names = [str(i) for i in range(len(asked))]
    return TransformersEngine(causal).sample([p.tokens for p in asked], n=n, settings=draw, names=names)


# ------------------------------------------------------------------ rewards


@reward()
def letters(trace: Trace, task: Task) -> float:
    """Something that differs from reply to reply: a share of letters."""
    return len(set(trace.reply.lower()) & set("aeioust")) / 7


@reward(low=-1.0)
def brief(trace: Trace, task: Task) -> float:
    """1 for nothing, -1 for 12 tokens."""
    return 1.0 - trace.tokens / 6


def choosy(trace: Trace, task: Task) -> float | None:
    """Has no opinion on every third reply of a prompt."""
    return None if trace.id.endswith(("#0", "#3")) else letters.function(trace, task)


def clumsy(trace: Trace, task: Task) -> float:
    """Cannot bear the first reply of a prompt; its message quotes what was written."""
    if trace.id.endswith("#0"):
        raise ValueError(f"secret {trace.reply}")
    return float(letters.function(trace, task))


def wild(trace: Trace, task: Task) -> float:
    """Beyond its range of [-1, 1] for every reply but the first of a prompt."""
    return 0.5 if trace.id.endswith("#0") else 7.0


def silent(trace: Trace, task: Task) -> float | None:
    """Has no opinion on anything."""
    return None


def nothing_written(trace: Trace, task: Task) -> float:
    """1 where the reply is empty."""
    return float(not trace.reply)


# ------------------------------------------------------------------ runs

TIMES = ("seconds", "seconds/rollout", "seconds/reward", "seconds/score", "seconds/update")
ALL = ("ppo", "grpo", "rloo", "reinforce++")


class Bench:
    """A folder with a tiny model and a corpus, and runs beside them."""

    def __init__(self, root: Path, **tiny: Any) -> None:
        self.root = root
        self.model, self.data = root / "model", root / "talks.jsonl"
        causal = tiny_model(**tiny)
        sharpen(causal)
        causal.model.save_pretrained(str(self.model))
        causal.tokenizer.save_pretrained(str(self.model))
        corpora.write_jsonl(self.data, corpus())

    def values(self, name: str, method: str = "grpo", **more: Any) -> dict[str, Any]:
        """Settings of a run in `name`: 4 prompts a round, 2 a mini-batch, 4 rounds, every one validated and kept."""
        return {
            "method": method,
            "model_name_or_path": str(self.model),
            "dataset": str(self.data),
            "precision": "fp32",
            "format": "chat",
            "lora_rank": 4,
            "lora_alpha": 8,
            "learning_rate": 0.01,
            "max_new_tokens": 8,
            "rollout_batch_size": 4,
            "mini_batch_size": 2,
            "per_device_train_batch_size": 1,
            "max_steps": 4,
            "eval_steps": 2,
            "save_steps": 1,
            "max_eval_prompts": 4,
            "probe_prompts": 2,
            "rewards": [{"name": "rl_kit:letters"}, {"name": "rl_kit:brief", "weight": 0.3}],
            "heldout": ["repetition"],
            "output_dir": str(self.root / name),
            **more,
        }

    def run(
        self, name: str, method: str = "grpo", *, say: Callable[[str], None] = lambda text: None, **more: Any
    ) -> Run:
        """Train."""
        return go(self.values(name, method, **more), say=say)


def go(values: dict[str, Any], *, say: Callable[[str], None] = lambda text: None) -> Run:
    """What `heedful train` does with these values."""
    method, config = configured(values)
    return method.train(config, say=say)


def rows(folder: Path, name: str = "metrics") -> list[dict[str, Any]]:
    """The rows of a run's file, without times."""
    lines = (folder / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """What a run trained, heads included."""
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for name in ("adapter_model.safetensors", "model.safetensors", "heads.safetensors"):
        if (folder / name).is_file():
            found.update(load_file(str(folder / name)))
    return found


def assert_same_run(found: Path, expected: Path, *, tolerance: float = 1e-6) -> None:
    """Same numbers in every row of every file, same weights at the end."""
    for name in ("metrics", "validation", "probes", "traces"):
        if not (expected / f"{name}.jsonl").is_file():
            assert not (found / f"{name}.jsonl").is_file(), name
            continue
        ours, theirs = rows(found, name), rows(expected, name)
        assert len(ours) == len(theirs), name
        for mine, want in zip(ours, theirs, strict=True):
            assert_close(mine, want, tolerance, f"{name} {want['step']}")
    ours_w, theirs_w = weights(found), weights(expected)
    assert set(ours_w) == set(theirs_w) != set()
    for name, value in ours_w.items():
        torch.testing.assert_close(value, theirs_w[name], atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def assert_close(found: Any, expected: Any, tolerance: float, where: str) -> None:
    """Equal up to `tolerance` in every number inside."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), where
        assert sorted(found) == sorted(expected), where
        for key, value in expected.items():
            assert_close(found[key], value, tolerance, f"{where}: {key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, value in enumerate(expected):
            assert_close(found[i], value, tolerance, f"{where}[{i}]")
    elif isinstance(expected, float):
        assert abs(found - expected) <= tolerance * max(1.0, abs(expected)), f"{where}: {found} is not {expected}"
    else:
        assert found == expected, where


# ------------------------------------------------------------------ dying


class Killed(BaseException):
    """Nothing in the library may catch it, as nothing can catch a SIGKILL."""


def _raise() -> None:
    raise Killed


def _sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(number: int, real: Callable[..., Any], end: Callable[[], None]) -> Callable[..., Any]:
    """`real`, but its call `number` (from 1) ends the process before it does anything."""
    calls = 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            end()
        return real(*args, **options)

    return counted


def trap(where: str, number: int, end: Callable[[], None] = _raise) -> tuple[Any, str, Callable[..., Any]]:
    """(object, attribute, replacement) with which a run dies: in the forward pass `number` of all rollouts, in pass
    `number` of all updates, or between two files of checkpoint `number`."""
    if where == "rollout":
        from heedful.models.generate import _Tree

        return _Tree, "_forward", at_call(number, _Tree._forward, end)
    if where == "update":
        return improve.Improver, "_pass", at_call(number, improve.Improver._pass, end)
    if where == "checkpoint":
        return state, "seal", at_call(number, state.seal, end)
    raise ValueError(where)


if __name__ == "__main__":
    torch.set_num_threads(1)
    setattr(*trap(sys.argv[1], int(sys.argv[2]), _sigkill))
    go(json.loads(sys.argv[3]))
