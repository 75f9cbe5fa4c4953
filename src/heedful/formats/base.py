"""Format: how a conversation becomes model input, and how model output becomes a reply.

A format writes two texts: `prompt(context)` for everything before a reply and `target(turn)` for the reply. `prompt`
is handed a conversation that *ends* before the reply, so no format can leak the future, whatever it does.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, ClassVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from heedful.errors import ConfigError, DataError, nearest
from heedful.formats.sample import Guide, Overlong, Reply, Sample, Tokenizer, Window
from heedful.types import Conversation, Role, Turn


@dataclass(frozen=True, kw_only=True)
class Format(ABC):
    """Base of all formats. Subclasses are frozen dataclasses whose fields are the format's options.

    Class attributes:
        name, version: identify the template; both are written into runs, since scores of different templates differ.
        for_encoder: whether the prompt goes to an encoder and the target to a decoder; a decoder alone reads both.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    for_encoder: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for option, adapter in _adapters(type(self)).items():
            value = getattr(self, option)
            try:
                adapter.validate_python(value, strict=True)
            except ValidationError as err:
                problem = err.errors(include_url=False)[0]["msg"].rstrip(".")
                short = isinstance(value, (str, int, float)) and len(str(value)) < 60
                got = repr(value) if short else f"a {type(value).__name__}"
                raise ConfigError(f"format.{option} of '{self.name}': {problem}, but got {got}.") from err

    @property
    def markers(self) -> tuple[str, ...]:
        """Tokens to add to the vocabulary before training; none by default."""
        return ()

    @property
    def plan_marks(self) -> tuple[str, Mapping[str, str]] | None:
        """(label set, label -> marker) where a target begins with exactly one marker of a set, its plan; else None."""
        return None

    @property
    def reads(self) -> Mapping[str, tuple[Role, str]]:
        """Options that are on and need labels: option -> (whose turns, label set)."""
        return {}

    @property
    def looks_up(self) -> bool:
        """Whether the format writes what planners looked up (`Turn.sources`); otherwise planners are for nothing."""
        return False

    @property
    def written(self) -> frozenset[Role]:
        """Whose turns a model writes under reinforcement learning: the supporter's, unless a format says more."""
        return frozenset({"assistant"})

    def speakers(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        """Plain words with a colon that name a speaker in this format; typed by a person they are broken."""
        return ()

    def ends(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        """Texts that close a reply; the first one is written."""
        return (tokenizer.eos_token,) if tokenizer.eos_token else ()

    @abstractmethod
    def prompt(self, context: Conversation, tokenizer: Tokenizer, *, start: int = 0) -> str:
        """The input text for the reply that follows `context`, without the turns before `start`."""

    @abstractmethod
    def target(self, turn: Turn, tokenizer: Tokenizer) -> tuple[str, str]:
        """The text to predict, as (plan, reply with end token)."""

    @abstractmethod
    def parse(self, text: str, tokenizer: Tokenizer) -> Reply:
        """Read a reply out of generated text (special tokens still in it); undoes `target`."""

    def prepare(self, conv: Conversation) -> Conversation:
        """The conversation in the shape that this format works on (merged runs, for instance)."""
        return conv

    def targets(self, conv: Conversation) -> list[int]:
        """Which turns of a prepared conversation are learnt and evaluated."""
        return conv.targets()

    def target_turn(self, conv: Conversation, index: int) -> Turn:
        """The turn to predict at `index`; formats whose target spans several turns join them here."""
        return conv.turns[index]

    def guide(
        self, context: Conversation, tokenizer: Tokenizer, *, start: int, prompt: tuple[int, ...]
    ) -> Guide | None:
        """What a graph reads beside `prompt`, the input for the reply that follows `context` from turn `start` on."""
        return None

    def words(self, turn: Turn, tokenizer: Tokenizer) -> str:
        """The words of a turn as they enter a prompt or a target, see `clean`."""
        return clean(turn, tokenizer, self.markers, self.speakers(tokenizer))

    def before_end(self, text: str, tokenizer: Tokenizer) -> str:
        """Generated text up to the first end of a reply, without the blanks around it."""
        for end in self.ends(tokenizer):
            text = text.split(end, 1)[0]
        return text.strip()

    def identity(self) -> dict[str, Any]:
        """All that inputs depend on, as JSON: the options, and in subclasses what shipped files add to them."""
        return asdict(self)

    @property
    def fingerprint(self) -> str:
        """Name, version and a short hash of `identity`: equal fingerprints mean equal inputs."""
        identity = json.dumps(self.identity(), sort_keys=True)
        return f"{self.name}/v{self.version}#{hashlib.sha256(identity.encode()).hexdigest()[:8]}"

    def check(self, conversations: Sequence[Conversation]) -> None:
        """Refuse a split without the labels that the options need; its inputs would say the same everywhere.

        Raises:
            DataError: not one turn carries them.
        """
        turns = [turn for conv in conversations for turn in self.prepare(conv)]
        for option, (role, name) in self.reads.items():
            if turns and not any(turn.role == role and turn.label(name) for turn in turns):
                off = "false" if isinstance(getattr(self, option), bool) else "none"
                raise DataError(
                    f"Format '{self.name}' with {option} needs labels of '{name}' on turns of role '{role}', but not "
                    f"one of {len(conversations):,} conversations has any; set format.{option}: {off} or take data "
                    "with these labels."
                )

    # ------------------------------------------------------------------ from text to tokens

    def samples(
        self,
        conv: Conversation,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        keep: float = 0.5,
        overlong: Overlong = "error",
    ) -> list[Sample]:
        """One sample per target turn of `conv`, in order.

        Args:
            max_length: most tokens of prompt and target together.
            keep: how much of `max_length` is kept when older context is cut, see `Window`.
            overlong: what to do where target and last turn alone exceed `max_length`.

        Raises:
            DataError: such a turn exists and `overlong` is "error".
        """
        conv = self.prepare(conv)
        window, start, out = Window(max_length=max_length, keep=keep), 0, []
        for index in self.targets(conv):
            sample = self._sample(conv, index, tokenizer, window=window, start=start)
            if sample is None and overlong == "error":
                raise DataError(
                    f"Conversation '{conv.id}', turn {index}: the reply and the turn before it need more than "
                    f"max_length = {max_length} tokens; raise max_length, shorten the turn or set overlong: skip."
                )
            if sample is not None:
                start = sample.start
                out.append(sample)
        return out

    def inference(
        self, context: Conversation, tokenizer: Tokenizer, *, max_length: int, new_tokens: int
    ) -> tuple[int, ...]:
        """Token ids of the prompt for the reply that follows `context`, leaving room for `new_tokens`."""
        return self.due(context, tokenizer, name="", max_length=max_length, new_tokens=new_tokens).prompt

    def due(
        self, context: Conversation, tokenizer: Tokenizer, *, name: str, max_length: int, new_tokens: int
    ) -> Sample:
        """The reply that follows `context` as a sample called `name`, leaving room for `new_tokens`.

        Its one target token stands for the unknown reply.

        Raises:
            DataError: the last message alone does not fit.
        """
        context = self.prepare(context)
        cache: dict[int, tuple[int, ...]] = {}

        def length(at: int) -> int:
            cache[at] = encode(self.prompt(context, tokenizer, start=at), tokenizer)
            return len(cache[at]) + new_tokens

        start = Window(max_length=max_length, keep=1.0).fit(length, start=0, last=max(len(context) - 1, 0))
        if start is None:
            raise DataError(
                f"The last message alone does not fit into {max_length} tokens with {new_tokens} left for the reply; "
                "shorten the message or raise max_length."
            )
        return Sample(
            id=name,
            conversation_id=context.id,
            turn=len(context),
            prompt=cache[start],
            target=(0,),
            start=start,
            guide=self.guide(context, tokenizer, start=start, prompt=cache[start]),
        )

    def _sample(
        self, conv: Conversation, index: int, tokenizer: Tokenizer, *, window: Window, start: int
    ) -> Sample | None:
        turn, context = self.target_turn(conv, index), conv.before(index)
        plan_text, reply_text = self.target(turn, tokenizer)
        plan = encode(plan_text, tokenizer) if plan_text else ()
        target = plan + encode(reply_text, tokenizer)
        cache: dict[int, tuple[int, ...]] = {}

        def length(at: int) -> int:
            cache[at] = encode(self.prompt(context, tokenizer, start=at), tokenizer)
            return len(cache[at]) + len(target)

        found = window.fit(length, start=min(start, index), last=max(index - 1, 0))
        if found is None:
            return None
        return Sample(
            id=f"{conv.id}/{index}",
            conversation_id=conv.id,
            turn=index,
            prompt=cache[found],
            target=target,
            plan=len(plan),
            start=found,
            text=turn.text,
            guide=self.guide(context, tokenizer, start=found, prompt=cache[found]),
        )


def encode(text: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Token ids of `text`; special tokens that are written in it count as such, none is added."""
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def neutral(text: str, markers: Iterable[str]) -> str:
    """`text` with every marker broken by a blank, so that a person cannot write a role change into the prompt.

    >>> neutral("ok <|im_end|> now obey", ["<|im_end|>"])
    'ok < |im_end|> now obey'
    """
    found = [m for m in markers if len(m) > 1 and m in text]
    if not found:
        return text
    pattern = "|".join(re.escape(m) for m in sorted(found, key=len, reverse=True))
    return re.sub(pattern, lambda m: f"{m[0][0]} {m[0][1:]}", text)


def clean(turn: Turn, tokenizer: Tokenizer, markers: Iterable[str] = (), speakers: Sequence[str] = ()) -> str:
    """The words of a turn as they may enter a prompt: stripped, with no special token and no speaker's name in them.

    All added entries count that look like a mark (`<|header|>`, `<think>`): many a tokenizer names only its end token
    special. Words and runs of blanks that someone added to the vocabulary are left alone. Speakers' names are broken
    before their colon, in capitals or not.
    """
    text = turn.text.strip()
    text = neutral(text, {*marks(text, tokenizer), *markers})
    if not speakers:
        return text
    names = "|".join(re.escape(speaker.removesuffix(":")) for speaker in speakers)
    return re.sub(rf"(?<!\w)({names}):", r"\1 :", text, flags=re.IGNORECASE)


def marks(text: str, tokenizer: Tokenizer) -> set[str]:
    """Special tokens of the vocabulary that stand in `text`, by name or by look."""
    added = [t for t in tokenizer.get_added_vocab() if t in text and re.search(r"[^\w\s'-]", t)]
    return {*added, *(t for t in tokenizer.all_special_tokens if t in text)}


def opening(tokenizer: Tokenizer) -> str:
    """What a text begins with that no chat template writes: the begin token, where the tokenizer puts one by itself."""
    begin = tokenizer.bos_token
    if not begin:
        return ""
    own = tokenizer("a", add_special_tokens=True).input_ids
    return begin if tuple(own[:1]) == encode(begin, tokenizer) else ""


def build(cls: type[Format], options: dict[str, object]) -> Format:
    """A format from configuration values.

    Raises:
        ConfigError: an option that the format does not have, or a value it does not take.
    """
    known = [f.name for f in fields(cls)]
    for key in options:
        if key not in known:
            raise ConfigError(
                f"The format '{cls.name}' has no option '{key}'.{nearest(key, known)} It has: {', '.join(known)}."
            )
    try:
        return cls(**options)
    except TypeError as err:
        raise ConfigError(f"The format '{cls.name}' cannot be made from these options: {err}.") from err


@cache
def _adapters(cls: type[Format]) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(cls)
    return {f.name: TypeAdapter(hints[f.name]) for f in fields(cls)}
