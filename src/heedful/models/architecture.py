"""Which architectures token trees fit, and the masks and the cache that they need.

A tree is exact where a token looks at others through attention alone, and a mask decides at which. Two kinds of layers
do: full attention, and attention within a window of the last `sliding_window` positions. A window is counted along a
token's own path, so it is a second mask: the path, cut where positions are too far back. Layers that carry a state from
token to token (Mamba, RWKV, convolutions) would let one branch leak into the next, and biases by distance (ALiBi) count
places in the row. `check_config` refuses such models before their weights are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from heedful.errors import ConfigError

if TYPE_CHECKING:
    import torch

FULL, SLIDING = "full_attention", "sliding_attention"
OTHER_WINDOWS = (
    "attention_chunk_size",
    "attention_window_size",
    "keep_window_size",
    "local_attention_window_len",
    "local_attn_chunk_length",
    "sliding_window_size",
    "window_size",
)
"""Keys of configurations whose architectures limit attention in a way of their own, which no mask of ours repeats."""


def text_config(model: Any) -> Any:
    """The configuration of the language model, also where it is a part of a larger one (images, sound)."""
    inner = getattr(model, "module", model)  # DistributedDataParallel keeps the model in `module`
    return inner.config.get_text_config(decoder=True)


def layer_kinds(config: Any) -> set[str]:
    """The kinds of layers of a model, as transformers names them."""
    found = getattr(config, "layer_types", None)
    if found:
        return set(found)
    # Of the class: a stray key in a file does not make a Llama look through a window.
    slides = hasattr(type(config), "sliding_window") and config.sliding_window
    return {SLIDING if slides else FULL}


def attention_masks(
    model: Any, visible: torch.Tensor | None, queries: torch.Tensor, keys: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor] | None:
    """What the model's forward takes as `attention_mask`, its sliding windows included.

    Args:
        visible: [R, Q, K], True where a token may look; None for plain causal attention, where the model makes its own.
        queries, keys: positions [R, Q] and [R, K] of the tokens on their paths.

    Returns:
        None, [R, 1, Q, K], or one mask per kind of layer for models that have two.
    """
    if visible is None:
        return None
    config = text_config(model)
    kinds = layer_kinds(config)
    if SLIDING not in kinds:
        return visible[:, None]
    near = queries[:, :, None] - keys[:, None, :] < config.sliding_window
    sliding = (visible & near)[:, None]
    return sliding if kinds == {SLIDING} else {FULL: visible[:, None], SLIDING: sliding}


@contextmanager
def only_at(model: Any, row: torch.Tensor, source: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """Within this block the model's output layer sees only the states at (`row`, `source`): logits are [1, M, V].

    A hook rather than a call of the model's parts: the model's own forward still runs, so that gradients are shared
    between processes, autocast applies, and whatever the architecture does to its logits happens.

    Yields:
        a list to which each forward pass appends all its states, [R, T, H].
    """
    inner = getattr(model, "module", model)  # DistributedDataParallel keeps the model in `module`
    head = inner.get_output_embeddings()
    seen: list[torch.Tensor] = []

    def pick(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        seen.append(args[0])
        return (args[0][row, source][None], *args[1:])

    hook = head.register_forward_pre_hook(pick)
    try:
        yield seen
    finally:
        hook.remove()


def decoder_layers(model: Any) -> list[Any]:
    """The blocks of a model in their order, also beneath an adapter; what comes out of one enters the next.

    Raises:
        ConfigError: they lie in no list of their own.
    """
    inner, count = getattr(model, "module", model), text_config(model).num_hidden_layers
    import torch

    for module in inner.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count and not _shared(module):
            return list(module)
    raise ConfigError(
        f"The architecture {inner.config.model_type} keeps its blocks in a way that a graph cannot reach; use a model "
        "such as SmolLM2, Llama, Qwen or Mistral."
    )


def _shared(layers: Any) -> bool:
    """Whether a list holds something smaller than blocks (experts, heads): a block attends, and they do not."""
    return not any("attn" in name or "attention" in name for name, _ in layers[0].named_children())


def growing_cache(model: Any) -> Any:
    """A transformers cache that grows by doubling: appending a token does not copy the whole past.

    Layers with a window keep everything too: which tokens are near differs from branch to branch.
    """
    from transformers.cache_utils import Cache, DynamicLayer

    class GrowingLayer(DynamicLayer):
        """Keys and values [R, heads, S, d] as views of buffers with room to spare."""

        def __init__(self) -> None:
            super().__init__()
            self.buffers: list[torch.Tensor] = []
            self.length = 0

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            self.is_initialized = True
            end = self.length + key_states.shape[-2]
            for i, new in enumerate((key_states, value_states)):
                if i >= len(self.buffers) or self.buffers[i].shape[-2] < end:
                    shape = (*new.shape[:-2], end if not self.length else 2 * end, new.shape[-1])
                    room = new.new_empty(shape)
                    if self.length:
                        room[..., : self.length, :] = self.buffers[i][..., : self.length, :]
                    self.buffers[i : i + 1] = [room]
                self.buffers[i][..., self.length : end, :] = new
            self.length = end
            self.keys, self.values = (b[..., :end, :] for b in self.buffers)
            return self.keys, self.values

        def get_seq_length(self) -> int:
            return self.length

    class GrowingCache(Cache):
        """One growing layer for each of the model's layers."""

        def get_batch(self) -> int:
            """Number of rows."""
            return int(self.layers[0].keys.shape[0])

    return GrowingCache(layers=[GrowingLayer() for _ in range(text_config(model).num_hidden_layers)])


Accept = Literal["causal", "pairs", "any"]
"""What a caller can work with: causal language models, encoder-decoders, or both."""
PAIRED = ("bart", "blenderbot", "blenderbot-small", "mbart", "pegasus", "t5")
"""Encoder-decoders that were tried against `transformers.generate`, with random weights."""


def check_config(config: Any, *, named: str, accept: Accept = "causal") -> None:
    """Refuse what the configuration alone shows to be unfit: no weights are needed.

    Every causal language model of transformers 5.23 that this lets through, and that attends through sdpa, was tried on
    trees with random weights and a window shorter than the text; losses were equal to 1e-6.

    Raises:
        ConfigError: an encoder, an encoder-decoder, or layers that are neither full nor sliding-window attention.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    kind = config.model_type
    if config.is_encoder_decoder and accept == "causal":
        where = "which only method: seq2seq, chat, evaluations and studies can work with"
        raise unfit(named, kind, f"it is an encoder-decoder, {where}")
    if config.is_encoder_decoder:
        _check_pair(config, named=named)
        return
    if accept == "pairs":
        raise ConfigError(
            f"method: seq2seq trains encoder-decoders such as BlenderBot-small, and '{named}' (architecture {kind}) is "
            "none; use method: sft."
        )
    text = config.get_text_config(decoder=True)
    both_ways = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES or kind in ("bert-generation", "moshi")
    if both_ways and not getattr(text, "is_decoder", False):
        raise unfit(named, kind, "it is no decoder of text alone: its tokens see later ones, or other streams")
    other = sorted(layer_kinds(text) - {FULL, SLIDING})
    if other:
        raise unfit(named, kind, f"it has layers of the kind {', '.join(other)}")
    windows = [key for key in OTHER_WINDOWS if getattr(text, key, None)]
    if windows:
        raise unfit(named, kind, f"it limits attention in a way of its own ({windows[0]})")
    if getattr(text, "alibi", False):
        raise unfit(named, kind, "its positions are biases by distance (ALiBi)")


def _check_pair(config: Any, *, named: str) -> None:
    if config.model_type not in PAIRED:
        raise ConfigError(
            f"The model '{named}' (architecture {config.model_type}) cannot be used, because heedful was never tried "
            f"with this encoder-decoder; use one of {', '.join(PAIRED)}."
        )
    if config.decoder_start_token_id is None:
        raise ConfigError(
            f"The configuration of '{named}' has no decoder_start_token_id, so nothing says how a reply begins; add it "
            "to its config.json."
        )


def unfit(named: str, architecture: str, reason: str) -> ConfigError:
    """The error for a model that token trees cannot use."""
    return ConfigError(
        f"The model '{named}' (architecture {architecture}) cannot be used, because {reason}; use a causal language "
        "model with full or sliding-window attention, for instance SmolLM2, Llama, Qwen, Mistral, Phi-3 or Gemma 3."
    )
