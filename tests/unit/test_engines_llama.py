"""Rollouts by llama.cpp: the same model, the raw log-probabilities, seeds, syncing, what is refused, and silence."""

from __future__ import annotations

import importlib.util
import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from conftest import needs
from heedful.errors import ConfigError, MissingExtraError, RunError
from heedful.models import DELTAS, llama_cpp
from heedful.models.causal import CausalModel
from heedful.models.decoding import Decoding
from heedful.models.delta import DeltaSettings, attach
from heedful.models.engine import TEXTS, TransformersEngine, check_prompts, drift
from heedful.models.gguf import export_gguf
from heedful.models.llama_cpp import LlamaCppEngine
from heedful.testing import tiny_model

Make = Callable[..., LlamaCppEngine]
DRAW = Decoding(max_new_tokens=8, do_sample=True, seed=5)


@pytest.fixture(autouse=True)
def _library() -> None:
    needs(importlib.util.find_spec("xllamacpp"), "needs llama.cpp: pip install 'heedful[llama]'")


@pytest.fixture
def engine_of() -> Iterator[Make]:
    """Makes small engines, and closes them."""
    made: list[LlamaCppEngine] = []

    def make(causal: CausalModel, **options: Any) -> LlamaCppEngine:
        made.append(
            LlamaCppEngine(causal, **{"precision": "f32", "streams": 4, "context": 256, "threads": 1, **options})
        )
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def other(kind: str) -> CausalModel:
    """The tiny model's tokenizer over another architecture."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

    causal = tiny_model()
    shape = {
        "vocab_size": 500,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,
        "eos_token_id": 2,
    }
    config = {
        "untied": lambda: LlamaConfig(tie_word_embeddings=False, **shape),
        "biases": lambda: LlamaConfig(attention_bias=True, **shape),
        "llama3": lambda: LlamaConfig(
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
            **shape,
        ),
        "qwen2": lambda: Qwen2Config(**shape),
        "qwen3": lambda: Qwen3Config(head_dim=32, **shape),
    }[kind]()
    torch.manual_seed(2)
    causal.model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for name, parameter in causal.model.named_parameters():
            if name.endswith("bias"):  # they start at zero, which would hide a lost one
                parameter.normal_(std=0.3)
    return causal


@pytest.mark.parametrize("kind", ["tiny", "untied", "biases", "llama3", "qwen2", "qwen3"])
def test_it_computes_what_the_policy_computes(engine_of: Make, kind: str) -> None:
    causal = tiny_model() if kind == "tiny" else other(kind)
    engine = engine_of(causal)
    # llama.cpp keeps keys and values in 16 bit: three digits agree, not six.
    assert engine.checked.mean < 3e-3
    assert engine.checked.agree > 0.95
    # Four times as many positions, so that scaled ones are reached.
    long = [tuple(t for p in check_prompts(causal) for t in p)]
    assert drift(engine, causal, long, max_new_tokens=16).mean < 3e-3


def test_log_probabilities_are_those_before_bans(engine_of: Make) -> None:
    causal = tiny_model()
    asked = check_prompts(causal)[:2]
    engine = engine_of(causal, banned=[100, 101])
    drawn = Decoding(max_new_tokens=6, do_sample=True, seed=1)
    made = engine.sample(asked, n=4, settings=drawn, names="ab")
    for prompt, replies in zip(asked, made, strict=True):
        for reply in replies:
            ids = torch.tensor([[*prompt, *reply.tokens]])
            with torch.no_grad():
                table = causal.model(ids).logits[0].log_softmax(-1)
            want = [float(table[len(prompt) - 1 + i, t]) for i, t in enumerate(reply.tokens)]
            assert reply.logprobs == pytest.approx(want, abs=0.02)


def test_replies_are_drawn_from_the_whole_distribution(engine_of: Make) -> None:
    """The first token of many replies follows it; llama.cpp's own cuts (top-k 40, top-p 0.95, min-p 0.05) are off."""
    causal = tiny_model()
    prompt = check_prompts(causal)[0]
    with torch.no_grad():
        want = causal.model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    outside = want < 0.05 * want.max()
    assert outside.sum() > 10  # there is something to cut off
    engine = engine_of(causal, streams=8)
    (made,) = engine.sample([prompt], n=400, settings=Decoding(max_new_tokens=1, do_sample=True, seed=1), names=["a"])
    seen = Counter(w.tokens[0] for w in made)
    cut = sum(n for t, n in seen.items() if outside[t]) / 400
    expected = float(want[outside].sum())
    assert cut == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 400) ** 0.5)
    assert cut > 0


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"temperature": 0.5}, r"at the temperature of the replies, 0\.5; leave temperature out, or choose the transf"),
        ({"top_k": 5, "top_p": 0.9}, "top_k and top_p would draw from a part of it"),
    ],
)
def test_what_learning_could_not_correct_for_is_refused(engine_of: Make, shape: dict[str, Any], words: str) -> None:
    causal = tiny_model()
    engine = engine_of(causal)
    asked = check_prompts(causal)[:1]
    with pytest.raises(ConfigError, match=words):
        engine.sample(asked, n=1, settings=Decoding(max_new_tokens=2, do_sample=True, **shape), names="a")
    # Where nothing is drawn they say nothing.
    greedy = engine.sample(asked, n=1, settings=Decoding(max_new_tokens=2), names="a")
    assert engine.sample(asked, n=1, settings=Decoding(max_new_tokens=2, **shape), names="a") == greedy


def test_seeds_are_keyed_by_name_and_number(engine_of: Make) -> None:
    causal = tiny_model()
    asked = check_prompts(causal)[:2]
    engine = engine_of(causal)
    first = engine.sample(asked, n=6, settings=DRAW, names=["a", "b"])  # more replies than streams
    assert [len(some) for some in first] == [6, 6]
    assert len({w.tokens for w in first[0]}) > 3
    assert [[w.tokens for w in some] for some in engine.sample(asked, n=6, settings=DRAW, names=["a", "b"])] == [
        [w.tokens for w in some] for some in first
    ]
    (alone,) = engine.sample(asked[1:], n=2, settings=DRAW, names=["b"])
    assert [w.tokens for w in alone] == [w.tokens for w in first[1][:2]]
    (renamed,) = engine.sample(asked[1:], n=2, settings=DRAW, names=["c"])
    assert [w.tokens for w in renamed] != [w.tokens for w in alone]


def test_replies_end_where_the_model_ends_them(engine_of: Make) -> None:
    causal = tiny_model()
    with torch.no_grad():  # an end is likely at every place
        causal.model.lm_head.weight[2] += 0.5 * causal.model.lm_head.weight[20:60].mean(0)
    engine = engine_of(causal)
    made = engine.sample(check_prompts(causal), n=8, settings=Decoding(max_new_tokens=40, do_sample=True), names="abc")
    for reply in (w for some in made for w in some):
        assert len(reply.tokens) == len(reply.logprobs) <= 40
        assert (reply.finish == "stop") == (reply.tokens[-1] == 2)
        assert 2 not in reply.tokens[:-1]
        assert reply.finish == "stop" or len(reply.tokens) == 40  # <|endoftext|> is no end of this model
    assert {w.finish for some in made for w in some} == {"stop", "length"}


def test_sync_takes_over_the_adapter_and_keeps_one_file(engine_of: Make, tmp_path: Path) -> None:
    causal = tiny_model()
    causal.model = attach(causal.model, DELTAS.get("lora")(DeltaSettings(rank=4)), name="lora")
    engine = engine_of(causal, folder=tmp_path)
    with torch.no_grad():
        for name, parameter in causal.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    asked = check_prompts(causal)
    assert drift(engine, causal, asked).mean > 0.05  # still the old weights
    engine.sync(causal)
    assert drift(engine, causal, asked).mean < 5e-3
    assert set(engine.seconds) == {"export", "load"}
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    assert [p.name for p in folder.iterdir()] == ["policy-1.gguf"]
    engine.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RunError, match="closed"):
        engine.sample(asked, n=1, settings=DRAW, names="abc")


def test_an_export_that_is_off_is_refused(engine_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from heedful.models import gguf

    engine_of(tiny_model(), limit=5e-3).close()
    monkeypatch.setattr(gguf, "PERMUTED", ())  # what a converter that forgets to reorder rows would write
    with pytest.raises(RunError, match=r"The f32 export for llama\.cpp does not compute what 'tiny-llama' computes"):
        engine_of(tiny_model(), folder=tmp_path, limit=5e-3)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_done_is_said(engine_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    causal = tiny_model()
    for options in ({"streams": 0}, {"context": 4}, {"threads": 0}):
        with pytest.raises(ConfigError, match="needs streams >= 1"):
            engine_of(causal, **options)
    engine = engine_of(causal)
    asked = check_prompts(causal)
    with pytest.raises(ConfigError, match="llama_cpp engine does not know repetition_penalty; leave it out"):
        engine.sample(asked, n=1, settings=Decoding(repetition_penalty=1.2), names="abc")
    with pytest.raises(RunError, match=r"need \d+ tokens and the llama_cpp engine holds 256"):
        engine.sample([asked[0] * 20], n=1, settings=DRAW, names="a")
    engine.close()
    monkeypatch.setitem(__import__("sys").modules, "xllamacpp", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'heedful\[llama\]'"):
        engine_of(causal)


def test_it_says_nothing_and_answers_nobody(engine_of: Make, capfd: pytest.CaptureFixture[str]) -> None:
    causal = tiny_model()
    engine = engine_of(causal)
    engine.sample(check_prompts(causal), n=2, settings=DRAW, names="abc")
    address = engine.server.listening_address
    for route, code in (("/slots", 401), ("/v1/completions", 401), ("/props", 401)):
        request = urllib.request.Request(address + route, data=b"{}" if "completions" in route else None)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=5)
        assert refused.value.code == code
        refused.value.close()
    engine.close()
    assert capfd.readouterr() == ("", "")


def test_the_exported_tokenizer_cuts_text_as_ours_does(
    engine_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp.secrets, "token_hex", lambda size: "known")
    causal = tiny_model()
    engine = engine_of(causal)
    server = engine.library.Server(engine._parameters(export_gguf(causal, tmp_path / "words.gguf")))
    texts = [*TEXTS, "It's 3am, and I've 12 things left...\n\n  <|im_end|>café", causal.tokenizer.chat_template]
    for text in texts:
        request = urllib.request.Request(
            f"{server.listening_address}/tokenize",
            data=json.dumps({"content": text, "parse_special": True}).encode(),
            headers={"Authorization": "Bearer known", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert json.loads(answer.read())["tokens"] == causal.tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.slow
def test_the_embedded_model_in_q8_0(engine_of: Make) -> None:
    from heedful.models.causal import load
    from heedful.models.embedded import SMOLLM2, packaged_file

    needs(packaged_file(SMOLLM2), f"needs the embedded model: {SMOLLM2.install}")
    causal = load()
    engine = engine_of(causal, precision="q8_0", streams=8)
    assert engine.checked.mean < 0.1
    prompts = check_prompts(causal)
    ours = TransformersEngine(causal).sample(prompts, n=1, settings=Decoding(max_new_tokens=8), names="abc")
    theirs = engine.sample(prompts, n=1, settings=Decoding(max_new_tokens=8), names="abc")
    same = [a == b for x, y in zip(ours, theirs, strict=True) for a, b in zip(x[0].tokens, y[0].tokens, strict=False)]
    assert sum(same) / len(same) > 0.5
