"""Windows of attention on trees: losses and replies equal transformers' own; what trees do not fit is refused."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from heedful.errors import ConfigError, NotFoundError
from heedful.formats import Sample, TokenTree, by_conversation, make, pack
from heedful.models import forward
from heedful.models import generate as generating
from heedful.models.architecture import attention_masks, layer_kinds
from heedful.models.causal import CausalModel, add_markers, check_architecture, load
from heedful.models.decoding import Decoding
from heedful.models.forward import likelihood, predictions, tensors
from heedful.models.generate import generate
from heedful.testing import conversations, tiny_tokenizer

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
    "initializer_range": 0.1,
    "pad_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MIXED = ["sliding_attention", "full_attention"]
KINDS: dict[str, dict[str, Any]] = {
    "mistral": {**SMALL, "sliding_window": 32},
    "gemma3_text": {**SMALL, "sliding_window": 64, "layer_types": MIXED, "query_pre_attn_scalar": 8},
    "phi3": {**SMALL, "sliding_window": 64},
    "qwen3": SMALL,
    "opt": {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0, "init_std": 0.1},
    "llama": SMALL,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 4096, "initializer_range": 0.1, "eos_token_id": 2},
}
WINDOWED = ["mistral", "gemma3_text", "phi3"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def config_of(kind: str, values: dict[str, Any]) -> Any:
    return transformers.AutoConfig.for_model(kind, vocab_size=500, **values)


def tiny(kind: str) -> CausalModel:
    torch.manual_seed(3)
    config = config_of(kind, KINDS[kind])
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return CausalModel(model=model.eval(), tokenizer=tiny_tokenizer(), name=f"tiny-{kind}")


@cache
def setup(kind: str, spec: str) -> tuple[CausalModel, list[Sample]]:
    causal, fmt = tiny(kind), make(spec)
    add_markers(causal, fmt.markers)
    talks = conversations(2, seed=7)
    samples = [s for conv in talks for s in fmt.samples(conv, causal.tokenizer, max_length=4000)]
    assert max(len(s.prompt) for s in samples) > 2 * 64  # far beyond each window
    return causal, samples


def alone(causal: CausalModel, sample: Sample) -> Any:
    """Log-probabilities of a target in a text of its own, with the model's own masks."""
    ids = torch.tensor([[*sample.prompt, *sample.target]])
    logits = causal.model(input_ids=ids).logits[0, len(sample.prompt) - 1 : -1]
    return logits.float().log_softmax(-1).gather(1, torch.tensor(sample.target)[:, None])[:, 0]


@pytest.mark.parametrize("spec", ["chat", "structured"])
@every_kind
def test_losses_equal_those_of_separate_samples(kind: str, spec: str) -> None:
    causal, samples = setup(kind, spec)
    with torch.no_grad():
        expected = [-float(alone(causal, s).sum()) / len(s.target) for s in samples]
    for tokens in (1, 100_000):
        found = likelihood(causal, samples, tokens_per_batch=tokens)
        means = [(f.text_nll + f.plan_nll) / (f.text_tokens + f.plan_tokens) for f in found]
        assert means == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", WINDOWED)
def test_gradients_equal_the_sum_of_separate_ones(kind: str) -> None:
    causal, samples = setup(kind, "structured")

    def gradients(loss: Any) -> dict[str, Any]:
        causal.model.zero_grad()
        loss.backward()
        found = {n: p.grad.clone() for n, p in causal.model.named_parameters() if p.grad is not None}
        causal.model.zero_grad()
        return found

    total = sum(len(s.target) for s in samples)
    expected = gradients(-torch.cat([alone(causal, s) for s in samples]).sum() / total)
    packed = pack([TokenTree.merge(g) for g in by_conversation(samples)], pad_id=causal.pad_id)
    found = gradients(-predictions(causal.model, tensors(packed)).sum() / total)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("spec", ["chat", "structured"])
@every_kind
def test_replies_equal_those_of_transformers(kind: str, spec: str, options: dict[str, Any]) -> None:
    causal, samples = setup(kind, spec)
    picked = samples[1::2]
    settings = Decoding(max_new_tokens=12, min_new_tokens=12, **options)
    found = {g.id: g.written.tokens for batch in generate(causal, picked, settings) for g in batch}
    for sample in picked:
        ids = torch.tensor([sample.prompt])
        out = causal.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            min_new_tokens=12,
            pad_token_id=2,
            **options,
        )
        assert found[sample.id] == tuple(out[0, len(sample.prompt) :].tolist())


@pytest.mark.parametrize("kind", WINDOWED)
def test_the_comparisons_see_a_window_that_is_left_out(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    causal, samples = setup(kind, "structured")
    right = [f.text_nll for f in likelihood(causal, samples)]
    replies = Decoding(max_new_tokens=4, do_sample=True)
    words = [g.written.logprobs for b in generate(causal, samples, replies) for g in b]

    def without(model: Any, visible: Any, queries: Any, keys: Any) -> Any:
        return None if visible is None else visible[:, None]

    monkeypatch.setattr(forward, "attention_masks", without)
    monkeypatch.setattr(generating, "attention_masks", without)
    wrong = [f.text_nll for f in likelihood(causal, samples)]
    assert max(abs(a - b) for a, b in zip(right, wrong, strict=True)) > 0.05
    assert [g.written.logprobs for b in generate(causal, samples, replies) for g in b] != words


def test_a_window_is_counted_along_the_path() -> None:
    """The third token of a branch stands ninth in the row, but fifth on its path."""
    model = tiny("gemma3_text").model
    model.config.sliding_window = 3
    visible = torch.ones(1, 1, 9, dtype=torch.bool)
    keys = torch.tensor([[0, 1, 2, 3, 4, 5, 2, 3, 4]])
    masks = attention_masks(model, visible, torch.tensor([[4]]), keys)
    assert isinstance(masks, dict)
    assert masks["full_attention"].all()
    assert masks["sliding_attention"][0, 0, 0].tolist() == [k > 1 for k in keys[0].tolist()]
    assert attention_masks(model, None, keys, keys) is None


def test_a_stray_key_in_a_file_is_no_window() -> None:
    assert layer_kinds(config_of("llama", {**SMALL, "sliding_window": 16})) == {"full_attention"}
    assert layer_kinds(config_of("mistral", {**SMALL, "sliding_window": None})) == {"full_attention"}


UNFIT: dict[str, tuple[str, dict[str, Any], str]] = {
    "encoder": ("bert", {}, "later ones"),
    "encoder-decoder": ("t5", {}, "encoder-decoder"),
    "state": ("mamba", {}, "linear_attention"),
    "convolution": ("lfm2", {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]}, "kind conv"),
    "hybrid": ("jamba", {}, "linear_attention"),
    "chunks": ("llama4_text", {}, "chunked_attention"),
    "local": ("gpt_neo", {}, "window_size"),
    "alibi": ("falcon", {"alibi": True}, "ALiBi"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_trees_do_not_fit_is_refused_before_its_weights_are_read(case: str, tmp_path: Path) -> None:
    kind, values, reason = UNFIT[case]
    transformers.AutoConfig.for_model(kind, **values).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    for open_it in (check_architecture, lambda name: load(name, device="cpu")):
        with pytest.raises(ConfigError) as caught:
            open_it(str(tmp_path))
        said = str(caught.value)
        assert f"architecture {kind})" in said
        assert reason in said
        assert "use a causal language model with full or sliding-window attention" in said
        assert "\n" not in said


@pytest.mark.parametrize("kind", ["bloom", "rwkv"])
def test_what_transformers_cannot_mask_is_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model(kind, vocab_size=500, hidden_size=32, n_layer=1, n_head=2)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=rf"architecture {kind}\).*does not support an attention implementation"):
        load(str(tmp_path), device="cpu")


def test_an_encoder_made_a_decoder_is_one(tmp_path: Path) -> None:
    transformers.AutoConfig.for_model("bert", is_decoder=True).save_pretrained(tmp_path)
    check_architecture(str(tmp_path))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"model_type": "not_yet_invented"}, "not_yet_invented"),
        ({"model_type": "llama", "hidden_size": "wide"}, "cannot be read"),
        ({}, "Unrecognized model"),
    ],
)
def test_a_configuration_that_nobody_knows(values: dict[str, Any], says: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values), "utf-8")
    tiny_tokenizer().save_pretrained(tmp_path)
    for open_it in (check_architecture, lambda name: load(name, device="cpu")):
        with pytest.raises(ConfigError, match=says) as caught:
            open_it(str(tmp_path))
        assert "\n" not in str(caught.value)


def test_a_folder_without_a_configuration(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(NotFoundError, match="Cannot load the model"):
        check_architecture(str(tmp_path))
