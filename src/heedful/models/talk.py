"""A talk in progress: the conversation so far, and the model's next turn, streamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from heedful.errors import UserError
from heedful.formats import Format, Reply, Sample
from heedful.models.causal import CausalModel
from heedful.models.decoding import Decoding, Written
from heedful.models.generate import generate
from heedful.models.pairs import check_fits
from heedful.models.plan import PlanRule
from heedful.types import Conversation, Label, Turn


class Plans(Protocol):
    """Whatever adds labels and sources to conversations; `heedful.agents.Planners` does."""

    def plan(self, conversations: Sequence[Conversation]) -> list[Conversation]: ...


class Chooses(Protocol):
    """Whatever says how the plan before a reply is chosen; `heedful.agents.plan.PlanSetting` does."""

    def rule(self, vocabulary: Mapping[str, int], contexts: Mapping[str, Conversation]) -> PlanRule: ...

    def described(self, probabilities: Sequence[float]) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A reply and what it was made from.

    Args:
        thought: the plan by label set, `sources` that were looked up, `probabilities` by label set where a plan was
            chosen among labels.
    """

    reply: Reply = field(repr=False)
    written: Written = field(repr=False)
    thought: Mapping[str, Any] = field(repr=False)


def answer(
    causal: CausalModel,
    fmt: Format,
    context: Conversation,
    sample: Sample,
    decoding: Decoding,
    *,
    plan: Chooses | None = None,
    on_text: Callable[[str], object] | None = None,
    on_token: Callable[[str, int], None] | None = None,
) -> Answer:
    """Write the reply that follows `context`.

    Args:
        sample: its prompt, as `fmt.due` makes it; its id keys the random stream.
        plan: how the plan of the reply is chosen; None: like any other token.
        on_text: gets the words as they appear. on_token: gets sample id and token; what it raises ends the reply.
    """
    tokenizer = causal.tokenizer
    stream = ReplyStream(fmt, tokenizer, on_text) if on_text else None

    def token(name: str, written: int) -> None:
        if stream:
            stream.token(name, written)
        if on_token:
            on_token(name, written)

    rule = None if plan is None else plan.rule(tokenizer.get_vocab(), {sample.id: context})
    banned = unwritable(fmt, tokenizer)
    made = next(iter(generate(causal, [sample], decoding, banned=banned, plan=rule, on_token=token)))[0].written
    reply = fmt.parse(tokenizer.decode(made.tokens, skip_special_tokens=False), tokenizer)
    if stream:
        stream.show(reply.text)
    return Answer(reply=reply, written=made, thought=thought_of(reply, context, plan, made.probabilities))


def thought_of(
    reply: Reply, context: Conversation, plan: Chooses | None, probabilities: Sequence[float]
) -> dict[str, Any]:
    """What a reply was made from, see `Answer.thought`; `probabilities` are those of the plan's labels."""
    found = {**reply.plan, "sources": [dict(source) for source in context.sources()]}
    return found if plan is None else {**found, **plan.described(probabilities)}


class Talk:
    """One conversation with one model. Nothing is written anywhere; `conversation` is the only memory.

    Args:
        max_length: prompt and reply together, in tokens.
        planners: asked before each reply.
        plan: how the plan of each reply (its strategy) is chosen; None: like any other token. It may be set anew at
            any time, to force a strategy for one reply.
        origin: folder or name that the model was loaded from.

    Raises:
        ConfigError: the format is made for the other kind of model.
    """

    def __init__(
        self,
        causal: CausalModel,
        fmt: Format,
        decoding: Decoding,
        *,
        max_length: int = 1024,
        planners: Plans | None = None,
        plan: Chooses | None = None,
        origin: str = "",
    ) -> None:
        check_fits(causal, fmt)
        self.origin = origin
        self.causal, self.fmt, self.decoding = causal, fmt, decoding
        self.max_length, self.planners, self.plan = max_length, planners, plan
        self.thought: dict[str, Any] = {}
        self.conversation = Conversation(id="talk", turns=(), source="chat")

    def say(self, text: str) -> None:
        """Add the person's turn.

        Raises:
            UserError: it is empty, or holds half a character (a terminal that does not speak UTF-8).
        """
        if not text.strip():
            raise UserError("There is nothing in that message; write something, or /quit.")
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise UserError("That message is not UTF-8 text; set the terminal to UTF-8 and write it again.")
        self._add(Turn(role="user", text=text.strip()))

    def reply(self, on_text: Callable[[str], None] | None = None) -> Reply:
        """Write the supporter's turn and add it; `on_text` gets pieces of it as they appear.

        Raises:
            DataError: the last message does not fit into `max_length`; the talk stays as it was.
        """
        if self.planners is not None:
            self.conversation = self.planners.plan([self.conversation])[0]
        # The random stream is keyed by how far the talk has come, so that /undo and a new try give another reply only
        # if the words before it changed: the same talk can be repeated exactly.
        name = f"talk/{len(self.conversation)}"
        made = answer(
            self.causal,
            self.fmt,
            self.conversation,
            self._due(name),
            self.decoding,
            plan=self.plan,
            on_text=on_text,
        )
        reply, self.thought = made.reply, dict(made.thought)
        # The plan is a part of the talk: formats write it into the next prompt, as they did in training.
        labels = tuple(Label(set=name, value=value, source="model") for name, value in reply.plan.items())
        self._add(Turn(role="assistant", text=reply.text, labels=labels))
        return reply

    def undo(self) -> bool:
        """Take back the last exchange (both turns); False if there is none."""
        turns = self.conversation.turns
        last = max((i for i, t in enumerate(turns) if t.role == "user"), default=None)
        if last is None:
            return False
        self.conversation = replace(self.conversation, turns=turns[:last])
        return True

    def reset(self) -> None:
        """Forget the whole talk."""
        self.conversation = replace(self.conversation, turns=())

    def prompt(self) -> tuple[int, ...]:
        """Token ids of the input for the next reply."""
        return self._due("").prompt

    def _due(self, name: str) -> Sample:
        room = self.decoding.max_new_tokens
        limit = min(self.max_length, self.causal.max_length)
        return self.fmt.due(self.conversation, self.causal.tokenizer, name=name, max_length=limit, new_tokens=room)

    def why(self) -> dict[str, Any]:
        """What the next (or last) reply is made from: the exact prompt and every setting."""
        turns = self.conversation.turns
        before = turns[:-1] if turns and turns[-1].role == "assistant" else turns
        kept, self.conversation = self.conversation, replace(self.conversation, turns=before)
        try:
            ids = self.prompt() if before else ()
        finally:
            self.conversation = kept
        return {
            "model": self.causal.name,
            "note": self.causal.note,
            "format": self.fmt.fingerprint,
            "decoding": {k: getattr(self.decoding, k) for k in self.decoding.__dataclass_fields__},
            "prompt_tokens": len(ids),
            "prompt": self.causal.tokenizer.decode(ids, skip_special_tokens=False),
        }

    def _add(self, turn: Turn) -> None:
        self.conversation = replace(self.conversation, turns=(*self.conversation.turns, turn))


def unwritable(fmt: Format, tokenizer: Any) -> list[int]:
    """Special tokens other than the end and the format's own: written by a model, they would stand as words in a reply.

    Returns:
        Their ids, for `generate(banned=...)`.
    """
    allowed = {*fmt.markers, *(end.strip() for end in fmt.ends(tokenizer))}
    pairs = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return [i for i, token in pairs if token not in allowed]


class ReplyStream:
    """Tokens -> pieces of the reply; joined they are the reply, so what may still change is held back.

    That is half a character, blanks at the end, and whatever may turn out to be no words of the reply but its plan (an
    emotion before its marker, the beginning of a tag).
    """

    def __init__(self, fmt: Format, tokenizer: Any, on_text: Callable[[str], object]) -> None:
        self.fmt, self.tokenizer, self.on_text = fmt, tokenizer, on_text
        self.tokens: list[int] = []
        self.shown = ""
        # What the format writes before the words of a turn says what to wait for.
        before, _, _ = "".join(fmt.target(Turn(role="assistant", text="?"), tokenizer)).partition("?")
        self.awaited = [m for m in fmt.markers if m in before]
        self.leads = (*fmt.markers, *fmt.speakers(tokenizer), before.strip())

    def token(self, name: str, token: int) -> None:
        """One more token was written, for `generate(on_token=...)`."""
        self.tokens.append(token)
        self.feed(self.tokenizer.decode(self.tokens, skip_special_tokens=False))

    def feed(self, text: str) -> None:
        """Everything that was written so far, special tokens in it."""
        start = text.strip()
        undecided = any(len(start) < len(lead) and lead.startswith(start) for lead in self.leads)
        if not undecided and all(m in text for m in self.awaited):
            self.show(self.fmt.parse(text, self.tokenizer).text.rstrip("\ufffd").rstrip())

    def show(self, text: str) -> None:
        """Hand over what of `text` was not shown yet."""
        if len(text) > len(self.shown) and text.startswith(self.shown):
            self.on_text(text[len(self.shown) :])
            self.shown = text
