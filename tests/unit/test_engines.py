"""Engines: the trainer's own model as one, what every engine refuses, and how far another one is off."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from heedful.errors import ConfigError, DataError, RunError
from heedful.models import DELTAS
from heedful.models.causal import CausalModel
from heedful.models.decoding import Decoding, Written
from heedful.models.delta import DeltaSettings, attach
from heedful.models.engine import (
    ENGINES,
    TransformersEngine,
    check_drift,
    check_prompts,
    drift,
    first_seed,
    make_engine,
    refuse_settings,
)
from heedful.models.generate import generate, prompt_only
from heedful.testing import tiny_model

DRAW = Decoding(max_new_tokens=12, do_sample=True, seed=3)


def policy(seed: int = 0) -> CausalModel:
    """A tiny model with a LoRA that visibly changes what it says."""
    causal = tiny_model()
    torch.manual_seed(seed)
    causal.model = attach(causal.model, DELTAS.get("lora")(DeltaSettings(rank=4, dropout=0.5)), name="lora")
    with torch.no_grad():
        for name, parameter in causal.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return causal


def prompts(causal: CausalModel) -> list[tuple[int, ...]]:
    return check_prompts(causal)[:2]


class Shifted:
    """The policy's own replies with other log-probabilities, as a broken export would give them."""

    exact = False

    def __init__(self, causal: CausalModel, by: float) -> None:
        self.inner, self.by = TransformersEngine(causal), by

    def sample(
        self, prompts: Sequence[tuple[int, ...]], *, n: int, settings: Decoding, names: Sequence[str]
    ) -> list[list[Written]]:
        made = self.inner.sample(prompts, n=n, settings=settings, names=names)
        return [[replace(w, logprobs=tuple(v - self.by for v in w.logprobs)) for w in some] for some in made]

    def sync(self, causal: CausalModel) -> None:
        self.inner.sync(causal)

    def close(self) -> None:
        self.inner.close()


def test_replies_are_those_of_the_merged_policy_whatever_its_mode() -> None:
    causal = policy()
    engine = TransformersEngine(causal)
    causal.model.train()
    asked = prompts(causal)
    made = engine.sample(asked, n=3, settings=DRAW, names=["a", "b"])
    assert causal.model.training
    causal.model.eval()
    samples = [prompt_only(f"{n}/{i}", f"{n}/{i}", 0, p) for n, p in zip("ab", asked, strict=True) for i in range(3)]
    want = {g.id: g.written for batch in generate(causal, samples, DRAW) for g in batch}  # adapter on, not merged
    for name, some in zip("ab", made, strict=True):
        assert [w.tokens for w in some] == [want[f"{name}/{i}"].tokens for i in range(3)]
        for i, reply in enumerate(some):
            assert reply.logprobs == pytest.approx(want[f"{name}/{i}"].logprobs, abs=1e-4)
    assert len({w.tokens for some in made for w in some}) == 6


def test_a_reply_can_be_made_again_alone() -> None:
    causal = policy()
    engine = TransformersEngine(causal)
    asked = prompts(causal)
    both = engine.sample(asked, n=4, settings=DRAW, names=["a", "b"])
    (alone,) = engine.sample(asked[1:], n=2, settings=DRAW, names=["b"])
    assert [w.tokens for w in alone] == [w.tokens for w in both[1][:2]]


def test_exact_means_fp32() -> None:
    causal = tiny_model()
    assert TransformersEngine(causal).exact
    assert not TransformersEngine(causal, dtype=torch.bfloat16).exact
    assert not TransformersEngine(causal, exact=False).exact
    causal.model.bfloat16()
    assert not TransformersEngine(causal).exact


def test_another_dtype_leaves_no_trace() -> None:
    causal = policy()
    before = {name: p.clone() for name, p in causal.model.named_parameters()}
    engine = TransformersEngine(causal, dtype=torch.bfloat16)
    assert drift(engine, causal, prompts(causal)).mean > 0
    assert all(p.dtype == before[n].dtype and torch.equal(p, before[n]) for n, p in causal.model.named_parameters())


def test_banned_tokens_are_not_written() -> None:
    causal = tiny_model()
    asked = prompts(causal)
    common = {
        t for some in TransformersEngine(causal).sample(asked, n=4, settings=DRAW, names="ab") for t in some[0].tokens
    }
    quiet = TransformersEngine(causal, banned=sorted(common))
    made = quiet.sample(asked, n=4, settings=DRAW, names="ab")
    assert not common & {t for some in made for w in some for t in w.tokens}


@pytest.mark.parametrize(("names", "n"), [(["a"], 2), (["a", "a"], 2), (["a", "b"], 0)])
def test_names_and_numbers_must_fit(names: list[str], n: int) -> None:
    causal = tiny_model()
    with pytest.raises(DataError, match="An engine needs"):
        TransformersEngine(causal).sample(prompts(causal), n=n, settings=DRAW, names=names)


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(ConfigError, match="llama_cpp engine does not know num_beams and min_new_tokens; leave them"):
        refuse_settings("llama_cpp", Decoding(num_beams=2, min_new_tokens=1), "num_beams", "min_new_tokens", "top_k")
    refuse_settings("llama_cpp", Decoding(top_p=0.9), "num_beams")


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_dtype_has_a_name(name: str) -> None:
    causal = tiny_model()
    engine = TransformersEngine(causal, dtype=name)
    assert engine.dtype is getattr(torch, name)
    assert engine.exact is (name == "float32")
    (made,) = engine.sample(prompts(causal)[:1], n=2, settings=DRAW, names=["a"])
    assert all(w.tokens for w in made)


@pytest.mark.parametrize(
    ("dtype", "words"), [("bfloat61", "Did you mean 'bfloat16'"), (16, "but it is 16"), ("", "is")]
)
def test_an_unknown_dtype_is_one_sentence(dtype: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"dtype is one of float32, bfloat16, float16, .*{words}"):
        TransformersEngine(tiny_model(), dtype=dtype)


def make(causal: CausalModel, *, depth: int = 1, banned: Sequence[int] = ()) -> Any:
    """An engine of somebody else's; `depth` 0 fails inside."""
    return Shifted(causal, depth if depth else len(depth))  # type: ignore[arg-type]


def bare(causal: CausalModel, by: float) -> Any:
    """One that takes no bans."""
    return Shifted(causal, by)


def anything(causal: CausalModel, **options: Any) -> Any:
    return options


def test_an_engine_is_made_from_options() -> None:
    causal = tiny_model()
    made = make_engine("transformers", causal, {"dtype": "bfloat16", "branches": 8, "banned": [5, 9]}, banned=[9, 7])
    assert isinstance(made, TransformersEngine)
    assert (made.dtype, made.branches, made.banned) == (torch.bfloat16, 8, (5, 7, 9))
    assert make_engine("transformers", causal, {}).banned == ()  # type: ignore[attr-defined]
    assert make_engine("test_engines:bare", causal, {"by": 0.5}, banned=[3]).by == 0.5  # type: ignore[attr-defined]
    assert make_engine("test_engines:anything", causal, {"x": 1}, banned=[3]) == {"x": 1, "banned": [3]}


@pytest.mark.parametrize("name", ENGINES.names())
def test_every_engine_takes_bans(name: str) -> None:
    parameter = inspect.signature(ENGINES.get(name)).parameters["banned"]
    assert (parameter.kind, parameter.default) == (parameter.KEYWORD_ONLY, ())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "transformers",
            {"brances": 3},
            "'transformers' has no option 'brances'. Did you mean 'branches'? It has: banned,",
        ),
        ("transformers", {"causal": 3}, "has no option 'causal'"),
        ("transformers", {"branches": "many"}, "option 'branches': Input should be a valid integer"),
        ("transformers", {"banned": "all"}, "option 'banned': "),
        ("llama_cpp", {"precision": "q2"}, "option 'precision': Input should be 'q8_0'"),
        ("server", {"model": "m", "logprobs_mode": "processed"}, "option 'logprobs_mode': Input should be 'raw_log"),
        ("server", {}, "the engine 'server' cannot be made from these options: missing a required argument: 'model'"),
        ("test_engines:bare", {"by": 1, "banned": [1]}, "has no option 'banned'. It has: by."),
        ("test_engines:anything", {"causal": 1}, "has no option 'causal'. It has: none."),
    ],
)
def test_options_that_do_not_fit_are_named(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"^engine_options: .*{re.escape(words)}"):
        make_engine(name, tiny_model(), options, banned=[1])


def test_a_type_error_inside_an_engine_is_not_blamed_on_the_options() -> None:
    assert make_engine("test_engines:make", tiny_model(), {"depth": 2}, banned=[1]).by == 2  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="has no len"):
        make_engine("test_engines:make", tiny_model(), {"depth": 0})


def test_drift_is_measured_at_the_temperature_of_the_draw() -> None:
    causal = policy()
    asked = check_prompts(causal)
    found = drift(TransformersEngine(causal), causal, asked, temperature=2.0)
    assert found.mean < 1e-4
    assert found.agree < 0.9  # drawn, not the best each time


def test_drift_of_the_policy_itself_is_nothing_and_of_others_is_found() -> None:
    causal = policy()
    asked = check_prompts(causal)
    own = check_drift(TransformersEngine(causal), causal, asked, limit=1e-4, named="This")
    assert own.agree == 1.0
    assert own.tokens > 3
    off = drift(Shifted(causal, 0.3), causal, asked)
    assert off.mean == pytest.approx(0.3, abs=1e-4)
    assert off.largest == pytest.approx(0.3, abs=1e-4)
    with pytest.raises(RunError, match=r"This does not compute what 'tiny-llama' computes: .* 0\.3000 nats"):
        check_drift(Shifted(causal, 0.3), causal, asked, limit=0.1, named="This")
    other = TransformersEngine(tiny_model(seed=1))
    assert drift(other, causal, asked).mean > 0.1
    with pytest.raises(RunError):  # not a number is not small
        check_drift(Shifted(causal, float("nan")), causal, asked, limit=0.1, named="This")


def test_engines_have_names_and_seeds_their_range() -> None:
    assert ENGINES.names() == ["llama_cpp", "server", "transformers"]
    assert ENGINES.get("transformers") is TransformersEngine
    seeds = [first_seed(13, f"toy/{i}") for i in range(200)]
    assert len(set(seeds)) == 200
    assert all(0 <= s < 2**31 for s in seeds)
    assert first_seed(13, "toy/0") == seeds[0] != first_seed(14, "toy/0")
