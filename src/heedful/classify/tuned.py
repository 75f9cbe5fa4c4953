"""A fine-tuned sentence encoder.

While it is tuned, logits are W (20 v) + b with v the unit vector of a turn; afterwards its vectors are used like those
of the frozen encoder, and the head is fitted on them anew. Word embeddings stay as they are: they are half of the
weights, and words that the training turns lack would be left behind. Dropout is the model's own (0.1). AdamW, 10 %
warm-up, linear decay to 0, gradient norm at most 1; batches hold turns of similar length in random order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heedful.classify.base import Arrays, Block, FeatureSettings, Item, Lesson
from heedful.errors import ConfigError, NotFoundError, RunError
from heedful.models.causal import use_bf16
from heedful.models.encoder import SentenceEncoder

FOLDER = "encoder"
SCALE = 20.0
"""Length of the vectors that the head sees: at length 1 it would need weights that weight decay keeps it from."""
HEAD_RATE = 1e-3
MAX_TOKENS = 128
_MEGA = 16


class TunedMiniLM:
    """Vectors of all-MiniLM-L6-v2, tuned to tell the labels apart: 22.7 M weights, 11 M of them trained."""

    def __init__(self, settings: FeatureSettings) -> None:
        if settings.context or settings.speaker:
            raise ConfigError(
                "minilm_tuned reads the turn alone; set context: 0 and speaker: false, or use minilm or tfidf."
            )
        self.settings = settings
        self.encoder: SentenceEncoder | None = None

    def fit(self, lesson: Lesson) -> None:
        """Train encoder and a linear head on it; the head that is kept is fitted afterwards, as for all features.

        Raises:
            RunError: the loss is not a number.
        """
        import torch

        self.encoder = SentenceEncoder.load("minilm")
        texts = [item.text.strip() for item in lesson.items]
        ids = self.encoder.tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        with torch.random.fork_rng(devices=[] if self.encoder.device == "cpu" else None):
            torch.manual_seed(lesson.seed)
            _Tuning(self.encoder, self.settings, lesson, ids).run()
        self.encoder.model.eval()
        self.encoder.forget()

    def block(self, items: Sequence[Item]) -> Block:
        """(N, 384), rows of length 1."""
        if self.encoder is None:
            raise RunError("minilm_tuned must be fitted or restored before it can be asked.")
        return self.encoder.encode([item.text for item in items])

    def save(self, folder: Path) -> tuple[dict[str, Any], Arrays]:
        """The encoder as an ordinary Hugging Face folder."""
        if self.encoder is None:
            raise RunError("minilm_tuned must be fitted before it can be saved.")
        self.encoder.model.save_pretrained(str(folder / FOLDER))
        self.encoder.tokenizer.save_pretrained(str(folder / FOLDER))
        return {"encoder": FOLDER}, {}

    def restore(self, folder: Path, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Load the encoder.

        Raises:
            NotFoundError: its folder is not beside the scorer.
        """
        if not (folder / FOLDER / "model.safetensors").is_file():
            raise NotFoundError(f"The scorer {folder} needs its folder '{FOLDER}' with the tuned weights; copy it too.")
        self.encoder = SentenceEncoder(folder / FOLDER, name="minilm_tuned")


class _Tuning:
    """The loop."""

    def __init__(
        self, encoder: SentenceEncoder, settings: FeatureSettings, lesson: Lesson, ids: list[list[int]]
    ) -> None:
        import torch

        self.torch, self.encoder, self.settings, self.lesson, self.ids = torch, encoder, settings, lesson, ids
        self.targets = torch.tensor(lesson.targets, device=encoder.device)
        self.weights = torch.tensor(lesson.weights, dtype=torch.float32, device=encoder.device)
        self.draw = np.random.default_rng(lesson.seed)
        per_epoch = math.ceil(len(ids) / settings.batch_size)
        self.steps = max(1, round(settings.epochs * per_epoch))
        self.head = torch.nn.Linear(encoder.dim, len(lesson.weights)).to(encoder.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        encoder.model.get_input_embeddings().requires_grad_(False)
        self.trained = trained = [p for p in encoder.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": trained, "peak": settings.learning_rate},
                {"params": list(self.head.parameters()), "peak": HEAD_RATE},
            ],
            lr=settings.learning_rate,
            weight_decay=0.01,
        )
        self.bf16 = use_bf16(settings.precision, on_cpu=encoder.device == "cpu")

    def run(self) -> None:
        """All steps, or as many as `max_seconds` has time for."""
        began = time.monotonic()
        limit = self.settings.max_seconds or math.inf
        self.encoder.model.train()
        for step, batch in zip(range(self.steps), self._batches(), strict=False):
            gone = time.monotonic() - began
            # The share that is done, by steps or by the clock, whichever is further: the rate falls to 0 either way.
            done = max(step / self.steps, gone / limit)
            if done >= 1:
                self.lesson.say(f"minilm_tuned: the time was over after {step:,} of {self.steps:,} steps")
                break
            loss = self._step(batch, rate=min(1.0, (step + 1) / (0.1 * self.steps)) * (1 - done))
            if not math.isfinite(loss):
                raise RunError(
                    f"The loss of minilm_tuned is not a number at step {step + 1}; lower learning_rate "
                    f"(now {self.settings.learning_rate:g}) or set precision: fp32."
                )
            if step % 50 == 0:
                self.lesson.log({"tuning_step": step + 1, "loss": loss, "seconds": round(gone, 2)})
            if step and step % 200 == 0:
                self.lesson.say(f"minilm_tuned: step {step:,} of {self.steps:,}, {gone:,.0f} s")

    def _step(self, batch: list[int], *, rate: float) -> float:
        torch = self.torch
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * rate
        with torch.autocast(self.encoder.device.split(":")[0], dtype=torch.bfloat16, enabled=self.bf16):
            vectors = self._vectors([self.ids[i] for i in batch])
        loss = torch.nn.functional.cross_entropy(
            self.head(SCALE * vectors), self.targets[batch], weight=self.weights, reduction="sum"
        ) / len(batch)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()
        return float(loss.detach())

    def _vectors(self, batch: list[list[int]]) -> Any:
        torch = self.torch
        longest = max(map(len, batch))
        padded = torch.zeros(len(batch), longest, dtype=torch.long)
        for row, ids in enumerate(batch):
            padded[row, : len(ids)] = torch.tensor(ids)
        mask = torch.arange(longest) < torch.tensor([len(ids) for ids in batch])[:, None]
        padded, mask = padded.to(self.encoder.device), mask.to(self.encoder.device)
        states = self.encoder.model(padded, attention_mask=mask.long()).last_hidden_state.float()
        means = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return torch.nn.functional.normalize(means, dim=1)

    def _batches(self) -> Iterator[list[int]]:
        """Indices of turns, epoch after epoch, similar lengths together, in random order."""
        size = self.settings.batch_size
        while True:
            order = self.draw.permutation(len(self.ids)).tolist()
            batches: list[list[int]] = []
            for begin in range(0, len(order), _MEGA * size):
                part = sorted(order[begin : begin + _MEGA * size], key=lambda i: len(self.ids[i]))
                batches += [part[i : i + size] for i in range(0, len(part), size)]
            for at in self.draw.permutation(len(batches)):
                yield batches[at]
