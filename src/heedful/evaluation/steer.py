"""Does a forced plan change the reply? Replies of one model under every label, at the same places.

A model can name a strategy and then write what it would have written anyway. So nothing but the label may differ
between two replies: they are greedy, or drawn in fp32 with the same random numbers (a place has one stream, whatever
the label), and a label that changes nothing gives the same words either way. Drawn replies have little to say all the
same: one word that falls out differently changes all that follow. So what *another* stream changes under the model's
own choice stands beside it. esconv.md asks that at least 60 % of the
outputs differ by more than half of their tokens once the label is another one.

    difference of two replies = 1 - |longest common subsequence| / |the longer one|, in lower-cased tokens
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from heedful import corpora
from heedful.agents.plan import PlanConfig, settle_plan
from heedful.evaluation.config import LookConfig
from heedful.evaluation.run import look_folder, settle, write_json
from heedful.evaluation.study import Say
from heedful.models.causal import add_markers, load
from heedful.models.decoding import Decoding
from heedful.models.generate import generate
from heedful.models.pairs import check_fits
from heedful.models.plan import PlanRule
from heedful.models.talk import unwritable
from heedful.scoring.base import Result
from heedful.scoring.intervals import interval
from heedful.scoring.text import lcs_length, published_tokens

HALF = 0.5
OTHER_DRAW = "own choice, other draw"


@dataclass(frozen=True, kw_only=True)
class Steering:
    """What forcing labels changed; `summary` holds no words."""

    folder: Path
    summary: dict[str, Any] = field(repr=False)


class SteerConfig(LookConfig):
    """Which run, which places, how long replies may be, and whether they are drawn."""

    max_new_tokens: int = Field(default=64, ge=1)
    min_new_tokens: int = Field(default=8, ge=0)
    no_repeat_ngram_size: int = Field(default=3, ge=0)
    do_sample: bool = False
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=13, ge=0, lt=2**32 - 1, description="of the draws")
    branches: int = Field(default=64, ge=1, description="replies decoded in one batch")

    @model_validator(mode="after")
    def _exact_draws(self) -> SteerConfig:
        if self.do_sample and self.dtype != "float32":
            raise ValueError(
                "do_sample: true needs dtype: float32; in 16 bit a batch of another shape draws other words, and "
                "labels would seem to change what they do not change"
            )
        return self


def steer(config: SteerConfig, *, command: str = "", say: Say = lambda text: None) -> Steering:
    """Write replies under the model's own choice and under each label, and compare them.

    Raises:
        ConfigError: the model writes no plan.
    """
    setting = settle(config.as_eval())
    plan = settle_plan(PlanConfig(), setting.fmt)
    assert plan is not None
    causal = load(config.model_name_or_path, dtype=config.dtype, accept="any")
    check_fits(causal, setting.fmt)
    add_markers(causal, setting.fmt.markers)
    talks = corpora.load(setting.dataset, config.split, **setting.dataset_options)[: config.max_conversations]
    samples = [
        sample
        for conv in map(setting.fmt.prepare, setting.planners.plan(talks))
        for sample in setting.fmt.samples(
            conv, causal.tokenizer, max_length=setting.max_length, keep=setting.keep, overlong=setting.overlong
        )
    ]
    own = plan.rule(causal.tokenizer.get_vocab(), {})
    decoding = Decoding(
        max_new_tokens=config.max_new_tokens,
        min_new_tokens=config.min_new_tokens,
        no_repeat_ngram_size=config.no_repeat_ngram_size,
        do_sample=config.do_sample,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=config.seed,
    )
    banned = unwritable(setting.fmt, causal.tokenizer)
    written: dict[str, dict[str, list[str]]] = {}
    for name in ("own choice", *([OTHER_DRAW] if config.do_sample else []), *plan.markers):
        rule = _forced(own, name, [s.id for s in samples]) if name in plan.markers else own
        drawn = replace(decoding, seed=config.seed + 1) if name == OTHER_DRAW else decoding
        found: dict[str, list[str]] = {}
        for batch in generate(causal, samples, drawn, branches=config.branches, banned=banned, plan=rule):
            for made in batch:
                text = causal.tokenizer.decode(made.written.tokens, skip_special_tokens=False)
                found[made.id] = published_tokens(setting.fmt.parse(text, causal.tokenizer).text.lower())
        written[name] = found
        say(f"{name}: {len(found):,} replies")
    clusters = np.unique([s.conversation_id for s in samples], return_inverse=True)[1]
    summary = {
        "kind": "steer",
        "command": command,
        "model": config.model_name_or_path,
        "dataset": setting.dataset,
        "split": config.split,
        "conversations": len(talks),
        "replies": len(samples),
        "labels": list(plan.markers),
        "decoding": decoding.record(),
        "all_pairs": _compared(written, list(itertools.combinations(plan.markers, 2)), clusters),
        "against_own": {name: _compared(written, [("own choice", name)], clusters) for name in plan.markers},
        "other_draw": _compared(written, [("own choice", OTHER_DRAW)], clusters) if config.do_sample else None,
    }
    folder = look_folder(config, setting, "steer")
    write_json(folder / "steer.json", summary)
    return Steering(folder=folder, summary=summary)


def _forced(rule: PlanRule, label: str, names: Sequence[str]) -> PlanRule:
    return replace(rule, choose="given", given=dict.fromkeys(names, label))


def _compared(
    written: Mapping[str, Mapping[str, Sequence[str]]], pairs: Sequence[tuple[str, str]], clusters: Any
) -> dict[str, Any]:
    """Mean difference, and the share of replies that differ by more than half; times 100, intervals over dialogues.

    Over several pairs a place counts with its mean.
    """
    names = list(next(iter(written.values())))
    apart = np.array([[difference(written[a][n], written[b][n]) for n in names] for a, b in pairs])
    out: dict[str, Any] = {"pairs": len(pairs), "n": len(names)}
    for key, values in (("difference", apart.mean(axis=0)), ("changed", (apart > HALF).mean(axis=0))):
        result = Result.mean(values, scale=100.0)
        low, high = interval(result, clusters) or (None, None)
        out[key] = {"value": result.value, "low": low, "high": high}
    return out


def difference(a: Sequence[str], b: Sequence[str]) -> float:
    """1 - |LCS| / |the longer one|, 0 for two empty replies."""
    longest = max(len(a), len(b))
    if not longest:
        return 0.0
    known: dict[str, int] = {}
    one, two = ([known.setdefault(token, len(known)) for token in side] for side in (a, b))
    return 1.0 - lcs_length(one, two) / longest
