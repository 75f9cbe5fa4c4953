"""The default back end: llama.cpp's server inside the worker process (package `xllamacpp`), on one GGUF file.

Prompts stay in memory: each conversation has a seat (`seats.py`), one for each stream and as many more as fit into
`cache_mib`. The next message of a conversation finds its beginning there, so only what is new is read.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from heedful.agents.manner import Manner, manner_of
from heedful.errors import EngineError, MissingExtraError, RunError
from heedful.formats import Sample, neutral
from heedful.formats.chat import shipped_prompt
from heedful.models.decoding import stream
from heedful.models.llama_cpp import cores
from heedful.models.plan import PlanRule
from heedful.models.talk import ReplyStream, thought_of, unwritable
from heedful.server.engine.find import find_gguf
from heedful.server.engine.gguf_head import special_tokens, token_bytes
from heedful.server.engine.pieces import cuts
from heedful.server.engine.seats import Seats
from heedful.server.engine.texts import STEP, sample_of
from heedful.server.engine.why import uncertainty, version_of, why_of
from heedful.server.engine.worker import Job, Written
from heedful.types import Conversation

ABOVE_ALL: Final = 100.0
"""Added to the logits of some tokens, no other is written; among them nothing changes."""
LONG: Final = "exceed_context_size_error"
PLAIN_ATTENTION: Final = 8192
"""Tokens of context up to which flash attention is off. On a CPU it is slow for fewer than about 64 new tokens at once,
and a message has fewer (docs/decisions/0075-reading-ahead.md). Plain attention needs memory for every
pair of new token and context, so a large context does without it."""
MOST_SEATS: Final = 64
"""Conversations that are kept at most."""


class LlamaBackend:
    """See the module's page. Options: `model`, `streams`, `context`, `threads`, `cache_mib`, and `plan`, how a strategy
    is chosen (as in `heedful chat`).

    Raises:
        MissingExtraError: xllamacpp is not installed.
        UserError: a plan that the format of the run cannot have.
        RunError: llama.cpp cannot load the file.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        try:
            import xllamacpp
        except ImportError as err:
            raise MissingExtraError("The engine needs llama.cpp: pip install 'heedful[serve]'") from err
        found = find_gguf(options["model"])
        self.name = Path(options["model"]).name
        self.streams, self.context = int(options["streams"]), int(options["context"])
        self.specials = special_tokens(found.gguf)
        per_seat = (token_bytes(found.gguf) or 0) * self.context
        beside = int(options.get("cache_mib", 0)) * 2**20 // per_seat if per_seat else 0
        self.seats = max(self.streams, min(self.streams + beside, MOST_SEATS))
        self._seats = Seats(self.seats)
        self._held: dict[int, Sequence[Any]] = {}
        """Seat -> the prompt that was read there last: tokens, or messages."""
        self.version = version_of(found.gguf)
        self.manner: Manner | None = None
        self._tokenizer: Any = None
        if found.run is not None:
            self.manner = manner_of(str(found.run), plan=options.get("plan"))
            self._tokenizer = _tokenizer_of(found.run)
            if self.manner.plan is not None:
                self.manner.plan.check_vocabulary(self._tokenizer.get_vocab())
        try:
            self._server = xllamacpp.Server(self._parameters(xllamacpp, found.gguf, options))
        except RuntimeError as err:
            raise RunError(
                f"llama.cpp cannot load '{found.gguf.name}' with {self.seats} times {self.context} tokens of "
                "memory; try fewer streams, a smaller context or less cache_mib."
            ) from err

    def write(self, job: Job, emit: Callable[[str], None], cancelled: Callable[[], bool]) -> Written:
        """See `Backend`."""
        with self._seats.taken(job.key or _opening(job)) as seat:
            job = replace(job, options={**job.options, "seat": seat})
            if job.conversation is None:
                return self._chat(job.messages, job, emit, cancelled)
            conversation = Conversation.from_dict(job.conversation)
            if self.manner is None:
                return self._plain_conversation(conversation, job, emit, cancelled)
            conversation = self.manner.planners.plan([conversation])[0]
            return self._in_format(self.manner, conversation, job, emit, cancelled)

    # ------------------------------------------------------------------ three kinds of prompts

    def _chat(
        self,
        messages: Sequence[Mapping[str, str]],
        job: Job,
        emit: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> Written:
        # The template is read with special tokens in it: typed by a person they would end a turn and begin another.
        clean = [{"role": m["role"], "content": neutral(m["content"], self.specials)} for m in messages]
        body = {"messages": clean, "max_tokens": _new(job), **_drawing(job.options)}
        if job.aim == "ahead":
            return self._ahead(self._server.handle_chat_completions, "messages", body, job, cancelled)
        answer = _Answer(emit, cancelled)
        if job.reasons == "wanted":
            body |= {"logprobs": True, "top_logprobs": 1}
        answer.end(self._server.handle_chat_completions(body, answer.chunk))
        self._held[job.options["seat"]] = clean
        sure = uncertainty(answer.logprobs)
        return answer.written(why={} if sure is None else {"uncertainty": sure})

    def _plain_conversation(
        self,
        conversation: Conversation,
        job: Job,
        emit: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> Written:
        """A file without its run: our system text and the model's own template; old turns are left out in steps."""
        turns = [{"role": t.role, "content": t.text} for t in conversation.turns]
        start = 0
        while True:
            messages = [{"role": "system", "content": shipped_prompt("supporter")}, *turns[start:]]
            try:
                return self._chat(messages, job, emit, cancelled)
            except EngineError as err:
                if err.code != "refused" or start >= len(turns) - 1:
                    raise
                start = min(start + STEP, len(turns) - 1)

    def _in_format(
        self,
        manner: Manner,
        conversation: Conversation,
        job: Job,
        emit: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> Written:
        fmt, options = manner.fmt, job.options
        ends, new = fmt.ends(self._tokenizer), int(options["max_tokens"])
        room = min(self.context, manner.max_length)
        sample = sample_of(fmt, conversation, self._tokenizer, max_length=room, new_tokens=new, key=job.key)
        if job.aim == "ahead":
            body = {"prompt": list(sample.prompt), "n_predict": _new(job), **_drawing(options)}
            return self._ahead(self._server.handle_completions, "prompt", body, job, cancelled)
        chosen = self._choose(manner, conversation, sample, options)
        parts: list[str] = [] if chosen is None else [chosen.marker]
        shown = ReplyStream(fmt, self._tokenizer, emit)

        def more(text: str) -> None:
            parts.append(text)
            shown.feed("".join(parts))

        answer = _Answer(more, cancelled)
        banned = [*unwritable(fmt, self._tokenizer), *(() if chosen is None else chosen.marks)]
        body = {
            "prompt": [*sample.prompt, *(() if chosen is None else (chosen.token,))],
            "n_predict": _new(job),
            **_drawing(options),
            "stop": [*ends, *options["stop"]],
            # Markers of a format are special tokens, which are left out of the text otherwise.
            "preserved_tokens": [*fmt.markers, *ends],
            "logit_bias": [[token, False] for token in banned],
            **({"logprobs": 1} if job.reasons == "wanted" else {}),
        }
        answer.end(self._server.handle_completions(body, answer.chunk))
        self._held[options["seat"]] = list(sample.prompt)
        reply = fmt.parse("".join(parts), self._tokenizer)
        shown.show(reply.text)
        probabilities = () if chosen is None else chosen.probabilities
        thought = thought_of(reply, conversation, None if chosen is None else manner.plan, probabilities)
        why = why_of(thought, answer.logprobs, fmt=fmt, setting=manner.plan) if job.reasons == "wanted" else {}
        return _with_choice(answer.written(plan=reply.plan, why=why), chosen)

    def _ahead(
        self,
        ask: Callable[[dict[str, Any], Callable[[Any], bool]], Any],
        field: Literal["messages", "prompt"],
        body: dict[str, Any],
        job: Job,
        cancelled: Callable[[], bool],
    ) -> Written:
        """Read a prompt in pieces, each the prompt up to there; llama.cpp looks at no clock before one is read."""
        coming, seat = body[field], job.options["seat"]
        held = self._held.pop(seat, ())
        if field == "messages" and sum(map(_tokens, coming)) > 0.75 * self.context:
            until = [len(coming)]  # perhaps too long, which llama.cpp says only of the whole
        elif field == "messages":
            until = cuts(coming, held, size=_tokens, last=lambda message: message["role"] == "user")
        else:
            until = cuts(coming, held, size=lambda token: 1, last=lambda token: True)
        first: Written | None = None
        done = Written(finish="stop")
        for end in until:
            if cancelled():
                break
            answer = _Answer(_nothing, cancelled)
            answer.end(ask({**body, field: coming[:end]}, answer.chunk))
            self._held[seat] = coming[:end]
            done = answer.written()
            first = first or done
        return done if first is None else replace(done, cached_tokens=first.cached_tokens)

    def _choose(
        self, manner: Manner, conversation: Conversation, sample: Sample, options: Mapping[str, Any]
    ) -> _Chosen | None:
        """The strategy before the words, by the same rule as in `heedful chat`: one token, among the marks alone."""
        if manner.plan is None:
            return None
        rule: PlanRule = manner.plan.rule(self._tokenizer.get_vocab(), {sample.id: conversation})
        marks = tuple(rule.marks.values())
        body = {
            "prompt": list(sample.prompt),
            "n_predict": 1,
            "id_slot": options["seat"],
            "logit_bias": [[mark, ABOVE_ALL] for mark in marks],
            # What llama.cpp reports after these are the probabilities among the marks, at temperature 1.
            "samplers": ["top_k", "temperature"], "top_k": len(marks), "temperature": 1.0, "top_p": 1.0,
            "logprobs": len(marks), "post_sampling_probs": True, "cache_prompt": True, "seed": 0,
            "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        answer = _Answer(_nothing, lambda: False)
        answer.end(self._server.handle_completions(body, answer.chunk))
        found = [answer.among.get(mark, 0.0) for mark in marks]
        if not any(found):
            raise EngineError("llama.cpp did not say how probable each strategy was.", code="failed")
        probabilities = rule.probabilities(np.log(np.maximum(found, 1e-12)), sample.id)
        seed = secrets.randbelow(2**31) if options["seed"] is None else int(options["seed"])
        at = rule.choice(probabilities, sample.id, stream(seed, f"{sample.id}/plan"))
        marker = list(manner.plan.markers.values())[at]
        return _Chosen(
            marker=marker, token=marks[at], marks=marks, probabilities=tuple(probabilities.tolist()),
            read=answer.written(),
        )  # fmt: skip

    def _parameters(self, library: Any, path: Path, options: Mapping[str, Any]) -> Any:
        p = library.CommonParams()
        p.model.path = str(path)
        p.n_parallel = self.seats
        p.n_ctx = self.seats * self.context
        p.kv_unified = False  # each seat attends over its own cells only
        p.n_batch = p.n_ubatch = 512
        if self.context <= PLAIN_ATTENTION:
            p.flash_attn_type = library.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = int(options.get("threads") or cores())
        p.cache_prompt = True
        p.cache_ram_mib = 0  # no store of prompts that conversations share: each has its seat
        p.fit_params = False
        # Its log can hold prompts, and it listens on a port of this machine: say nothing, answer nobody.
        p.verbosity = -1
        p.hostnames = ["127.0.0.1"]
        p.api_keys = [secrets.token_hex(16)]
        p.endpoint_slots = p.endpoint_props = p.endpoint_metrics = p.ui = False
        return p


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """A strategy that was chosen: its marker, all marks, and what reading the prompt for it cost."""

    marker: str
    token: int
    marks: tuple[int, ...]
    probabilities: tuple[float, ...]
    read: Written


def _with_choice(written: Written, chosen: _Chosen | None) -> Written:
    """The counts of both requests as those of one: the second found the prompt of the first in memory."""
    if chosen is None:
        return written
    return replace(
        written,
        prompt_tokens=chosen.read.prompt_tokens,
        cached_tokens=chosen.read.cached_tokens,
        completion_tokens=written.completion_tokens + 1,
    )


class _Answer:
    """What llama.cpp says while it writes; returning True from `chunk` stops it."""

    def __init__(self, emit: Callable[[str], None], cancelled: Callable[[], bool]) -> None:
        self.emit, self.cancelled = emit, cancelled
        self.finish = "stop"
        self.usage: Mapping[str, Any] = {}
        self.logprobs: list[float] = []
        """Of the tokens, at temperature 1 over the whole vocabulary, where they were asked for."""
        self.among: dict[int, float] = {}
        """Token -> probability among those that the last token was drawn from, where that was asked for."""
        self.error: Mapping[str, Any] | None = None
        self.broken: BaseException | None = None

    def chunk(self, found: Any) -> bool:
        """One piece; an exception must not get into llama.cpp, so it waits until the end."""
        try:
            for part in found if isinstance(found, list) else [found]:
                self._take(part)
        except Exception as err:
            self.broken = err
        return self.broken is not None or self.cancelled()

    def end(self, answer: Any) -> None:
        """llama.cpp is done.

        Raises:
            EngineError: it refused.
        """
        if self.broken is not None:
            raise self.broken
        if isinstance(answer, Mapping):
            self._take(answer)
        if self.error is None:
            return
        if self.error.get("type") == LONG:
            sizes = f"{self.error.get('n_prompt_tokens')} tokens and the model holds {self.error.get('n_ctx')}"
            raise EngineError(f"The conversation has {sizes}; shorten it.", code="refused")
        # Its message may quote the request.
        raise EngineError(f"llama.cpp refused the request (code {self.error.get('code')}).", code="refused")

    def written(self, *, plan: Mapping[str, Any] | None = None, why: Mapping[str, Any] | None = None) -> Written:
        """What was counted."""
        prompt = int(self.usage.get("prompt_tokens", 0))
        cached = int((self.usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0))
        return Written(
            finish=self.finish,
            prompt_tokens=prompt,
            cached_tokens=cached,
            completion_tokens=int(self.usage.get("completion_tokens", 0)),
            plan=dict(plan or {}),
            why=dict(why or {}),
        )

    def _take(self, part: Mapping[str, Any]) -> None:
        self.error = part.get("error") or self.error
        self.usage = part.get("usage") or self.usage
        for choice in part.get("choices") or ():
            text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
            if text:
                self.emit(text)
            for token in (choice.get("logprobs") or {}).get("content") or ():
                if "logprob" in token:
                    self.logprobs.append(float(token["logprob"]))
                self.among = {int(t["id"]): float(t["prob"]) for t in token.get("top_probs") or ()} or self.among
            self.finish = choice.get("finish_reason") or self.finish


def _tokens(message: Mapping[str, str]) -> float:
    """About how many tokens a message has; a word of English has four letters or so, and is one."""
    return len(message["content"].encode()) / 4


def _new(job: Job) -> int:
    """Tokens to write. Told 0, llama.cpp reads the prompt, and draws one token that nobody gets."""
    return 0 if job.aim == "ahead" else int(job.options["max_tokens"])


def _nothing(text: str) -> None:
    """Takes words that nobody waits for."""


def _drawing(options: Mapping[str, Any]) -> dict[str, Any]:
    greedy = options["temperature"] == 0
    return {
        "temperature": options["temperature"],
        "top_p": options["top_p"],
        "top_k": 1 if greedy else 0,
        # Nothing that was not asked for: by itself llama.cpp cuts (top-k 40, min-p 0.05).
        "samplers": ["top_k", "top_p", "temperature"],
        "seed": -1 if options["seed"] is None else options["seed"],
        "stop": list(options["stop"]),
        "cache_prompt": True,
        "id_slot": options["seat"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _opening(job: Job) -> str:
    """A key for a conversation that has none: its messages up to the first of a person."""
    first = next((at for at, m in enumerate(job.messages) if m["role"] == "user"), None)
    if first is None:
        return ""
    said = json.dumps([dict(m) for m in job.messages[: first + 1]], sort_keys=True)
    return f"opening {hashlib.sha256(said.encode()).hexdigest()}"


def _tokenizer_of(run: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(run), local_files_only=True)
