"""`chat`: the model's own chat template, with our system turn.

The text equals the tokenizer's reference template (tested), so a base model is used as it was trained. A tokenizer
without a template (GPT-2) gets `PLAIN`, one line a turn with its end token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import ClassVar

from heedful.errors import ConfigError
from heedful.formats.base import Format, before_end, clean, merged
from heedful.formats.sample import Reply, Tokenizer
from heedful.types import Conversation, Turn

PLAIN_ROLES = {"system": "", "user": "Seeker: ", "assistant": "Supporter: "}


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

    def prepare(self, conv: Conversation) -> Conversation:
        return merged(conv) if self.merge_turns else conv

    def prompt(self, context: Conversation, tokenizer: Tokenizer, *, start: int = 0) -> str:
        return self._write(context.turns[start:], tokenizer, generation=True)

    def target(self, turn: Turn, tokenizer: Tokenizer) -> tuple[str, str]:
        # Without a template the blank after the role is part of the reply, as byte-level vocabularies have it.
        blank = "" if tokenizer.chat_template else " "
        return "", blank + clean(turn, tokenizer) + (tokenizer.eos_token or "")

    def parse(self, text: str, tokenizer: Tokenizer) -> Reply:
        return Reply(text=before_end(text, tokenizer))

    def _write(self, turns: tuple[Turn, ...], tokenizer: Tokenizer, *, generation: bool) -> str:
        system = shipped_prompt("supporter") if self.system is None else self.system
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": t.role, "content": clean(t, tokenizer)} for t in turns]
        if not tokenizer.chat_template:
            return _plain(messages, tokenizer, generation=generation)
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
        except Exception as err:  # Jinja errors of the model's template come in many classes
            raise ConfigError(
                "The chat template of this model refuses the conversation "
                f"({type(err).__name__}); set format.merge_turns: true or choose another format."
            ) from err
        return str(text)


def _plain(messages: list[dict[str, str]], tokenizer: Tokenizer, *, generation: bool) -> str:
    end = tokenizer.eos_token or ""
    text = "".join(f"{PLAIN_ROLES[m['role']]}{m['content']}{end}\n" for m in messages)
    return text + PLAIN_ROLES["assistant"].rstrip() if generation else text
