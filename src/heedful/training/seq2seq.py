"""`method: seq2seq`: supervised training of an encoder-decoder, ESConv's second host (esconv.md, steps 1 to 4).

    heedful train recipes/esconv-blenderbot.yaml model=/path/to/blenderbot_small-90M

    encoder   the turns before a reply, the last max_length tokens
    decoder   [strategy] reply <eos>, the first max_target_length + 1 tokens
    L = - 1/N * sum over all target tokens of log p(token | input, tokens before), N = target tokens of the whole batch

Paper: Liu et al. 2021; defaults are those of the released `codes_zcj`. Every reply is a row of its own, since an
encoder reads both ways and shares nothing between prompts. A batch therefore counts replies, not conversations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import Field, model_validator

from heedful import formats
from heedful.errors import ConfigError, DataError
from heedful.formats import Format, Sample
from heedful.models.causal import CausalModel, add_markers, need_train_extra
from heedful.models.pairs import check_room
from heedful.registry import load_path
from heedful.settings import write_yaml
from heedful.training.config import LoopSettings
from heedful.training.methods import Method, Run, Say
from heedful.training.plan import Plan, make_plan
from heedful.training.resume import RECORD, RESOLVED, earlier_run, refuse_other_inputs, step_of
from heedful.training.run import finish, record_of, say_what_comes
from heedful.training.shared import (
    METRICS,
    append_line,
    claim,
    forget_after,
    leak_notes,
    load_split,
    one_sentence_for_a_full_disk,
    planned,
    prepare_folder,
    process_count,
    resolved_values,
    tokenizer_for,
    with_delta,
    with_format,
)
from heedful.training.sharing import inherited, licence_of
from heedful.training.start import BASE, keeps_base, load_start, stand_on_base, start_place
from heedful.types import Conversation

HOST = "facebook/blenderbot_small-90M"


class Seq2SeqConfig(LoopSettings):
    """Settings of `method: seq2seq`. Lengths are tokens, batches replies."""

    method: Literal["seq2seq"] = "seq2seq"
    model_name_or_path: str = HOST
    delta: str = Field(default="full", description="full, lora, rslora, dora, ia3, vera, norms or bias")
    max_length: int = Field(default=160, ge=8, description="of the input; what is older is cut by the token")
    max_target_length: int = Field(
        default=40, ge=1, description="of a reply in training; its strategy or its end may be one more"
    )
    learning_rate: float = Field(default=3e-5, gt=0)
    warmup_steps: float = Field(default=100.0, ge=0, description="steps, or a share of all steps below 1")
    weight_decay: float = Field(default=0.01, ge=0)
    num_train_epochs: float = Field(default=2.0, gt=0)
    per_device_train_batch_size: int = Field(default=16, ge=1, description="replies in one pass")
    per_device_eval_batch_size: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Seq2SeqConfig:
        if self.keep_context != 0.5 or self.overlong != "error":
            raise ValueError(
                "keep_context and overlong have no effect, since inputs and replies are cut by the token; leave them "
                "out, or change max_length and max_target_length"
            )
        if "test" in (self.train_split, self.eval_split):
            raise ValueError("nothing is learnt or chosen from the test part; take train and valid")
        return self


@dataclass(frozen=True, kw_only=True)
class Replies:
    """One split: a sample for each reply, its target cut as it is learnt.

    Args:
        cut: replies that were longer.
        hash: 16 hex digits over all token ids.
    """

    rows: list[Sample] = field(repr=False)
    cut: int
    hash: str
    skipped: int = 0

    @property
    def lengths(self) -> list[int]:
        """Tokens of each reply with its input."""
        return [len(sample) for sample in self.rows]

    @property
    def samples(self) -> int:
        """How many replies."""
        return len(self.rows)

    @property
    def tokens(self) -> int:
        """Of inputs and targets."""
        return sum(self.lengths)

    @property
    def separate_tokens(self) -> int:
        """The same: nothing is shared."""
        return self.tokens

    @property
    def target_tokens(self) -> int:
        """Tokens that carry loss."""
        return sum(len(sample.target) for sample in self.rows)


@dataclass(frozen=True, kw_only=True)
class PairInputs:
    """Everything a run needs besides the model's weights."""

    fmt: Format
    train: Replies
    evaluation: Replies | None
    notes: tuple[str, ...]
    licence: str | None


def replies_of(
    conversations: Sequence[Conversation], fmt: Format, tokenizer: Any, *, max_length: int, max_target_length: int
) -> Replies:
    """Render and cut the replies of a split.

    Raises:
        DataError: not one reply, or not one label that the format needs.
    """
    fmt.check(conversations)
    whole = [s for conv in conversations for s in fmt.samples(conv, tokenizer, max_length=max_length)]
    if not whole:
        raise DataError(
            f"No supporter turn to learn from in {len(conversations)} conversations; format '{fmt.name}' needs "
            "turns of role 'assistant' after another turn."
        )
    room, digest = max_target_length + 1, hashlib.sha256()
    rows = [replace(sample, target=sample.target[:room]) for sample in whole]
    for sample in rows:
        digest.update(repr((sample.prompt, sample.target, sample.plan)).encode())
    return Replies(
        rows=rows, cut=sum(len(s.target) > room for s in whole), hash=digest.hexdigest()[:16]
    )  # fmt: skip


def gather(config: Seq2SeqConfig, tokenizer: Any) -> PairInputs:
    """Load, check and render the data of a run.

    Raises:
        UserError: whatever is wrong with dataset, split or format, in one sentence.
    """
    fmt = formats.make(config.format or "joined")
    if not fmt.for_encoder:
        raise ConfigError(
            f"method: seq2seq needs a format that keeps input and reply apart, and '{fmt.name}' writes them in one "
            "row; take format: joined."
        )
    train = load_split(config, config.train_split, config.max_train_conversations)
    held = load_split(config, config.eval_split, config.max_eval_conversations) if config.eval_split else []
    if any(conv.split == "test" for conv in train):
        raise ConfigError(f"The training part of '{config.dataset}' holds talks of its test part; set train_split.")
    notes = leak_notes(config, train, held)
    train, held = planned(config, train), planned(config, held)
    lengths = {"max_length": config.max_length, "max_target_length": config.max_target_length}
    return PairInputs(
        fmt=fmt,
        train=replies_of(train, fmt, tokenizer, **lengths),
        evaluation=replies_of(held, fmt, tokenizer, **lengths) if held else None,
        notes=tuple(notes),
        licence=licence_of(train),
    )


def dry_run(config: Seq2SeqConfig) -> Plan:
    """What `train` would do; needs the tokenizer, loads no weights."""
    need_train_extra()
    config = with_format(config, "joined")
    inputs = gather(config, tokenizer_for(config, config.model_name_or_path, accept="pairs"))
    return _plan(config, inputs)


def _plan(config: Seq2SeqConfig, inputs: PairInputs) -> Plan:
    longest = max(len(sample.target) for sample in inputs.train.rows)
    return make_plan(config, inputs.train, inputs.evaluation, predicted=longest)


def train(config: Seq2SeqConfig, *, say: Say = lambda text: None, callbacks: tuple[Any, ...] = ()) -> Run:
    """Train an encoder-decoder as configured.

    Args:
        say: takes one line of progress.
        callbacks: transformers callbacks, for progress bars.

    Raises:
        UserError: something in the configuration, the data or the model's place, or a run that is to go on with other
            settings than it had.
        RunError: the loss is not a number, or the disk is full.
    """
    need_train_extra()
    if process_count() > 1:
        raise ConfigError("method: seq2seq runs in one process; start it without a launcher.")
    fit = load_path("heedful.training.seq2seq_loop:fit")
    config = with_format(config, "joined")
    folder, resume = claim(config)
    earlier = earlier_run(config, resume) if resume else None
    place = start_place(config, folder, resumed=resume is not None)
    # Data before weights: a slip in a file should not cost the minutes that a model takes to load.
    inputs = gather(config, tokenizer_for(config, place, accept="pairs"))
    plan = _plan(config, inputs)
    base_run = earlier.base_run if earlier else inherited(config.model_name_or_path)
    record = record_of(inputs, plan, base_run, earlier)
    if earlier is not None:
        refuse_other_inputs(earlier, record, plan)
    say_what_comes(say, config, plan, earlier)
    causal = load_start(config, place, accept="pairs")
    _check_room(inputs, causal)
    keeps = keeps_base(config, place)
    prepare_folder(folder, config, causal, keeps=keeps, fresh=resume is None)
    write_yaml(folder / RESOLVED, {**resolved_values(config), RECORD: record})
    forget_after(folder / METRICS, step_of(resume), end=config.eval_steps is None)
    if keeps:
        say(f"the adapter of {place} becomes part of the base model, which is kept in {folder / BASE}")
        with one_sentence_for_a_full_disk(folder):
            stand_on_base(config, causal, folder, write=True)
    causal.model = with_delta(config, causal, add_markers(causal, inputs.fmt.markers))
    causal.model.train()
    outcome = fit(
        config, causal, inputs.train.rows, inputs.evaluation.rows if inputs.evaluation else None,
        folder=folder / "checkpoints", resume=resume, callbacks=callbacks,
        log=lambda values, step: append_line(folder / METRICS, {"step": step, **values}),
    )  # fmt: skip
    causal.model.eval()
    with one_sentence_for_a_full_disk(folder):
        return finish(config, causal, inputs, plan, folder, outcome, record, replies_cut=inputs.train.cut)


def _check_room(inputs: PairInputs, causal: CausalModel) -> None:
    held = inputs.evaluation.rows if inputs.evaluation else []
    rows = [*inputs.train.rows, *held]
    check_room(causal, rows, reply=max(len(sample.target) for sample in rows))


SEQ2SEQ = Method(config=Seq2SeqConfig, train=train, plan=lambda config: dry_run(config).to_dict())
