"""A model as one GGUF file, for llama.cpp and what is built on it.

No outside converter: names come from the `gguf` package's own table, queries and keys are permuted as llama.cpp wants
them, an adapter is merged in fp32 first, and the tokenizer is written from the one that the model was trained with.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from heedful.errors import ConfigError, RunError
from heedful.models.causal import CausalModel
from heedful.models.delta import expected_warnings

if TYPE_CHECKING:
    import numpy as np
    import torch

Precision = Literal["q8_0", "f16", "f32"]
Vocabulary = Literal["words", "ids"]
PRECISIONS: tuple[Precision, ...] = ("q8_0", "f16", "f32")
BLOCK = 32
"""Weights that share one scale in Q8_0."""

ARCHITECTURES = {"llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
"""`model_type` of transformers -> architecture of llama.cpp."""
PERMUTED = ("llama", "mistral")
"""Rotary positions turn neighbouring values in llama.cpp's Llama and halves in transformers', so rows are reordered."""

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {f"{_LETTERS}\\p{{N}}{{1,3}}{_REST}": "llama-bpe", f"{_LETTERS}\\p{{N}}{_REST}": "qwen2"}
"""Regular expression before the byte pairs -> llama.cpp's name for it."""


def export_gguf(
    causal: CausalModel, path: str | Path, *, precision: Precision = "q8_0", vocabulary: Vocabulary = "words"
) -> Path:
    """Write `causal` to `path`, whole or not at all.

    Args:
        causal: a model with or without an adapter; it stays as it is (its copy is merged, in fp32 on the CPU).
        precision: of matrices; norms and biases are always fp32. `q8_0` takes 8.5 bits a weight.
        vocabulary: `words` writes the tokenizer; `ids` gives each token a name of letters, for readers that speak in
            token ids: such a file cannot read text, and holds no end but the tokenizer's own.

    Raises:
        ConfigError: an architecture, positions or a tokenizer that this export does not know.
        RunError: a weight that has no place in the file.
    """
    import gguf

    check_exportable(causal, precision=precision, vocabulary=vocabulary)
    path = Path(path)
    model = merged_copy(causal)
    scratch = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(scratch, gguf.MODEL_ARCH_NAMES[_architecture(gguf, model.config)])
    try:
        _write_settings(gguf, writer, model.config, name=Path(causal.name).name, precision=precision)
        rows = model.get_input_embeddings().num_embeddings
        (_write_tokenizer if vocabulary == "words" else _write_ids)(gguf, writer, causal.tokenizer, rows=rows)
        for name, kind, data in _tensors(gguf, model, precision):
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


def check_exportable(causal: CausalModel, *, precision: str = "q8_0", vocabulary: Vocabulary = "words") -> None:
    """Refuse what `export_gguf` would refuse, before anything is computed."""
    config = causal.model.config
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, but it is '{precision}'.")
    if config.model_type not in ARCHITECTURES:
        raise ConfigError(
            f"'{causal.name}' is a {config.model_type} model; GGUF export knows {', '.join(ARCHITECTURES)}. "
            "Export a merged folder instead, and convert it with llama.cpp's own script."
        )
    if getattr(config, "sliding_window", None):
        raise ConfigError(f"'{causal.name}' attends through a sliding window, which GGUF export does not know.")
    kind = _rope(config).get("rope_type", "default")
    known = ("default", "linear", "llama3") if ARCHITECTURES[config.model_type] == "LLAMA" else ("default",)
    if kind not in known:
        raise ConfigError(
            f"'{causal.name}' scales its positions by '{kind}'; GGUF export of a {config.model_type} model knows "
            f"{', '.join(known)}."
        )
    if vocabulary == "words":
        _pre_tokenizer(causal.tokenizer, named=causal.name)


def merged_copy(causal: CausalModel) -> Any:
    """A copy of the model without adapter, its effect merged in fp32, on the CPU; the original is not touched.

    Raises:
        ConfigError: an adapter that cannot become part of the weights, or a graph, which no other tool knows.
    """
    import torch

    if causal.graph is not None:
        raise ConfigError(
            f"'{causal.name}' writes with a graph, which no other tool can read, so it cannot be exported; use it with "
            "heedful chat and heedful eval."
        )
    with torch.no_grad():
        model = copy.deepcopy(causal.model).cpu().float()
        if not hasattr(model, "merge_and_unload"):
            return model.eval()
        try:
            with expected_warnings():
                return model.merge_and_unload(safe_merge=True).eval()
        except (AttributeError, NotImplementedError, ValueError) as err:
            raise ConfigError(f"The adapter of '{causal.name}' cannot be merged into its base model: {err}") from err


def _rope(config: Any) -> Mapping[str, Any]:
    return getattr(config, "rope_parameters", None) or {}


def _architecture(gguf: Any, config: Any) -> Any:
    return getattr(gguf.MODEL_ARCH, ARCHITECTURES[config.model_type])


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _write_settings(gguf: Any, writer: Any, config: Any, *, name: str, precision: Precision) -> None:
    heads, size = config.num_attention_heads, _head_size(config)
    kinds = {"q8_0": "MOSTLY_Q8_0", "f16": "MOSTLY_F16", "f32": "ALL_F32"}
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(getattr(gguf.LlamaFileType, kinds[precision]))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(float(_rope(config).get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _tensors(gguf: Any, model: Any, precision: Precision) -> Iterator[tuple[str, Any, np.ndarray[Any, Any]]]:
    """(name, type, data) of everything in the file."""
    config = model.config
    names = gguf.get_tensor_name_map(_architecture(gguf, config), config.num_hidden_layers)
    embedding = model.get_input_embeddings().weight
    for name, weight in model.named_parameters(remove_duplicate=True):
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if place is None:
            raise RunError(f"The weight '{name}' has no place in a GGUF file of a {config.model_type} model.")
        if name.startswith("lm_head.") and weight.shape == embedding.shape and weight.equal(embedding):
            continue  # the file has one table then, as the model had
        yield place, *_data(gguf, _permuted(name, weight.detach(), config), precision)
    rotary = model.get_decoder().rotary_emb
    if _rope(config).get("rope_type", "default") != "default":
        import torch

        size = _head_size(config)
        plain = 1.0 / _rope(config)["rope_theta"] ** (torch.arange(0, size, 2).float() / size)
        yield "rope_freqs.weight", *_data(gguf, plain / rotary.inv_freq.float(), "f32")


def _permuted(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    if config.model_type not in PERMUTED or not any(part in name for part in (".q_proj.", ".k_proj.")):
        return weight
    heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
    pairs = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _data(gguf: Any, weight: torch.Tensor, precision: Precision) -> tuple[Any, np.ndarray[Any, Any]]:
    types = gguf.GGMLQuantizationType
    weight = weight.contiguous()
    if weight.dim() < 2 or precision == "f32":
        return types.F32, weight.numpy()
    if precision == "q8_0" and weight.shape[-1] % BLOCK == 0:
        return types.Q8_0, gguf.quantize(weight.numpy(), types.Q8_0)
    return types.F16, weight.half().numpy()


def _pre_tokenizer(tokenizer: Any, *, named: str) -> str:
    """llama.cpp's name for how text is cut before byte pairs are merged.

    Raises:
        ConfigError: no byte-level BPE tokenizer, or one that cuts in a way llama.cpp has no name for here.
    """
    found = _definition(tokenizer)
    parts = (found.get("pre_tokenizer") or {}).get("pretokenizers", [found.get("pre_tokenizer") or {}])
    last = parts[-1]
    shape = (found["model"].get("type"), last.get("type"), last.get("add_prefix_space"), found.get("normalizer"))
    plain = shape[:3] == ("BPE", "ByteLevel", False) and (shape[3] is None or shape[3].get("type") == "NFC")
    if plain and len(parts) == 1 and last.get("use_regex"):
        return "gpt-2"
    if plain and len(parts) == 2 and last.get("use_regex"):
        if parts[0].get("type") == "Digits" and parts[0].get("individual_digits"):
            return "smollm"
    elif plain and len(parts) == 2 and parts[0].get("type") == "Split":
        name = SPLITS.get((parts[0].get("pattern") or {}).get("Regex", ""))
        if name is not None:
            return name
    raise ConfigError(
        f"The tokenizer of '{named}' is none that GGUF export knows (byte-level BPE as in GPT-2, SmolLM, Llama 3 or "
        "Qwen 2). Export a merged folder instead, and convert it with llama.cpp's own script."
    )


def _definition(tokenizer: Any) -> dict[str, Any]:
    import json

    backend = getattr(tokenizer, "backend_tokenizer", None)
    found: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {"model": {}}
    return found


def _write_tokenizer(gguf: Any, writer: Any, tokenizer: Any, *, rows: int) -> None:
    kinds = gguf.TokenType
    found = _definition(tokenizer)
    tokens = [f"[PAD{i}]" for i in range(rows)]  # rows of the table that no entry of the vocabulary has
    types = [kinds.UNUSED] * rows
    for token, at in found["model"]["vocab"].items():
        tokens[at], types[at] = token, kinds.NORMAL
    for added in found["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = kinds.CONTROL if added["special"] else kinds.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(tokenizer, named=tokenizer.name_or_path))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = found["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    for number, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    ):
        if number is not None:
            add(number)
    writer.add_add_bos_token(False)  # the template writes it where there is one
    writer.add_add_space_prefix(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _write_ids(gguf: Any, writer: Any, tokenizer: Any, *, rows: int) -> None:
    kinds = gguf.TokenType
    end = tokenizer.eos_token_id
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(rows)])
    writer.add_token_types([kinds.CONTROL if i == end else kinds.NORMAL for i in range(rows)])
    writer.add_token_merges(["t 0"])  # the format wants one
    if end is not None:
        writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)
