"""RewardModel: a trained judge of replies, one number per (context, reply).

An encoder or a causal language model with one output on top (transformers' sequence classification with one label), so
that the weights of a run open in transformers and peft without heedful. What the number means is the objective's:

    pairwise   z itself; only differences between replies to one context mean something (Bradley and Terry, 1952)
    binary     P(positive | context, reply) = 1 / (1 + exp(-z)), and the reward 2 (P - 0.5) = tanh(z / 2) (chatmgl.md)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from heedful.errors import ConfigError, NotFoundError
from heedful.formats.base import encode, marks, neutral, opening
from heedful.models import encoder
from heedful.models.causal import REWARD_FILE, check_architecture, need_train_extra, offline, offline_hint, resolve_path
from heedful.models.delta import expected_warnings
from heedful.types import Conversation

RECORD = REWARD_FILE
"""In a run's folder: how texts are written, what was trained on what."""
VERSION = 1
REMEMBER = 100_000
"""Distinct inputs whose value is kept."""

Floats = npt.NDArray[np.float64]
Kind = Literal["encoder", "causal"]
Squash = Literal["none", "sigmoid", "tanh"]


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How a context and a reply become one text: ChatMGL's form, unless told otherwise.

    Runs of turns by one speaker are joined first; system turns are left out.

    Args:
        user, assistant: what is written for a turn of each role; `{text}` stands for its words.
        turns: how many (joined) turns before the reply are shown; None = all.
    """

    user: str = "Human:{text}\n\n"
    assistant: str = " Assistant:{text}\n\n"
    turns: int | None = 1

    def __post_init__(self) -> None:
        for role, form in (("user", self.user), ("assistant", self.assistant)):
            if form.count("{text}") != 1:
                raise ConfigError(
                    f"texts.{role} must hold {{text}} once, where the words of a turn go, as in 'Human:{{text}}'."
                )
        if self.turns is not None and self.turns < 0:
            raise ConfigError(f"context must be a number of turns from 0 on, or null for all, but it is {self.turns}.")

    def before(self, context: Conversation, tokenizer: Any) -> str:
        """The text in front of the reply."""
        turns = [turn for turn in context.merged().turns if turn.role != "system"]
        shown = turns if self.turns is None else turns[len(turns) - min(self.turns, len(turns)) :]
        return "".join(self._write(turn.role, turn.text, tokenizer) for turn in shown)

    def reply(self, text: str, tokenizer: Any) -> str:
        """The text of the reply."""
        return self._write("assistant", text, tokenizer)

    def _write(self, role: str, text: str, tokenizer: Any) -> str:
        words = text.strip()
        # A typed end token would cut the text where the model looks for its last token.
        words = neutral(words, marks(words, tokenizer))
        return (self.user if role == "user" else self.assistant).replace("{text}", words)


def to_ids(
    context: Conversation, reply: str, tokenizer: Any, *, wording: Wording, max_length: int
) -> tuple[tuple[int, ...], int]:
    """Token ids of one input, and how many were left out.

    What does not fit is cut: first the oldest words of the context, then the end of the reply.
    """
    first, last = _edges(tokenizer)
    room = max(max_length - len(first) - len(last), 1)
    tail = encode(wording.reply(reply, tokenizer), tokenizer)
    head = encode(wording.before(context, tokenizer), tokenizer)
    over = max(len(head) + len(tail) - room, 0)
    return (*first, *head[over:], *tail[:room], *last), over


def _edges(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What an encoder wants around a text; what a causal model wants in front of it."""
    if tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None:
        return (int(tokenizer.cls_token_id),), (int(tokenizer.sep_token_id),)
    begin = opening(tokenizer)
    return (encode(begin, tokenizer) if begin else ()), ()


def padded(rows: Sequence[Sequence[int]], *, pad_id: int) -> dict[str, Any]:
    """Rows of ids as tensors [B, T], padded on the right, with their attention mask."""
    import torch

    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row)
        mask[at, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


@dataclass(kw_only=True)
class RewardModel:
    """A reward model ready to judge.

    Args:
        record: what `reward.json` says: objective, wording, data and split it was trained on.
        token_budget: tokens in one pass, padding included.
    """

    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    record: Mapping[str, Any] = field(repr=False)
    name: str
    token_budget: int = 8192
    _known: dict[tuple[int, ...], float] = field(default_factory=dict, repr=False)

    @property
    def objective(self) -> str:
        """`pairwise` or `binary`."""
        return str(self.record["objective"])

    @property
    def wording(self) -> Wording:
        """How texts are written."""
        return Wording(**self.record["wording"])

    def logits(self, asked: Sequence[tuple[Conversation, str]]) -> Floats:
        """z of every (context, reply), [N]; each distinct input goes through the model once."""
        wording, longest = self.wording, int(self.record["max_length"])
        keys = [to_ids(c, r, self.tokenizer, wording=wording, max_length=longest)[0] for c, r in asked]
        new = sorted({key for key in keys if key not in self._known}, key=lambda key: (-len(key), key))
        found = {key: self._known[key] for key in keys if key in self._known}
        start = 0
        while start < len(new):
            batch = new[start : start + max(1, self.token_budget // len(new[start]))]
            start += len(batch)
            found.update(zip(batch, self._pass(batch), strict=True))
        if len(self._known) + len(new) > REMEMBER:
            self._known.clear()
        self._known.update(found)
        return np.array([found[key] for key in keys], dtype=np.float64)

    def rewards(self, asked: Sequence[tuple[Conversation, str]], *, squash: Squash | None = None) -> Floats:
        """The reward of every (context, reply), [N].

        Args:
            squash: `none` z, `sigmoid` P in (0, 1), `tanh` 2 (P - 0.5) in (-1, 1); None = the objective's own: `none`
                for pairwise, `tanh` for binary.
        """
        squash = squash or ("tanh" if self.objective == "binary" else "none")
        z = self.logits(asked)
        if squash == "none":
            return z
        centred = np.tanh(z / 2)
        return centred if squash == "tanh" else (centred + 1) / 2

    def _pass(self, rows: Sequence[tuple[int, ...]]) -> list[float]:
        import torch

        self.model.eval()
        device = next(self.model.parameters()).device
        batch = {k: v.to(device) for k, v in padded(rows, pad_id=int(self.model.config.pad_token_id)).items()}
        with torch.inference_mode():
            z: list[float] = self.model(**batch).logits[:, 0].double().tolist()
        return z


def place_of(name: str) -> str:
    """Folder or hub name behind `name`: an embedded encoder, an embedded language model, or a place.

    Raises:
        MissingExtraError: the package with the embedded weights is not installed.
        NotFoundError: a path that does not exist.
    """
    return str(encoder.embedded_path(name)) if name in encoder.EMBEDDED else resolve_path(name)


def kind_of(place: str, *, named: str) -> Kind:
    """Whether the model at `place` reads both ways or only backwards.

    Raises:
        NotFoundError: no model there.
        ConfigError: neither of the two.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if (Path(place) / "adapter_config.json").is_file():  # only causal models are trained with adapters elsewhere
        return "causal"
    try:
        config = AutoConfig.from_pretrained(place, local_files_only=offline())
    except (OSError, ValueError) as err:
        raise _not_there(named) from err
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not (
        config.is_encoder_decoder or getattr(config, "is_decoder", False)
    ):
        return "encoder"
    check_architecture(place, writes=False)
    return "causal"


def with_one_output(place: str, *, named: str) -> tuple[Any, Any]:
    """The model at `place` with one output on top (its weights are random where the checkpoint has none), fp32.

    Returns:
        model, tokenizer.

    Raises:
        NotFoundError: no such weights, or weights that are not safetensors.
        ConfigError: an architecture without a classification head, or a tokenizer without an end or a padding token.
    """
    need_train_extra()
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=offline())
        with _quiet():
            model = AutoModelForSequenceClassification.from_pretrained(
                place, num_labels=1, dtype=torch.float32, use_safetensors=True, local_files_only=offline()
            )
    except OSError as err:
        raise _not_there(named) from err
    except ValueError as err:
        kind = type(err).__name__
        raise ConfigError(
            f"The model '{named}' cannot judge replies: transformers has no classification head for it ({kind}); use "
            "minilm, another encoder, or a causal language model such as SmolLM2, Llama or Qwen."
        ) from err
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if pad is None:
        raise ConfigError(f"The tokenizer of '{named}' has neither a padding nor an end token; give it one of them.")
    # A causal model's head finds the last token as the last one that is not padding.
    model.config.pad_token_id = int(pad)
    return model, tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the table of weights that the checkpoint lacks: the new output is one, as it should be."""
    from transformers.utils import logging

    was = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(was)


def _not_there(named: str) -> NotFoundError:
    return NotFoundError(
        f"Cannot load the model '{named}'{offline_hint()}; expected minilm, an embedded language model, a folder with "
        "config.json, tokenizer and safetensors weights, or a Hugging Face name that is in the cache or reachable."
    )


def save(folder: Path, model: Any, tokenizer: Any, record: Mapping[str, Any]) -> None:
    """Write weights (safetensors), tokenizer and `reward.json`."""
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    scratch = folder / f"{RECORD}.part"
    scratch.write_text(json.dumps({"version": VERSION, **record}, indent=2) + "\n", "utf-8")
    os.replace(scratch, folder / RECORD)


def load(path: str | Path, *, device: str | None = None) -> RewardModel:
    """The reward model that `heedful train method=reward` left in `path`. Nothing is unpickled.

    Raises:
        NotFoundError: no such folder, or its base model is not here.
        ConfigError: the folder holds something else.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise NotFoundError(f"There is no reward model at '{path}'; train one with: heedful train method=reward")
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        missing = {"objective", "wording", "max_length", "base"} - set(record)
    except (OSError, ValueError, TypeError):
        missing = {RECORD}
    if missing or record.get("version") != VERSION:
        raise ConfigError(
            f"'{path}' is no reward model of this heedful: expected a {RECORD} (version {VERSION}) with objective, "
            "wording, max_length and base; train one with: heedful train method=reward"
        )
    need_train_extra()
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if (folder / "adapter_config.json").is_file():
        model, tokenizer = _with_adapter(folder, str(record["base"]))
    else:
        model, tokenizer = with_one_output(str(folder), named=str(path))
    return RewardModel(model=model.to(device).eval(), tokenizer=tokenizer, record=record, name=str(path))


def _with_adapter(folder: Path, base: str) -> tuple[Any, Any]:
    from peft import PeftModel

    kept = folder / "base"
    model, tokenizer = with_one_output(str(kept) if kept.is_dir() else place_of(base), named=base)
    with expected_warnings():
        return PeftModel.from_pretrained(model, str(folder), use_safetensors=True), tokenizer


@lru_cache(maxsize=4)
def _loaded(folder: str, stamp: int) -> RewardModel:
    return load(folder)


def shared(path: str | Path) -> RewardModel:
    """`load`, once per process and state of the folder.

    Raises:
        NotFoundError, ConfigError: see `load`.
    """
    folder = Path(path).expanduser().absolute()
    record = folder / RECORD
    return _loaded(str(folder), record.stat().st_mtime_ns if record.is_file() else 0)


def wording_of(wording: Wording) -> dict[str, Any]:
    """The JSON form, as in the record."""
    return asdict(wording)
