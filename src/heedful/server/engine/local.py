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

from heedful.agents import Planners
from heedful.agents.manner import Manner, manner_of
from heedful.errors import EngineError
from heedful.formats.chat import ChatFormat
from heedful.models.causal import load
from heedful.models.decoding import Decoding
from heedful.models.talk import answer
from heedful.server.engine.texts import Stops, conversation_of, sample_of
from heedful.server.engine.why import version_of, why_of
from heedful.server.engine.worker import Job, Written
from heedful.types import Conversation


class _Enough(Exception):  # noqa: N818  (it is no error: the reply is long enough, or nobody wants it)
    """Leaves the decoding loop."""


class TransformersBackend:
    """See the module's page. Options: `model`, `context`, and `plan`, how a strategy is chosen (as in `heedful chat`).

    Raises:
        UserError: a model that cannot be loaded.
    """

    streams = 1

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.name = Path(options["model"]).name
        self.manner = manner_of(options["model"], plan=options.get("plan"))
        self._causal = load(options["model"], device="cpu")
        if self.manner.plan is not None:
            self.manner.plan.check_vocabulary(self._causal.tokenizer.get_vocab())
        self.version = version_of(options["model"])
        self._context = min(int(options["context"]), self._causal.max_length)

    def write(self, job: Job, emit: Callable[[str], None], cancelled: Callable[[], bool]) -> Written:
        """See `Backend`."""
        if job.aim == "ahead":
            return Written(finish="stop")  # it keeps no prompts
        if job.conversation is not None:
            manner, conversation = self.manner, Conversation.from_dict(job.conversation)
            conversation = manner.planners.plan([conversation])[0]
        else:
            system, conversation = conversation_of(job.messages)
            manner = Manner(fmt=ChatFormat(system=system), planners=Planners(), plan=None, max_length=self._context)
        if not len(conversation):
            raise EngineError("There is nothing to answer: a prompt needs a message.", code="refused")
        fmt, tokenizer, options = manner.fmt, self._causal.tokenizer, job.options
        new = int(options["max_tokens"])
        room = min(self._context, manner.max_length)
        sample = sample_of(fmt, conversation, tokenizer, max_length=room, new_tokens=new, key=job.key)
        stops = Stops(options["stop"], emit)
        count = 0

        def token(name: str, token: int) -> None:
            nonlocal count
            count += 1
            if stops.hit or cancelled():
                raise _Enough

        finish, plan, why = "stop", dict[str, Any](), dict[str, Any]()
        try:
            made = answer(
                self._causal, fmt, conversation, sample, _decoding(options),
                plan=manner.plan, on_text=stops.feed, on_token=token,
            )  # fmt: skip
        except _Enough:
            pass
        else:
            finish, plan = ("length" if made.written.finish == "length" else "stop"), dict(made.reply.plan)
            stops.finish()
            if job.reasons == "wanted":
                # The end token is no word, and the surest of all.
                words = made.written.own[:-1] if made.written.finish == "stop" else made.written.own
                why = why_of(made.thought, words, fmt=fmt, setting=manner.plan)
        return Written(
            finish="stop" if stops.hit else finish,
            prompt_tokens=len(sample.prompt),
            completion_tokens=count,
            plan=plan,
            why=why,
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
