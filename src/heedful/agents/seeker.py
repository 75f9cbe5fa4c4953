"""Simulated help-seekers: what a person might say next, so that a system can be judged. Nothing is trained on it.

`RunSeeker` is a run of `heedful train` with `format: seeker` (situation and dialogue in, the seeker's turn out), in the
place of the released simulator (USi, a BlenderBot-small; kemi.md, part B). `Recorded` says what the person really said,
which answers the corpus' own reply and no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from heedful import formats
from heedful.errors import ConfigError, NotFoundError
from heedful.formats import Format
from heedful.models import causal
from heedful.models.causal import CausalModel
from heedful.models.decoding import Decoding
from heedful.models.generate import generate, prompt_only
from heedful.models.talk import unwritable
from heedful.settings import read_yaml
from heedful.types import Conversation

DECODING = Decoding(max_new_tokens=40, min_new_tokens=5, repetition_penalty=1.03)
"""Greedy. The release names temperature, top-k and top-p, but no sampling, so that is what it does too."""


class Simulator(Protocol):
    """Writes the seeker's next turn."""

    @property
    def fingerprint(self) -> str:
        """What its words depend on."""

    def next(self, contexts: Sequence[Conversation]) -> list[str | None]:
        """The seeker's next words after each context; None or an empty text where it has none."""


@dataclass(frozen=True, kw_only=True)
class RunSeeker:
    """A run that learnt to write help-seekers' turns.

    Args:
        run: its folder.
        decoding: greedy with a repetition penalty of 1.03, 5 to 40 tokens, if not given.
    """

    run: str
    decoding: Decoding = DECODING

    def __post_init__(self) -> None:
        folder = Path(self.run).expanduser()
        if not (folder / "config.resolved.yaml").is_file():
            what = "is no run of heedful" if folder.is_dir() else "is no folder"
            raise NotFoundError(
                f"The simulated help-seeker '{self.run}' {what}; train one: heedful train method=sft dataset=esconv "
                "format=seeker output_dir=runs/seeker."
            )
        if "user" not in self._format.written:
            raise ConfigError(
                f"The run '{self.run}' (format '{self._format.name}') writes the supporter's turns, and a simulated "
                "help-seeker needs one that writes the seeker's; train it with format: seeker."
            )

    @cached_property
    def fingerprint(self) -> str:
        """Of weights, format and decoding."""
        settings = {name: getattr(self.decoding, name) for name in self.decoding.__dataclass_fields__}
        digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:8]
        return f"seeker/{causal.fingerprint(self._model)}/{self._format.fingerprint}/{digest}"

    def next(self, contexts: Sequence[Conversation]) -> list[str | None]:
        """As `Simulator.next`; older turns are left out where a context is longer than the run's `max_length`."""
        model, fmt = self._model, self._format
        limit = min(int(self._settings.get("max_length") or 1024), model.max_length)
        samples = [
            # Contexts of one talk share most of their words, which are read once.
            prompt_only(
                str(i),
                context.id,
                len(context),
                fmt.inference(context, model.tokenizer, max_length=limit, new_tokens=self.decoding.max_new_tokens),
            )
            for i, context in enumerate(contexts)
        ]
        out: list[str | None] = [None] * len(contexts)
        for batch in generate(model, samples, self.decoding, banned=unwritable(fmt, model.tokenizer)):
            for made in batch:
                text = model.tokenizer.decode(made.written.tokens, skip_special_tokens=False)
                out[int(made.id)] = fmt.parse(text, model.tokenizer).text
        return out

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return read_yaml(Path(self.run).expanduser() / "config.resolved.yaml")

    @cached_property
    def _format(self) -> Format:
        return formats.make(self._settings.get("format") or "chat")

    @cached_property
    def _model(self) -> CausalModel:
        return causal.load(self.run)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What the person really said next, after the corpus' own reply; None after any other reply or where nobody did.

    Args:
        conversations: the whole talks.
    """

    conversations: Sequence[Conversation] = field(repr=False)
    fingerprint: str = "recorded"

    def next(self, contexts: Sequence[Conversation]) -> list[str | None]:
        """As `Simulator.next`."""
        whole = {conv.id: conv for conv in self.conversations}
        return [_said(context, whole.get(context.id)) for context in contexts]


def _said(context: Conversation, whole: Conversation | None) -> str | None:
    if whole is None or [t.text for t in whole.turns[: len(context)]] != [t.text for t in context.turns]:
        return None
    return next((turn.text for turn in whole.turns[len(context) :] if turn.role == "user"), None)
