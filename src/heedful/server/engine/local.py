"""Back end `transformers`: heedful's own decoding, for models that llama.cpp cannot load (GPT-2, graphs, adapters as
they are).

One reply at a time, and the whole prompt is read anew for each: slower than llama.cpp, and the more so the longer a
talk.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from heedful.errors import EngineError
from heedful.formats import Format, make
from heedful.formats.chat import ChatFormat
from heedful.models.causal import load
from heedful.models.decoding import Decoding
from heedful.models.generate import generate
from heedful.models.talk import ReplyStream, unwritable
from heedful.server.engine.find import recorded
from heedful.server.engine.texts import Stops, conversation_of, sample_of
from heedful.server.engine.worker import Job, Written
from heedful.types import Conversation


class _Enough(Exception):  # noqa: N818  (it is no error: the reply is long enough, or nobody wants it)
    """Leaves the decoding loop."""


class TransformersBackend:
    """See the module's page. Options: `model`, `context`.

    Raises:
        UserError: a model that cannot be loaded.
    """

    streams = 1

    def __init__(self, options: Mapping[str, Any]) -> None:
        folder = Path(options["model"]).expanduser()
        self.name = Path(options["model"]).name
        self._causal = load(options["model"], device="cpu")
        self._format: Format = make(recorded(folder).get("format") or "chat")
        self._context = min(int(options["context"]), self._causal.max_length)

    def write(self, job: Job, emit: Callable[[str], None], cancelled: Callable[[], bool]) -> Written:
        """See `Backend`."""
        if job.conversation is not None:
            fmt, conversation = self._format, Conversation.from_dict(job.conversation)
        else:
            system, conversation = conversation_of(job.messages)
            fmt = ChatFormat(system=system)
        if not len(conversation):
            raise EngineError("There is nothing to answer: a prompt needs a message.", code="refused")
        tokenizer, options = self._causal.tokenizer, job.options
        new = int(options["max_tokens"])
        sample = sample_of(fmt, conversation, tokenizer, max_length=self._context, new_tokens=new, key=job.key)
        stops = Stops(options["stop"], emit)
        stream = ReplyStream(fmt, tokenizer, stops.feed)
        count = 0

        def token(name: str, token: int) -> None:
            nonlocal count
            count += 1
            stream.token(name, token)
            if stops.hit or cancelled():
                raise _Enough

        finish, plan = "stop", {}
        batches = generate(
            self._causal, [sample], _decoding(options), banned=unwritable(fmt, tokenizer), on_token=token
        )
        try:
            made = next(iter(batches))[0].written
        except _Enough:
            pass
        else:
            reply = fmt.parse(tokenizer.decode(made.tokens, skip_special_tokens=False), tokenizer)
            stream.show(reply.text)
            finish, plan = ("length" if made.finish == "length" else "stop"), dict(reply.plan)
            stops.finish()
        return Written(
            finish="stop" if stops.hit else finish,
            prompt_tokens=len(sample.prompt),
            completion_tokens=count,
            plan=plan,
        )


def _decoding(options: Mapping[str, Any]) -> Decoding:
    draws = options["temperature"] > 0
    seed = secrets.randbelow(2**31) if options["seed"] is None else int(options["seed"])
    return Decoding(
        max_new_tokens=int(options["max_tokens"]),
        do_sample=draws,
        temperature=float(options["temperature"]) if draws else 1.0,
        top_p=float(options["top_p"]) if draws else 1.0,
        seed=seed,
    )
