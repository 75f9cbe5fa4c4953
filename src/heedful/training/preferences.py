"""Preference data: which of two replies is the better one, or whether one reply is good.

From a file, in TRL's columns: `prompt, chosen, rejected`, or `prompt, completion, label` (true or false). From a
corpus: the better reply is what the supporter wrote, the worse one is made by `negatives`. A random reply of another
conversation teaches what belongs to this talk, not what is good support: docs/reward-models.md.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from heedful import corpora
from heedful.corpora.jsonl import is_jsonl, read_objects
from heedful.errors import ConfigError, DataError, LeakError, NotFoundError, shown
from heedful.training.config import DataSettings
from heedful.training.shared import leak_notes, load_split
from heedful.training.sharing import licence_of
from heedful.types import Conversation, Label, Trace, Turn

RANDOM = "random_reply"
Form = Literal["pairs", "answers"]
Cut = Callable[[Conversation], Sequence[tuple[int, Conversation, Turn]]]
"""Conversation -> (turn index, context, the supporter's turn) of every reply to learn from."""


class PreferenceSettings(DataSettings):
    """Which replies are compared. `dataset` is a corpus, a file of conversations or a file of preferences."""

    negatives: str | None = Field(
        default=None,
        description="where worse replies come from, for conversations: random_reply (the default) or a run's file of "
        "traces; a file of preferences brings its own",
    )
    eval_share: float = Field(
        default=0.1, gt=0, lt=1, description="conversations held out of a preference file that states no splits"
    )

    @model_validator(mode="after")
    def _no_test(self) -> PreferenceSettings:
        if self.train_split == "test":
            raise ValueError("train_split is test; what a model learnt from cannot test it, so take train")
        if self.train_split is not None and self.train_split == self.eval_split:
            raise ValueError(f"train_split and eval_split are both {self.train_split}; hold another one out")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """Two replies to one context, the better one named. Turns carry their labels, for formats that write a plan."""

    id: str
    conversation_id: str
    context: Conversation = field(repr=False)
    chosen: Turn = field(repr=False)
    rejected: Turn = field(repr=False)
    split: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One reply to a context, good or not."""

    id: str
    conversation_id: str
    context: Conversation = field(repr=False)
    reply: Turn = field(repr=False)
    label: bool
    split: str | None = None


Example = Preference | Answer


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """What a run learns from and what is held out; both of one form.

    Args:
        train, held: examples; `held` is empty where nothing is held out.
        form: `pairs` or `answers`.
        negatives: where the worse replies come from, in words.
        licence: of the data, see `sharing.licence_of`.
        hash, held_hash: 16 hex digits over ids and texts.
    """

    train: tuple[Example, ...] = field(repr=False)
    held: tuple[Example, ...] = field(repr=False)
    form: Form
    negatives: str
    licence: str | None
    notes: tuple[str, ...]
    hash: str
    held_hash: str | None

    def pairs(self, which: Literal["train", "held"]) -> list[Preference]:
        """The pairs of one side; empty where the form is another."""
        return [e for e in (self.train if which == "train" else self.held) if isinstance(e, Preference)]


def is_preference_file(name: str) -> bool:
    """Whether `name` is a file of preferences and not one of conversations; the first object tells."""
    if not is_jsonl(name) or not Path(name).is_file():
        return False
    first = next((record for _, record in islice(read_objects(name), 1)), {})
    return "messages" not in first and bool({"chosen", "rejected", "completion"} & set(first))


def gather(config: PreferenceSettings, *, seed: int, cut: Cut | None = None) -> Preferences:
    """Load, pair and check the data of a run.

    Args:
        seed: of random replies, and of what a file without splits holds out.
        cut: which replies of a conversation count; None = one for each joined supporter turn that answers the user.

    Raises:
        UserError: whatever is wrong with the data, in one sentence that quotes nobody.
    """
    if is_preference_file(config.dataset):
        return _from_file(config, seed=seed)
    train = load_split(config, config.train_split, config.max_train_conversations)
    held = load_split(config, config.eval_split, config.max_eval_conversations) if config.eval_split else []
    _refuse_test(c.split for c in train)
    notes = leak_notes(config, train, held)
    cut = cut or merged_replies
    source = config.negatives or RANDOM
    if source == RANDOM:
        pairs = [random_pairs(part, cut, draw=f"{seed}/{i}") for i, part in enumerate((train, held))]
        words = "replies of other conversations of the same split, drawn at random"
    else:
        traces = read_traces(source)
        pairs, equal = [], 0
        for part in (train, held):
            found, same = trace_pairs(part, traces)
            pairs.append(found)
            equal += same
        if not pairs[0]:
            raise DataError(
                f"None of the {len(traces):,} replies in {source} belongs to the {len(train):,} conversations of split "
                f"'{config.train_split}'; have a run write replies on that split: heedful eval run MODEL split=..."
            )
        notes += [f"replies equal to the supporter's were left out: {equal:,}"] if equal else []
        words = f"generated replies of {source}"
    return _made(pairs[0], pairs[1], form="pairs", negatives=words, licence=licence_of(train), notes=notes)


def _refuse_test(splits: Iterable[str | None]) -> None:
    count = sum(split == "test" for split in splits)
    if count:
        raise ConfigError(
            f"{count:,} of the training examples are of the split 'test'; what a model learnt from cannot test it. "
            "Set train_split: train."
        )


# ------------------------------------------------------------------------------------------- from conversations


def merged_replies(conv: Conversation) -> list[tuple[int, Conversation, Turn]]:
    """Every joined supporter turn that answers a joined user turn."""
    return [(pair.index, pair.context, pair.reply) for pair in corpora.pairs(conv)]


def random_pairs(conversations: Sequence[Conversation], cut: Cut, *, draw: str) -> list[Preference]:
    """The supporter's reply against one of another conversation; equal `draw`, equal pairs.

    Raises:
        DataError: fewer than two conversations have replies.
    """
    replies = [(conv, index, context, turn) for conv in conversations for index, context, turn in cut(conv)]
    if not replies and not conversations:
        return []
    if len({conv.id for conv, *_ in replies}) < 2:
        raise DataError(
            f"negatives: {RANDOM} needs replies of at least two conversations of a split, but only "
            f"{len({conv.id for conv, *_ in replies})} of {len(conversations)} has any."
        )
    chance, found = random.Random(draw), []
    for conv, index, context, turn in replies:
        for _ in range(100):  # equal stock replies are common, a talk that fills most of a split is not
            other, _, _, wrong = replies[chance.randrange(len(replies))]
            if other.id != conv.id and _plain(wrong.text) != _plain(turn.text):
                found.append(_pair(conv, index, context, turn, wrong))
                break
    return found


def _pair(conv: Conversation, index: int, context: Conversation, chosen: Turn, rejected: Turn) -> Preference:
    return Preference(
        id=f"{conv.id}/{index}",
        conversation_id=conv.id,
        context=context,
        chosen=chosen,
        rejected=rejected,
        split=conv.split,
    )


def read_traces(path: str | Path) -> list[Trace]:
    """The traces of a file that an evaluation wrote.

    Raises:
        NotFoundError: no such file.
        DataError: it holds something else.
    """
    found = []
    for number, record in read_objects(path):
        try:
            found += [Trace.from_dict(record)] if "header" not in record else []
        except DataError as err:
            raise DataError(f"{path}, line {number}: {err}") from None
    if not found:
        raise DataError(f"{path} holds no trace; expected the file that heedful eval run writes.")
    return found


def trace_pairs(conversations: Sequence[Conversation], traces: Sequence[Trace]) -> tuple[list[Preference], int]:
    """What the supporter wrote against what a model wrote there, and how many were equal and left out.

    Traces of other conversations are passed over.

    Raises:
        DataError: a trace's reference is not what its conversation says there: it was written on other data.
    """
    known = {conv.id: conv for conv in conversations}
    found, equal = [], 0
    for trace in traces:
        conv = known.get(trace.conversation_id)
        if conv is None:
            continue
        conv = _as_it_was(conv, trace)
        turn = conv.turns[trace.turn]
        if _plain(trace.reply) == _plain(turn.text):
            equal += 1
            continue
        labels = tuple(Label(set=k, value=v, source="model") for k, v in trace.plan.items() if _is_text(v))
        wrong = Turn(role="assistant", text=trace.reply, labels=labels)
        found.append(_pair(conv, trace.turn, conv.before(trace.turn), turn, wrong))
    return found, equal


def _as_it_was(conv: Conversation, trace: Trace) -> Conversation:
    """The conversation, runs joined or not, in which the trace's reference stands at the trace's turn."""
    for shape in (conv, conv.merged()):
        if 0 < trace.turn < len(shape) and shape.turns[trace.turn].role == "assistant":
            said = shape.turns[trace.turn].text
            if trace.reference is None or _plain(trace.reference) == _plain(said):
                return shape
    raise DataError(
        f"The trace {shown(trace.id)} does not fit its conversation: at turn {trace.turn} there is no supporter's turn "
        "with the text that the trace has as its reference; the traces are of other data."
    )


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


# ---------------------------------------------------------------------------------------------------- from files


def _from_file(config: PreferenceSettings, *, seed: int) -> Preferences:
    if config.negatives is not None:
        raise ConfigError(f"{config.dataset} brings its own rejected replies; leave out negatives.")
    if config.dataset_options:
        raise ConfigError("A file of preferences takes no dataset_options; leave them out.")
    examples = read_file(config.dataset)
    if any(e.split for e in examples):
        train = [e for e in examples if config.train_split is None or e.split == config.train_split]
        held = [e for e in examples if config.eval_split is not None and e.split == config.eval_split]
        for split, part in ((config.train_split, train), (config.eval_split, held)):
            if split is not None and not part:
                known = ", ".join(sorted({str(e.split) for e in examples}))
                raise NotFoundError(f"{config.dataset} has no line with split '{split}'. It has: {known}.")
        note = []
    else:
        train, apart = hold_out(examples, config.eval_share if config.eval_split else 0.0, seed=seed)
        seen = {_prompt(e) for e in train}
        held = [e for e in apart if _prompt(e) not in seen]
        note = [f"the file states no splits; {len(held):,} of {len(examples):,} lines are held out by conversation"]
        if len(held) < len(apart):
            note.append(f"{len(apart) - len(held):,} lines are in neither part, since their prompt is in training too")
    train, held = (
        _first(part, limit)
        for part, limit in ((train, config.max_train_conversations), (held, config.max_eval_conversations))
    )
    _refuse_test(e.split for e in train)
    if not config.allow_leaks:
        _refuse_shared(train, held)
    return _made(
        train,
        held,
        form="pairs" if isinstance(examples[0], Preference) else "answers",
        negatives=f"those of {config.dataset}",
        licence=licence_of([e.context for e in train]),
        notes=note,
    )


def read_file(path: str | Path) -> list[Example]:
    """The examples of a file; all lines must be of one form.

    `prompt` is a list of messages, or a text, which counts as the help-seeker's words; replies are texts, or lists that
    hold the reply as their last message. Optional: `id`, `conversation_id`, `split`, `licence`. Lines without a
    conversation belong together where their prompts are equal.

    Raises:
        NotFoundError: no such file.
        DataError: a line that is not so; file and line are named, no text is quoted.
    """
    examples: list[Example] = []
    for number, record in read_objects(path):
        example = _example(record, where=f"{path}, line {number}", number=number)
        if examples and type(example) is not type(examples[0]):
            raise DataError(
                f"{path}, line {number}: pairs (chosen, rejected) and single replies (completion, label) cannot be "
                "mixed in one file; make two files of it."
            )
        examples.append(example)
    if not examples:
        raise DataError(f"{path} holds no line; expected objects with prompt, chosen and rejected.")
    return examples


def _example(record: Mapping[str, Any], *, where: str, number: int) -> Example:
    context = _context(record, where)
    id = record.get("id")
    name = str(id) if isinstance(id, str | int) and not isinstance(id, bool) else str(number)
    common: dict[str, Any] = {"id": name, "conversation_id": context.id, "context": context, "split": context.split}
    if "completion" in record:
        if not isinstance(record.get("label"), bool):
            raise DataError(f"{where}: 'label' must be true or false, but it is {shown(record.get('label'))}.")
        return Answer(reply=_reply(record, "completion", where), label=record["label"], **common)
    chosen, rejected = _reply(record, "chosen", where), _reply(record, "rejected", where)
    if chosen.text.strip() == rejected.text.strip():
        raise DataError(f"{where}: chosen and rejected are the same; take the line out.")
    return Preference(chosen=chosen, rejected=rejected, **common)


def _context(record: Mapping[str, Any], where: str) -> Conversation:
    prompt = record.get("prompt")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: 'prompt' must be a text or a list of messages, but it is {shown(prompt)}.")
    group = record.get("conversation_id")
    if not isinstance(group, str | int) or isinstance(group, bool):
        # Replies to one prompt belong to one side of a split.
        group = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:16]
    fields = {key: record[key] for key in ("split", "licence") if record.get(key) is not None}
    try:
        return Conversation.from_dict({"id": str(group), "source": "preferences", "messages": messages, **fields})
    except DataError as err:
        raise DataError(f"{where}: {err}") from None


def _reply(record: Mapping[str, Any], key: str, where: str) -> Turn:
    found = record.get(key)
    last = found[-1] if isinstance(found, list) and found else None
    text = last.get("content") if isinstance(last, Mapping) and last.get("role") == "assistant" else found
    if not isinstance(text, str):
        raise DataError(
            f"{where}: '{key}' must be a text, or messages of which the last one is the assistant's, but it is "
            f"{shown(found)}."
        )
    return Turn(role="assistant", text=text)


def hold_out(examples: Sequence[Example], share: float, *, seed: int) -> tuple[list[Example], list[Example]]:
    """Divide by conversation: (train, held); equal seeds hold out equal conversations.

    Raises:
        DataError: something is to be held out of a single conversation.
    """
    groups = sorted({e.conversation_id for e in examples})
    if share == 0:
        return list(examples), []
    if len(groups) < 2:
        raise DataError("Nothing can be held out of a single conversation; set eval_split: null or add data.")
    random.Random(seed).shuffle(groups)
    out = set(groups[: min(max(1, round(share * len(groups))), len(groups) - 1)])
    return [e for e in examples if e.conversation_id not in out], [e for e in examples if e.conversation_id in out]


def _first(examples: Sequence[Example], conversations: int | None) -> list[Example]:
    kept = set(list(dict.fromkeys(e.conversation_id for e in examples))[:conversations])
    return [e for e in examples if e.conversation_id in kept]


def _prompt(example: Example) -> str:
    return "\n".join(_plain(turn.text) for turn in example.context.turns)


def _refuse_shared(train: Sequence[Example], held: Sequence[Example]) -> None:
    def keys(examples: Sequence[Example]) -> set[tuple[str, str]]:
        ids = {("conversation", e.conversation_id) for e in examples}
        return ids | {("prompt", _prompt(e)) for e in examples}

    both = keys(train) & keys(held)
    if both:
        raise LeakError(
            f"{len(both):,} conversations or prompts stand in both the training and the held-out part; divide them by "
            "conversation, or set allow_leaks: true to train nevertheless."
        )


def _made(train: Sequence[Example], held: Sequence[Example], **fields: Any) -> Preferences:
    if not train:
        raise DataError("There is not one example to learn from; check train_split and the data.")
    notes = tuple(fields.pop("notes"))
    return Preferences(
        train=tuple(train),
        held=tuple(held),
        notes=notes,
        hash=_hash(train),
        held_hash=_hash(held) if held else None,
        **fields,
    )


def _hash(examples: Iterable[Example]) -> str:
    digest = hashlib.sha256()
    for e in examples:
        said = [[t.role, t.text] for t in e.context.turns]
        answers = [e.chosen.text, e.rejected.text] if isinstance(e, Preference) else [e.reply.text, e.label]
        digest.update(json.dumps([e.id, said, answers]).encode())
    return digest.hexdigest()[:16]
