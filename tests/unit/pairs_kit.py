"""What the tests of encoder-decoders share: tiny ones of every kind, BlenderBot-small with its own tokenizer."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, BlenderbotSmallTokenizer

from heedful.models.causal import CausalModel, load
from heedful.testing import tiny_tokenizer

SPECIAL = ["__null__", "__start__", "__end__", "__unk__"]
CHARACTERS = [*string.ascii_lowercase, *string.digits, *".,!?'()"]
MERGES = ["t h", "th e</w>", "i n</w>", "y o", "yo u</w>"]


def blenderbot_tokenizer(folder: Path) -> Any:
    """BlenderBot-small's own tokenizer over letters and a few merges; 0 pads, 1 begins, 2 ends, 3 is unknown."""
    pieces = [*SPECIAL, *CHARACTERS, *(f"{c}@@" for c in CHARACTERS), "th@@", "th", "the", "in@@", "in", "yo@@", "you"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]), "utf-8")
    return BlenderbotSmallTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def save_pair(folder: Path, kind: str = "blenderbot-small", *, seed: int = 0, dropout: float = 0.0) -> Path:
    """An encoder-decoder with random weights and its tokenizer as an ordinary Hugging Face folder."""
    tokenizer = blenderbot_tokenizer(folder) if kind == "blenderbot-small" else tiny_tokenizer(template="none")
    shared = {"vocab_size": len(tokenizer), "d_model": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "t5":
        more = {"d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
        more |= {"dropout_rate": dropout, "initializer_factor": 3.0}
    else:
        more = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in SIZES.items()}
        more |= {"max_position_embeddings": 512, "dropout": dropout, "decoder_start_token_id": 1, "init_std": 0.4}
    config = AutoConfig.for_model(kind, **shared, **more)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSeq2SeqLM.from_config(config)
    model.generation_config.forced_eos_token_id = None
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


SIZES = {"layers": 2, "attention_heads": 2, "ffn_dim": 32}


def pair(folder: Path, kind: str = "blenderbot-small", **options: Any) -> CausalModel:
    """`save_pair`, opened as chat and studies open it."""
    return load(str(save_pair(folder, kind, **options)), accept="any")
