"""A tokenizer of 500 entries and a randomly initialised model of some ten thousand weights: made in milliseconds.

They behave like the real thing (special tokens, chat template, saving, loading), only their words make no sense.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from heedful.errors import ConfigError
from heedful.models.causal import CausalModel, need_train_extra
from heedful.testing.talks import SEEKER, SUPPORTER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Kind = Literal["llama", "gpt2"]
Template = Literal["chatml", "none"]

END, START, UNKNOWN = "<|im_end|>", "<|im_start|>", "<|endoftext|>"
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a tiny model that was never trained.<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML as SmolLM2 writes it, an own system turn included where the conversation has none."""
VOCABULARY = 500


def tiny_tokenizer(*, template: Template = "chatml") -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 500 entries, trained on the invented sentences of this package.

    The training runs once; each call returns an object of its own, since tests add tokens to it.

    Args:
        template: `chatml`, or `none` for a tokenizer without a chat template (as GPT-2's).
    """
    need_train_extra()
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained()),
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
        chat_template=CHATML if template == "chatml" else None,
    )


@lru_cache(maxsize=1)
def _trained() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[UNKNOWN, START, END],  # ids 0, 1, 2, as in SmolLM2
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SEEKER, *SUPPORTER], trainer)
    return str(tokenizer.to_str())


def tiny_model(
    seed: int = 0, layers: int = 2, hidden: int = 32, kind: Kind = "llama", *, template: Template = "chatml"
) -> CausalModel:
    """A causal LM with random weights (fp32, CPU) over the vocabulary of `tiny_tokenizer`; equal seeds, equal weights.

    Args:
        seed: of the weights; torch's global random state stays as it was.
        layers, hidden: size; `hidden` must be a multiple of 8 (4 heads).
        kind: `llama` (rotary positions, no biases, grouped keys and values) or `gpt2` (learnt positions, biases).
        template: as in `tiny_tokenizer`.

    Raises:
        ConfigError: `hidden` is no multiple of 8, or `kind` is neither of the two.
    """
    if hidden % 8 or kind not in ("llama", "gpt2"):
        raise ConfigError(
            f"A tiny model needs hidden to be a multiple of 8 and kind llama or gpt2, but got {hidden} and '{kind}'."
        )
    tokenizer = tiny_tokenizer(template=template)
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = _config(kind, tokenizer, layers=layers, hidden=hidden)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    return CausalModel(model=model.eval(), tokenizer=tokenizer, name=f"tiny-{kind}", note="random weights")


def _config(kind: Kind, tokenizer: Any, *, layers: int, hidden: int) -> Any:
    from transformers import GPT2Config, LlamaConfig

    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        # Five times the usual spread: with it, other tokens in the context visibly change what comes out.
        "initializer_range": 0.1,
    }
    if kind == "gpt2":
        # Dropout off: what is trained in one pass and in several must be comparable.
        quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2Config(n_embd=hidden, n_layer=layers, n_head=4, n_positions=4096, **quiet, **shared)
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        **shared,
    )


def save_tiny(folder: str | Path, **options: Any) -> Path:
    """Write a tiny model and its tokenizer as an ordinary Hugging Face folder, ready for `heedful.models.causal.load`.

    Args:
        folder: made if it is not there.
        options: those of `tiny_model`.
    """
    folder = Path(folder)
    causal = tiny_model(**options)
    causal.model.save_pretrained(str(folder))
    causal.tokenizer.save_pretrained(str(folder))
    return folder
