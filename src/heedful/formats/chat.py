"""`chat`: the model's own chat template, with our system turn.

The text equals the tokenizer's reference template (tested), so a base model is used as it was trained. A tokenizer
without a template (GPT-2) gets plain lines, one a turn with its end token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, ClassVar

from heedful.errors import ConfigError
from heedful.formats.base import Format, marks, opening
from heedful.formats.sample import Reply, Tokenizer
from heedful.types import Conversation, Turn

PLAIN_ROLES = {"system": "", "user": "Seeker: ", "assistant": "Supporter: "}
REPLY = "heedful"
"""A reply of which only the place matters: what follows it in a template is the end of a reply."""


@lru_cache(maxsize=8)
def shipped_prompt(name: str) -> str:
    """A prompt file of the package, without its last line break."""
    return resources.files("heedful.formats").joinpath("prompts", f"{name}.txt").read_text("utf-8").strip()


@dataclass(frozen=True, kw_only=True)
class ChatFormat(Format):
    """Options:
    system: text of the system turn; None takes the shipped `supporter` prompt, an empty text leaves it out (some
        templates then add their own).
    merge_turns: join runs of one speaker, for templates that insist on alternation.
    """

    name: ClassVar[str] = "chat"
    system: str | None = None
    merge_turns: bool = False

    def speakers(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        return () if tokenizer.chat_template else tuple(r.rstrip() for r in PLAIN_ROLES.values() if r)

    def ends(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        own = self._end_of_turn(tokenizer) if tokenizer.chat_template else ""
        return tuple(dict.fromkeys(end for end in (own, *super().ends(tokenizer)) if end))

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "system": self._system}

    def prepare(self, conv: Conversation) -> Conversation:
        return conv.merged() if self.merge_turns else conv

    def prompt(self, context: Conversation, tokenizer: Tokenizer, *, start: int = 0) -> str:
        messages = [{"role": t.role, "content": self.words(t, tokenizer)} for t in context.turns[start:]]
        return self._write(messages, tokenizer, generation=True)

    def target(self, turn: Turn, tokenizer: Tokenizer) -> tuple[str, str]:
        # Without a template the blank after the role is part of the reply, as byte-level vocabularies have it.
        blank = "" if tokenizer.chat_template else " "
        return "", blank + self.words(turn, tokenizer) + next(iter(self.ends(tokenizer)), "")

    def parse(self, text: str, tokenizer: Tokenizer) -> Reply:
        return Reply(text=self.before_end(text, tokenizer))

    @property
    def _system(self) -> str:
        return shipped_prompt("supporter") if self.system is None else self.system

    def _end_of_turn(self, tokenizer: Tokenizer) -> str:
        """What the template writes after a reply, up to its first special token; empty if it has none there."""
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": REPLY}]
        after = self._write(turns, tokenizer, generation=False).rpartition(REPLY)[2]
        # A token may begin another; the longest at the first place is the one that a tokenizer takes.
        found = min(marks(after, tokenizer), key=lambda t: (after.index(t), -len(t)), default="")
        return after[: after.index(found) + len(found)] if found else ""

    def _write(self, turns: list[dict[str, str]], tokenizer: Tokenizer, *, generation: bool) -> str:
        messages = [{"role": "system", "content": self._system}] if self._system else []
        messages += turns
        if not tokenizer.chat_template:
            return _plain(messages, tokenizer, generation=generation)
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
        except Exception as err:  # Jinja errors of the model's template come in many classes
            raise ConfigError(
                "The chat template of this model refuses the conversation "
                f"({type(err).__name__}); if it takes no system turn, set format.system: '', if it wants the speakers "
                "to alternate, set format.merge_turns: true; or choose another format."
            ) from err
        return str(text)


def _plain(messages: list[dict[str, str]], tokenizer: Tokenizer, *, generation: bool) -> str:
    end = tokenizer.eos_token or ""
    text = opening(tokenizer) + "".join(f"{PLAIN_ROLES[m['role']]}{m['content']}{end}\n" for m in messages)
    return text + PLAIN_ROLES["assistant"].rstrip() if generation else text
