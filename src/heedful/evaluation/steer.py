"""Does a forced plan change the reply? Replies of one model under every label, at the same places.

A model can name a strategy and then write what it would have written anyway. So nothing but the label may differ
between two replies: they are greedy, or drawn in fp32 with the same random numbers (a place has one stream, whatever
the label), and a label that changes nothing gives the same words either way. Drawn replies have little to say all the
same: one word that falls out differently changes all that follow. So what *another* stream changes under the model's
own choice stands beside it. esconv.md asks that at least 60 % of the
outputs differ by more than half of their tokens once the label is another one.

    difference of two replies = 1 - |longest common subsequence| / |the longer one|, in lower-cased tokens

A reply may change and still not do what was asked. So a scorer of replies that was trained apart (`reader`) can say
which strategy it reads in each. Without any steering it would read the forced label in one of K replies on average over
labels, whatever the model writes: one reply stands for K forced labels. A single label may be read far more often than
that in everything, so how often it is read under the model's own choice stands beside it; and how often the reader is
right about the corpus' own replies.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from heedful import classify, corpora
from heedful.agents.plan import PlanConfig, PlanSetting, settle_plan
from heedful.classify import LabelModel
from heedful.errors import ConfigError
from heedful.evaluation.config import LookConfig
from heedful.evaluation.run import Setting, look_folder, settle, write_json
from heedful.evaluation.study import Say
from heedful.formats import Format, Sample
from heedful.models.causal import CausalModel, add_markers, load
from heedful.models.decoding import Decoding
from heedful.models.generate import generate
from heedful.models.pairs import check_fits
from heedful.models.plan import PlanRule
from heedful.models.talk import unwritable
from heedful.scoring.base import Result
from heedful.scoring.intervals import interval
from heedful.scoring.text import lcs_length, published_tokens
from heedful.types import Conversation, Turn

HALF = 0.5
OWN = "own choice"
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
    guidance_scale: float = Field(default=1.0, ge=0, description="how strongly words follow the label; 1 = model alone")
    reader: str | None = Field(
        default=None, description="run of method: scorer (target: this) that says which label it reads in a reply"
    )

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
        ConfigError: the model writes no plan, or the reader knows other labels.
    """
    setting = settle(config.as_eval())
    plan = settle_plan(PlanConfig(guidance_scale=config.guidance_scale), setting.fmt)
    assert plan is not None
    reader = None if config.reader is None else _reader(config.reader, plan)
    causal = load(config.model_name_or_path, dtype=config.dtype, accept="any")
    check_fits(causal, setting.fmt)
    add_markers(causal, setting.fmt.markers)
    talks = corpora.load(setting.dataset, config.split, **setting.dataset_options)[: config.max_conversations]
    prepared = [setting.fmt.prepare(conv) for conv in setting.planners.plan(talks)]
    samples = _samples(setting, prepared, causal)
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
    texts: dict[str, dict[str, str]] = {}
    for name in (OWN, *([OTHER_DRAW] if config.do_sample else []), *plan.markers):
        rule = _forced(own, name, [s.id for s in samples]) if name in plan.markers else own
        drawn = replace(decoding, seed=config.seed + 1) if name == OTHER_DRAW else decoding
        texts[name] = _replies(causal, setting.fmt, samples, drawn, rule, branches=config.branches)
        say(f"{name}: {len(texts[name]):,} replies")
    written = {
        name: {id: published_tokens(text.lower()) for id, text in found.items()} for name, found in texts.items()
    }
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
        "guidance_scale": config.guidance_scale,
        "all_pairs": _compared(written, list(itertools.combinations(plan.markers, 2)), clusters),
        "against_own": {name: _compared(written, [(OWN, name)], clusters) for name in plan.markers},
        "other_draw": _compared(written, [(OWN, OTHER_DRAW)], clusters) if config.do_sample else None,
        "read": None if reader is None else _read(reader, texts, plan, samples, prepared),
    }
    folder = look_folder(config, setting, "steer")
    write_json(folder / "steer.json", summary)
    return Steering(folder=folder, summary=summary)


def _samples(setting: Setting, prepared: Sequence[Conversation], causal: CausalModel) -> list[Sample]:
    return [
        sample
        for conv in prepared
        for sample in setting.fmt.samples(
            conv, causal.tokenizer, max_length=setting.max_length, keep=setting.keep, overlong=setting.overlong
        )
    ]


def _replies(
    causal: CausalModel, fmt: Format, samples: Sequence[Sample], decoding: Decoding, rule: PlanRule, *, branches: int
) -> dict[str, str]:
    """Id of a sample -> the words of its reply."""
    found: dict[str, str] = {}
    banned = unwritable(fmt, causal.tokenizer)
    for batch in generate(causal, samples, decoding, branches=branches, banned=banned, plan=rule):
        for made in batch:
            text = causal.tokenizer.decode(made.written.tokens, skip_special_tokens=False)
            found[made.id] = fmt.parse(text, causal.tokenizer).text
    return found


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
        out[key] = _share(values, clusters)
    return out


def _reader(path: str, plan: PlanSetting) -> LabelModel:
    reader = classify.load(path)
    if reader.predicts_next or set(reader.labels) != set(plan.markers):
        raise ConfigError(
            f"reader needs a scorer of replies (target: this) with the labels of '{plan.label_set}', but '{path}' is "
            f"one of '{reader.label_set}' with target: {'next' if reader.predicts_next else 'this'}."
        )
    return reader


def _read(
    reader: LabelModel,
    texts: Mapping[str, Mapping[str, str]],
    plan: PlanSetting,
    samples: Sequence[Sample],
    talks: Sequence[Conversation],
) -> dict[str, Any]:
    """How often the reader reads the label that was forced; a place counts with its mean over labels."""
    turns = {conv.id: conv.turns for conv in talks}
    before = [[turn.text for turn in turns[s.conversation_id][: s.turn]] for s in samples]
    clusters = np.unique([s.conversation_id for s in samples], return_inverse=True)[1]
    right = {
        label: np.array(reader.predict([texts[label][s.id] for s in samples], before)) == label
        for label in plan.markers
    }
    found: dict[str, Any] = {"reader": reader.fingerprint, "chance": 100.0 / len(plan.markers)}
    found["labels"] = {label: _share(values, clusters) for label, values in right.items()}
    unforced = np.array(reader.predict([texts[OWN][s.id] for s in samples], before))
    found["unforced"] = {label: _share(unforced == label, clusters) for label in plan.markers}
    found["any"] = _share(np.mean(list(right.values()), axis=0), clusters)
    gold = [(i, label) for i, s in enumerate(samples) if (label := _gold(turns[s.conversation_id][s.turn], plan))]
    found["corpus"] = None
    if gold:
        said = reader.predict(
            [turns[samples[i].conversation_id][samples[i].turn].text for i, _ in gold], [before[i] for i, _ in gold]
        )
        hits = np.array([word == label for word, (_, label) in zip(said, gold, strict=True)])
        found["corpus"] = {**_share(hits, clusters[[i for i, _ in gold]]), "n": len(gold)}
    return found


def _gold(turn: Turn, plan: PlanSetting) -> str | None:
    label = turn.label(plan.label_set)
    return label if label in plan.markers else None


def _share(values: Any, clusters: Any) -> dict[str, float | None]:
    result = Result.mean(np.asarray(values, dtype=float), scale=100.0)
    low, high = interval(result, clusters) or (None, None)
    return {"value": result.value, "low": low, "high": high}


def difference(a: Sequence[str], b: Sequence[str]) -> float:
    """1 - |LCS| / |the longer one|, 0 for two empty replies."""
    longest = max(len(a), len(b))
    if not longest:
        return 0.0
    known: dict[str, int] = {}
    one, two = ([known.setdefault(token, len(known)) for token in side] for side in (a, b))
    return 1.0 - lcs_length(one, two) / longest
