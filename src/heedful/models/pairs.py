"""Encoder-decoders: the prompt goes to the encoder, the reply to the decoder; one row for each reply.

    encoder   prompt (B, T) ----------------------------.
    decoder   <start> + target[:-1] (B, M) -> logits (B, M, V)

Nothing of a conversation is shared between its replies here: an encoder reads both ways, so every prompt is another
one. Everything else is as for causal models: the same samples, choosers, random streams and definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from heedful.errors import ConfigError
from heedful.formats import Format, Sample
from heedful.models.causal import CausalModel
from heedful.models.decoding import Chooser, Decoding, Written, advance
from heedful.models.plan import PlanRule, planned

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]
NOTHING = -100
"""Label of places in a batch where nothing is predicted."""


def check_fits(causal: CausalModel, fmt: Format) -> None:
    """Refuse a format that is made for the other kind of model.

    Raises:
        ConfigError: it is.
    """
    if causal.encodes and not fmt.for_encoder:
        raise ConfigError(
            f"The model '{causal.name}' is an encoder-decoder, and the format '{fmt.name}' is for models that read "
            "prompt and reply in one row; take format: joined."
        )
    if fmt.for_encoder and not causal.encodes:
        raise ConfigError(
            f"The format '{fmt.name}' is for encoder-decoders, and '{causal.name}' is none; take format: strategy, "
            "which has the same strategies in one row."
        )


def check_room(causal: CausalModel, samples: Sequence[Sample], *, reply: int) -> None:
    """Refuse inputs or replies that are longer than the model's positions.

    Args:
        reply: tokens of the longest reply, its plan and its end included.

    Raises:
        ConfigError: one of them is.
    """
    longest = max((len(s.prompt) for s in samples), default=0)
    if longest > causal.max_length:
        raise ConfigError(
            f"An input has {longest:,} tokens, but {causal.name} was built for {causal.max_length:,}; set max_length: "
            f"{causal.max_length} or less."
        )
    if reply > causal.max_length:
        raise ConfigError(
            f"A reply may have {reply:,} tokens with its strategy and its end, but the decoder of {causal.name} was "
            f"built for {causal.max_length:,}; let replies be shorter."
        )


def start_id(causal: CausalModel) -> int:
    """The token that the decoder begins with."""
    return int(causal.model.config.decoder_start_token_id)


def encoder_tensors(causal: CausalModel, prompts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Prompts side by side, padded at their ends: ids and mask [B, T]."""
    import torch

    # A turn without a word leaves nothing to attend to, which softmax answers with NaN: read its end then.
    rows = [tuple(prompt) or (int(causal.tokenizer.eos_token_id),) for prompt in prompts]
    width = max(map(len, rows))
    ids = [[*row, *[causal.pad_id] * (width - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def pair_tensors(causal: CausalModel, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """A batch: what `encoder_tensors` has, `decoder_input_ids` and `labels` [B, M], and `plans` [B], tokens of a plan.

    Padding is masked by place: the end token may be the padding, too.
    """
    import torch

    width, start = max(len(s.target) for s in samples), start_id(causal)
    labels = [[*s.target, *[NOTHING] * (width - len(s.target))] for s in samples]
    before = [[start, *s.target[:-1], *[causal.pad_id] * (width - len(s.target))] for s in samples]
    return {
        **encoder_tensors(causal, [s.prompt for s in samples]),
        "decoder_input_ids": torch.tensor(before),
        "labels": torch.tensor(labels),
        "plans": torch.tensor([s.plan for s in samples]),
    }


def pair_logits(model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Logits [B, M, V] of a batch."""
    out: torch.Tensor = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        decoder_input_ids=batch["decoder_input_ids"],
        use_cache=False,
    ).logits
    return out


def losses(
    logits: torch.Tensor, batch: Mapping[str, torch.Tensor], marks: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihoods [B, M] of the labels, 0 where there are none, and a mask of the plan's places [B, M].

    Words are predicted among the base vocabulary alone, since no reader ever sees a mark there (esconv.md, PPL); a plan
    among everything, as the model has learnt it.

    Args:
        marks: ids that a format added to the vocabulary.
    """
    import torch

    labels = batch["labels"]
    places = torch.arange(labels.shape[1], device=labels.device)
    plan = places[None] < batch["plans"][:, None]
    values = logits.float()
    if len(marks):
        ids = torch.tensor(list(marks), device=labels.device)
        cut = values.index_fill(2, ids, -torch.inf)
        values = torch.where(plan[:, :, None], values, cut)
    found = torch.nn.functional.cross_entropy(
        values.transpose(1, 2), labels, reduction="none", ignore_index=NOTHING
    )  # fmt: skip
    return found, plan & (labels != NOTHING)


def pair_likelihood(causal: CausalModel, samples: Sequence[Sample], *, tokens_per_batch: int) -> list[Floats]:
    """Negative log-likelihood of each token of each sample's target, in the order of `samples`."""
    import torch

    check_room(causal, samples, reply=max((len(s.target) for s in samples), default=0))
    order = sorted(range(len(samples)), key=lambda i: -len(samples[i]))
    found: dict[int, Floats] = {}
    while order:
        size = max(1, tokens_per_batch // max(1, len(samples[order[0]])))
        part, order = order[:size], order[size:]
        batch = {k: v.to(causal.device) for k, v in pair_tensors(causal, [samples[i] for i in part]).items()}
        with torch.no_grad():
            nll, _ = losses(pair_logits(causal.model, batch), batch, causal.marks)
        for row, i in zip(nll.double().cpu().numpy(), part, strict=True):
            found[i] = row[: len(samples[i].target)]
    return [found[i] for i in range(len(samples))]


class Pairs:
    """Replies in the making: a row for each live branch, its own copy of the encoder's states and of the cache.

    What the decoder's rules call the prompt (`no_repeat_ngram_size`, `repetition_penalty`) is the encoder's input and
    the start token, as the released code forbids to copy from the input as well (esconv.md, traps).
    """

    def __init__(
        self,
        causal: CausalModel,
        samples: Sequence[Sample],
        settings: Decoding,
        *,
        end: frozenset[int],
        banned: Sequence[int] = (),
        plan: PlanRule | None = None,
        on_token: Callable[[str, int], None] | None = None,
    ) -> None:
        start = start_id(causal)
        check_room(causal, samples, reply=settings.max_new_tokens + (plan is not None))
        self.causal, self.on_token = causal, on_token if settings.width == 1 else None
        self.choosers: dict[str, Chooser] = {
            s.id: planned(plan, settings, name=s.id, prompt=(*s.prompt, start), end=end, banned=banned) for s in samples
        }
        self.names = [s.id for s in samples]
        self._begin(samples, start)

    def run(self) -> dict[str, Written]:
        """Sample id -> reply."""
        import torch

        with torch.no_grad():
            while True:
                kept, tokens = advance(self.choosers, self.names, self.logits, self.on_token)
                if not kept:
                    break
                self.names = [self.names[i] for i in kept]
                self._forward(kept, tokens)
        return {name: c.done for name, c in self.choosers.items() if c.done is not None}

    def _begin(self, samples: Sequence[Sample], start: int) -> None:
        """Read the prompts, and the token that every reply begins with."""
        import torch

        device = self.causal.device
        read = {k: v.to(device) for k, v in encoder_tensors(self.causal, [s.prompt for s in samples]).items()}
        with torch.no_grad():
            encoder = self.causal.model.get_encoder()
            self.states = encoder(**read).last_hidden_state
            self.mask = read["attention_mask"]
            self.cache: Any = None  # transformers makes one at the first step
            self._step(torch.full((len(samples), 1), start, device=device))

    def _forward(self, kept: Sequence[int], tokens: Sequence[int]) -> None:
        """Feed one token to each branch that goes on; a branch that moves takes its row along."""
        import torch

        device = self.causal.device
        if list(kept) != list(range(len(self.mask))):
            rows = torch.tensor(kept, device=device)
            self.states, self.mask = self.states[rows], self.mask[rows]
            self.cache.reorder_cache(rows)
        self._step(torch.tensor(tokens, device=device)[:, None])

    def _step(self, ids: torch.Tensor) -> None:
        from transformers.modeling_outputs import BaseModelOutput

        outputs = self.causal.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.states),
            attention_mask=self.mask,
            decoder_input_ids=ids,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache, self.logits = outputs.past_key_values, outputs.logits[:, -1]
