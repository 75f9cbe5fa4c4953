"""GGUF export: what stands in the file, what is refused, and that the model stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")

import numpy as np

from heedful.errors import ConfigError
from heedful.models import DELTAS
from heedful.models.causal import CausalModel, add_markers
from heedful.models.delta import DeltaSettings, attach
from heedful.models.gguf import export_gguf, merged_copy
from heedful.testing import tiny_model


def adapted(delta: str = "lora") -> CausalModel:
    """A tiny model with new tokens and an adapter whose weights are not zero."""
    causal = tiny_model()
    new = add_markers(causal, ("[Question]",)) if delta in ("lora", "dora") else ()
    rank = {} if delta in ("ia3", "norms") else {"rank": 4}
    causal.model = attach(causal.model, DELTAS.get(delta)(DeltaSettings(new_tokens=new, **rank)), name=delta)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in causal.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    causal.model.eval()
    return causal


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    found = gguf.GGUFReader(path)
    values = {name: part.contents() for name, part in found.fields.items()}
    return values, {t.name: gguf.dequantize(t.data, t.tensor_type) for t in found.tensors}


def test_settings_and_tokenizer_are_in_the_file(tmp_path: Path) -> None:
    causal = tiny_model()
    values, tensors = read(export_gguf(causal, tmp_path / "m.gguf", precision="f32"))
    assert values["general.architecture"] == "llama"
    assert values["llama.attention.head_count"] == 4
    assert values["llama.attention.head_count_kv"] == 2
    assert values["llama.context_length"] == 4096
    assert values["tokenizer.ggml.pre"] == "smollm"
    vocabulary = causal.tokenizer.get_vocab()
    assert values["tokenizer.ggml.tokens"] == [t for t, _ in sorted(vocabulary.items(), key=lambda pair: pair[1])]
    assert values["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    assert values["tokenizer.ggml.eos_token_id"] == causal.tokenizer.eos_token_id
    assert values["tokenizer.chat_template"] == causal.tokenizer.chat_template
    assert "output.weight" not in tensors  # tied
    assert len(tensors) == len(list(causal.model.named_parameters()))
    assert list(tmp_path.iterdir()) == [tmp_path / "m.gguf"]


def test_rows_of_queries_are_in_llama_order(tmp_path: Path) -> None:
    causal = tiny_model()
    _, tensors = read(export_gguf(causal, tmp_path / "m.gguf", precision="f32"))
    ours = causal.model.model.layers[0].self_attn.q_proj.weight.detach().numpy()
    size = 8  # of one head: value i of the first half and value i of the second become neighbours
    want = np.concatenate([ours[h * size + np.array([0, 4, 1, 5, 2, 6, 3, 7])] for h in range(4)])
    assert np.array_equal(tensors["blk.0.attn_q.weight"], want)
    assert np.array_equal(
        tensors["blk.1.ffn_down.weight"], causal.model.model.layers[1].mlp.down_proj.weight.detach().numpy()
    )


@pytest.mark.parametrize(("precision", "error"), [("f16", 2e-3), ("q8_0", 6e-3)])
def test_precision_bounds_the_error(tmp_path: Path, precision: Any, error: float) -> None:
    causal = tiny_model()
    path = export_gguf(causal, tmp_path / "m.gguf", precision=precision)
    ours = causal.model.get_input_embeddings().weight.detach().numpy()
    gap = np.abs(read(path)[1]["token_embd.weight"] - ours).max() / np.abs(ours).max()
    assert 0 < gap < error


@pytest.mark.parametrize("delta", ["lora", "dora", "rslora", "ia3", "norms"])
def test_an_adapter_is_merged_and_the_policy_is_untouched(tmp_path: Path, delta: str) -> None:
    causal = adapted(delta)
    before = {name: p.clone() for name, p in causal.model.named_parameters()}
    ids = torch.tensor([[1, 20, 30, 40, 50]])
    with torch.no_grad():
        want = causal.model(ids).logits
        got = merged_copy(causal)(ids).logits
    assert torch.allclose(want, got, atol=1e-4)
    assert not torch.allclose(want[..., :500], tiny_model().model(ids).logits, atol=1e-2)
    _, tensors = read(export_gguf(causal, tmp_path / "m.gguf", precision="f32"))
    merged = merged_copy(causal)
    assert np.array_equal(tensors["token_embd.weight"], merged.get_input_embeddings().weight.detach().numpy())
    assert np.array_equal(
        tensors["blk.0.ffn_down.weight"], merged.model.layers[0].mlp.down_proj.weight.detach().numpy()
    )
    assert all(torch.equal(p, before[name]) for name, p in causal.model.named_parameters())
    assert len(before) == len(list(causal.model.parameters()))


def test_a_bf16_base_is_merged_in_fp32() -> None:
    causal = adapted("rslora")
    for name, parameter in causal.model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    weight = merged_copy(causal).model.layers[0].mlp.down_proj.weight
    assert weight.dtype == torch.float32
    assert not torch.equal(weight, weight.bfloat16().float())


def test_rows_without_an_entry_are_named_padding(tmp_path: Path) -> None:
    causal = tiny_model()
    causal.model.resize_token_embeddings(512, mean_resizing=False)
    values, tensors = read(export_gguf(causal, tmp_path / "m.gguf"))
    assert values["tokenizer.ggml.tokens"][500:502] == ["[PAD500]", "[PAD501]"]
    assert values["tokenizer.ggml.token_type"][511] == gguf.TokenType.UNUSED
    assert tensors["token_embd.weight"].shape == (512, 32)


def test_what_the_export_does_not_know_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with pytest.raises(ConfigError, match="'tiny-gpt2' is a gpt2 model; GGUF export knows llama, "):
        export_gguf(tiny_model(kind="gpt2"), path)
    causal = tiny_model()
    with pytest.raises(ConfigError, match="precision must be one of q8_0, f16, f32, but it is 'q4'"):
        export_gguf(causal, path, precision="q4")  # type: ignore[arg-type]
    causal.model.config.sliding_window = 64
    with pytest.raises(ConfigError, match="sliding window"):
        export_gguf(causal, path)
    causal = tiny_model()
    causal.model.config.rope_parameters = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(ConfigError, match="scales its positions by 'yarn'"):
        export_gguf(causal, path)
    causal = tiny_model()
    from tokenizers import pre_tokenizers

    causal.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ConfigError, match="The tokenizer of 'tiny-llama' is none that GGUF export knows"):
        export_gguf(causal, path)
    assert list(tmp_path.iterdir()) == []
