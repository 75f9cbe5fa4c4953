"""The default back end: llama.cpp's server inside the worker process (package `xllamacpp`), on one GGUF file.

Prompts stay in memory: each stream keeps its last one, and up to `cache_mib` of others are kept beside. The next
message of a conversation finds its beginning there (llama.cpp looks for the longest common one), so only what is new
is read.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from heedful.errors import EngineError, MissingExtraError, RunError
from heedful.formats import Format, make, neutral
from heedful.formats.chat import shipped_prompt
from heedful.models.llama_cpp import cores
from heedful.models.talk import ReplyStream, unwritable
from heedful.server.engine.find import find_gguf, recorded
from heedful.server.engine.gguf_head import special_tokens
from heedful.server.engine.texts import STEP, sample_of
from heedful.server.engine.worker import Job, Written
from heedful.types import Conversation

LONG: Final = "exceed_context_size_error"


class LlamaBackend:
    """See the module's page. Options: `model`, `streams`, `context`, `threads`, `cache_mib`.

    Raises:
        MissingExtraError: xllamacpp is not installed.
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
        self._format: Format | None = None
        self._tokenizer: Any = None
        if found.run is not None:
            self._format = make(recorded(found.run).get("format") or "chat")
            self._tokenizer = _tokenizer_of(found.run)
        try:
            self._server = xllamacpp.Server(self._parameters(xllamacpp, found.gguf, options))
        except RuntimeError as err:
            raise RunError(
                f"llama.cpp cannot load '{found.gguf.name}' with {self.streams} streams of {self.context} tokens; try "
                "fewer streams or a smaller context."
            ) from err

    def write(self, job: Job, emit: Callable[[str], None], cancelled: Callable[[], bool]) -> Written:
        """See `Backend`."""
        if job.conversation is None:
            return self._chat(job.messages, job.options, emit, cancelled)
        conversation = Conversation.from_dict(job.conversation)
        if self._format is None:
            return self._plain_conversation(conversation, job.options, emit, cancelled)
        return self._in_format(self._format, conversation, job, emit, cancelled)

    # ------------------------------------------------------------------ three kinds of prompts

    def _chat(
        self,
        messages: Sequence[Mapping[str, str]],
        options: Mapping[str, Any],
        emit: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> Written:
        # The template is read with special tokens in it: typed by a person they would end a turn and begin another.
        clean = [{"role": m["role"], "content": neutral(m["content"], self.specials)} for m in messages]
        answer = _Answer(emit, cancelled)
        body = {"messages": clean, "max_tokens": options["max_tokens"], **_drawing(options)}
        answer.end(self._server.handle_chat_completions(body, answer.chunk))
        return answer.written()

    def _plain_conversation(
        self,
        conversation: Conversation,
        options: Mapping[str, Any],
        emit: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> Written:
        """A file without its run: our system text and the model's own template; old turns are left out in steps."""
        turns = [{"role": t.role, "content": t.text} for t in conversation.turns]
        start = 0
        while True:
            messages = [{"role": "system", "content": shipped_prompt("supporter")}, *turns[start:]]
            try:
                return self._chat(messages, options, emit, cancelled)
            except EngineError as err:
                if err.code != "refused" or start >= len(turns) - 1:
                    raise
                start = min(start + STEP, len(turns) - 1)

    def _in_format(
        self,
        fmt: Format,
        conversation: Conversation,
        job: Job,
        emit: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> Written:
        options, ends = job.options, fmt.ends(self._tokenizer)
        new = int(options["max_tokens"])
        sample = sample_of(fmt, conversation, self._tokenizer, max_length=self.context, new_tokens=new, key=job.key)
        parts: list[str] = []
        stream = ReplyStream(fmt, self._tokenizer, emit)

        def more(text: str) -> None:
            parts.append(text)
            stream.feed("".join(parts))

        answer = _Answer(more, cancelled)
        body = {
            "prompt": list(sample.prompt),
            "n_predict": new,
            **_drawing(options),
            "stop": [*ends, *options["stop"]],
            # Markers of a format are special tokens, which are left out of the text otherwise.
            "preserved_tokens": [*fmt.markers, *ends],
            "logit_bias": [[token, False] for token in unwritable(fmt, self._tokenizer)],
        }
        answer.end(self._server.handle_completions(body, answer.chunk))
        reply = fmt.parse("".join(parts), self._tokenizer)
        stream.show(reply.text)
        return answer.written(plan=reply.plan)

    def _parameters(self, library: Any, path: Path, options: Mapping[str, Any]) -> Any:
        p = library.CommonParams()
        p.model.path = str(path)
        p.n_parallel = self.streams
        p.n_ctx = self.streams * self.context
        p.kv_unified = False  # each stream attends over its own cells only
        p.n_batch = p.n_ubatch = 512
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = int(options.get("threads") or cores())
        p.cache_prompt = True
        p.cache_ram_mib = int(options.get("cache_mib", 0))
        p.fit_params = False
        # Its log can hold prompts, and it listens on a port of this machine: say nothing, answer nobody.
        p.verbosity = -1
        p.hostnames = ["127.0.0.1"]
        p.api_keys = [secrets.token_hex(16)]
        p.endpoint_slots = p.endpoint_props = p.endpoint_metrics = p.ui = False
        return p


class _Answer:
    """What llama.cpp says while it writes; returning True from `chunk` stops it."""

    def __init__(self, emit: Callable[[str], None], cancelled: Callable[[], bool]) -> None:
        self.emit, self.cancelled = emit, cancelled
        self.finish = "stop"
        self.usage: Mapping[str, Any] = {}
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

    def written(self, *, plan: Mapping[str, Any] | None = None) -> Written:
        """What was counted."""
        prompt = int(self.usage.get("prompt_tokens", 0))
        cached = int((self.usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0))
        return Written(
            finish=self.finish,
            prompt_tokens=prompt,
            cached_tokens=cached,
            completion_tokens=int(self.usage.get("completion_tokens", 0)),
            plan=dict(plan or {}),
        )

    def _take(self, part: Mapping[str, Any]) -> None:
        self.error = part.get("error") or self.error
        self.usage = part.get("usage") or self.usage
        for choice in part.get("choices") or ():
            text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
            if text:
                self.emit(text)
            self.finish = choice.get("finish_reason") or self.finish


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
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _tokenizer_of(run: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(run), local_files_only=True)
