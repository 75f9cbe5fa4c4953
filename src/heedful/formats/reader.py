"""`reader`: the last few utterances under speakers' marks, then the next utterance (reader.md; Srivastava et al. 2023).

    <sos> >>P: I can't sleep. _eou_ <sos> >>T: Since when? _eou_ <sos> >>P: Since May. <eos> Every night?

The target is the next utterance of whoever speaks next, as in the released code. With `act_prefix` it begins with a
token of its dialogue act, `<act=YNQ>`; the paper does not say how the act steers the words, so that is off by default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from heedful import taxonomy
from heedful.errors import ConfigError
from heedful.formats.base import Format, clean, neutral, opening
from heedful.formats.qa import token as act_token
from heedful.formats.sample import Reply, Sample, Tokenizer, Window
from heedful.types import Conversation, Role, Turn

SOS, EOS, EOU = "<sos>", "<eos>", "_eou_"
SPEAKERS: dict[Role, str] = {"system": ">>N:", "user": ">>P:", "assistant": ">>T:"}
_MARK = re.compile(r">>(?=\s*[NPT]\s*:)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ReaderFormat(Format):
    """Options:
    window: utterances before the reply that are shown.
    target_speaker: whose utterances are learnt, of either speaker (`any`, as released) or of the `therapist`.
    act_prefix: let the model write the act of the reply before its words.
    act_set: label set of the acts.
    """

    name: ClassVar[str] = "reader"
    window: int = 4
    target_speaker: Literal["any", "therapist"] = "any"
    act_prefix: bool = False
    act_set: str = "hope_act"

    def __post_init__(self) -> None:
        super().__post_init__()
        taxonomy.get(self.act_set)
        if self.window < 1:
            raise ConfigError(f"format.window of 'reader': expected at least 1 utterance, but got {self.window}.")

    @property
    def markers(self) -> tuple[str, ...]:
        acts = (*taxonomy.get(self.act_set).names, None) if self.act_prefix else ()
        return (SOS, EOS, *(act_token(act) for act in acts))

    @property
    def reads(self) -> Mapping[str, tuple[Role, str]]:
        return {"act_prefix": ("assistant", self.act_set)} if self.act_prefix else {}

    @property
    def written(self) -> frozenset[Role]:
        return frozenset({"user", "assistant"}) if self.target_speaker == "any" else super().written

    def speakers(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        return tuple(SPEAKERS.values())

    def identity(self) -> dict[str, Any]:
        options = super().identity()
        return {**options, "labels": taxonomy.get(self.act_set).hash} if self.act_prefix else options

    def words(self, turn: Turn, tokenizer: Tokenizer) -> str:
        # The marks of speakers begin with signs, which `clean` would only break where a blank stands before them.
        return neutral(_MARK.sub("> >", clean(turn, tokenizer, self.markers)), (EOU,))

    def targets(self, conv: Conversation) -> list[int]:
        return conv.targets(role="any" if self.target_speaker == "any" else "assistant")

    def prompt(self, context: Conversation, tokenizer: Tokenizer, *, start: int = 0) -> str:
        shown = context.turns[max(start, len(context) - self.window) :]
        said = f" {EOU} ".join(f"{SOS} {SPEAKERS[t.role]} {self.words(t, tokenizer)}" for t in shown)
        return f"{opening(tokenizer)}{said} {EOS}"

    def target(self, turn: Turn, tokenizer: Tokenizer) -> tuple[str, str]:
        act = turn.label(self.act_set)
        plan = act_token(act if act in taxonomy.get(self.act_set).names else None) if self.act_prefix else ""
        return plan, f" {self.words(turn, tokenizer)}{tokenizer.eos_token or ''}"

    def parse(self, text: str, tokenizer: Tokenizer) -> Reply:
        text = self.before_end(text, tokenizer)
        for act in (*taxonomy.get(self.act_set).names, None) if self.act_prefix else ():
            if text.startswith(act_token(act)):
                words = text.removeprefix(act_token(act)).strip()
                return Reply(text=words, plan={self.act_set: act} if act else {})
        return Reply(text=text)

    def _sample(
        self, conv: Conversation, index: int, tokenizer: Tokenizer, *, window: Window, start: int
    ) -> Sample | None:
        # Contexts that slide share no beginning: each sample says where its own begins and becomes a tree of its own.
        return super()._sample(conv, index, tokenizer, window=window, start=max(start, index - self.window))
