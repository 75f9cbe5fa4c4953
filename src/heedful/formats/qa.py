"""`qa`: question-answer pairs the way ChatMGL's adaptation builds them (chatmgl.md, part B).

    patient: ... <|sep|> therapist: ...                      acts: none
    patient: <act=ID>... <|sep|> therapist: ...              acts: prefix
    patient: ... <|sep|><act=IRQ> therapist: ...             acts: joint

`v1`: a patient turn directly followed by a therapist turn. `v2`: one sample for every patient turn that some reply
follows; its input is all patient turns so far, its target all therapist turns up to that reply (several patient turns
in a row share the reply that follows them). `shift`: every turn is the target of the turn before it, whoever speaks;
`patient:` and `therapist:` name who does.

The adaptation announces dialogue acts and describes no input that has them, so both uses are ours. `prefix`: every
utterance of the input begins with its gold act; the last one is the utterance that is answered. `joint`: the target
begins with the act of the reply, which the model learns and predicts. `<act=none>` stands where there is no label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from heedful import taxonomy
from heedful.formats.base import Format, opening
from heedful.formats.sample import Reply, Tokenizer
from heedful.types import Conversation, Role, Turn

SEP = "<|sep|>"
SPEAKERS: dict[Role, str] = {"system": "note:", "user": "patient:", "assistant": "therapist:"}
Loader = Literal["v1", "v2", "shift"]
Acts = Literal["none", "prefix", "joint"]


def token(act: str | None) -> str:
    """The vocabulary entry of an act.

    >>> token("IRQ"), token(None)
    ('<act=IRQ>', '<act=none>')
    """
    return f"<act={act or 'none'}>"


@dataclass(frozen=True, kw_only=True)
class QAFormat(Format):
    """Options:
    loader: `v1`, `v2` or `shift`.
    merge_turns: join runs of one speaker first (`v1_merged` of the spec).
    acts: `prefix` writes the act of each utterance into the input, `joint` has the model write that of its reply.
    act_set: label set of the acts; another one stands in where a corpus has no acts.
    """

    name: ClassVar[str] = "qa"
    version: ClassVar[int] = 2
    loader: Loader = "v1"
    merge_turns: bool = False
    acts: Acts = "none"
    act_set: str = "hope_act"

    def __post_init__(self) -> None:
        super().__post_init__()
        taxonomy.get(self.act_set)  # refused before any data is read

    @property
    def markers(self) -> tuple[str, ...]:
        names = (*taxonomy.get(self.act_set).names, None) if self.acts != "none" else ()
        return (SEP, *(token(name) for name in names))

    @property
    def reads(self) -> Mapping[str, tuple[Role, str]]:
        if self.acts == "none":
            return {}
        return {"acts": ("user" if self.acts == "prefix" else "assistant", self.act_set)}

    def identity(self) -> dict[str, Any]:
        options = super().identity()
        if self.acts == "none":  # the set is not used then, and what is written is what version 2 always wrote
            return {key: value for key, value in options.items() if key not in ("acts", "act_set")}
        return {**options, "labels": taxonomy.get(self.act_set).hash}

    def speakers(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        return tuple(SPEAKERS.values())

    def prepare(self, conv: Conversation) -> Conversation:
        return conv.merged() if self.merge_turns else conv

    def targets(self, conv: Conversation) -> list[int]:
        turns = conv.turns
        if self.loader == "shift":
            return list(range(1, len(turns)))
        if self.loader == "v2":
            # The place after each patient turn, whoever speaks there: the reply may come later.
            last = max(conv.targets(), default=0)
            return [i for i in range(1, last + 1) if turns[i - 1].role == "user"]
        return [i for i in conv.targets() if turns[i - 1].role == "user"]

    def target_turn(self, conv: Conversation, index: int) -> Turn:
        if self.loader != "v2":
            return conv.turns[index]
        # Cumulative targets: what the therapist said so far belongs to the answer, not to the question.
        reply = next(i for i in conv.targets() if i >= index)
        said = [t.text.strip() for t in conv.turns[: reply + 1] if t.role == "assistant"]
        return replace(conv.turns[reply], text=" ".join(said))

    def prompt(self, context: Conversation, tokenizer: Tokenizer, *, start: int = 0) -> str:
        turns = context.turns[start:]
        asked = [t for t in turns if t.role == "user"] if self.loader == "v2" else list(turns[-1:])
        speaker = SPEAKERS[asked[-1].role if asked else "user"]
        return f"{opening(tokenizer)}{speaker} {' '.join(self._asked(t, tokenizer) for t in asked)}{SEP}"

    def target(self, turn: Turn, tokenizer: Tokenizer) -> tuple[str, str]:
        plan = self._act(turn) if self.acts == "joint" else ""
        return plan, f" {SPEAKERS[turn.role]} {self.words(turn, tokenizer)}{tokenizer.eos_token or ''}"

    def parse(self, text: str, tokenizer: Tokenizer) -> Reply:
        text = self.before_end(text, tokenizer)
        names = (*taxonomy.get(self.act_set).names, None) if self.acts == "joint" else ()
        act = next((name for name in names if text.startswith(token(name))), None)
        text = text.removeprefix(token(act)).strip() if names else text
        speaker = next((s for s in SPEAKERS.values() if text.startswith(s)), "")
        return Reply(text=text.removeprefix(speaker).strip(), plan={self.act_set: act} if act else {})

    def _asked(self, turn: Turn, tokenizer: Tokenizer) -> str:
        words = self.words(turn, tokenizer)
        return self._act(turn) + words if self.acts == "prefix" else words

    def _act(self, turn: Turn) -> str:
        act = turn.label(self.act_set)
        return token(act if act in taxonomy.get(self.act_set).names else None)
