"""`/v1`: chat completions, models and embeddings in the shapes of the OpenAI API, for scripts and for Open WebUI.

For staff and their scripts, never for help-seekers: what they write goes through a clinician. Fields that we do not
know are passed over; everything of ours stands under `x_heedful`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, TypeVar

from anyio import to_thread
from fastapi import APIRouter
from fastapi import Request as HTTPRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from heedful.errors import EngineError, HeedfulError
from heedful.server import logs
from heedful.server.access import Called, Caller, caller_of
from heedful.server.clinic import At, desk_of
from heedful.server.crisis_guard import CrisisGuard, around
from heedful.server.engine.base import Completion, Message, Options, Request, Role
from heedful.server.generation import Outcome, Said, say, say_all, without
from heedful.server.guard import Guard, Verdict
from heedful.server.problems import of_error, wait
from heedful.server.state import Server, Serving


class HelpFirst(APIRoute):
    """A request for a reply that is not as the API wants it: where its words are of danger, lines come all the same."""

    def get_route_handler(self) -> Callable[[HTTPRequest], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with the rules behind its refusal."""
        usual = super().get_route_handler()

        async def handler(request: HTTPRequest) -> Response:
            try:
                return await usual(request)
            except RequestValidationError as err:
                helped = await _helped(request, err.body) if self.name == "chat" else None
                if helped is None:
                    raise
            return helped

        return handler


router = APIRouter(prefix="/v1", tags=["openai"], route_class=HelpFirst)

T = TypeVar("T")
MOST_TOKENS: Final = 4096
BEGUN: Final = int(time.time())
"""What `created` of a model says: when this process began to serve it."""
CRISIS: Final = "api.crisis"
"""Action in the audit chain: the crisis rules answered a request."""
NOTED_SECONDS: Final = 2.0
"""So long an answer waits for its line in the audit; the line is written all the same."""
_WRITING: Final[set[asyncio.Future[None]]] = set()
"""Lines that are being written; the event loop itself keeps no hold of them."""
READ_AS: Final[Mapping[str, Role]] = {
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "system",
    "function": "system",
}
"""Role of a message that was sent -> as the rules read it; any other is the person's."""
Word = Annotated[str, Field(max_length=200)]


class TextPart(BaseModel):
    """A part of a message; heedful reads text and nothing else."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    type: Literal["text"]
    text: str = Field(repr=False)


class ChatMessage(BaseModel):
    """One message. `developer` is what newer clients call `system`."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] = Field(repr=False)

    def message(self) -> Message:
        """As the engine takes it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role="system" if self.role == "developer" else self.role, content=_whole(text))


class StreamOptions(BaseModel):
    """What a stream says beside the words."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class ChatRequest(BaseModel):
    """OpenAI's request, as far as it is understood here; other fields are passed over."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    model: Word = ""
    messages: list[ChatMessage] = Field(min_length=1, max_length=2000)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[Word] | None = None
    n: Literal[1] | None = 1

    @field_validator("stop")
    @classmethod
    def _stops(cls, value: str | list[str] | None) -> list[str]:
        found = [value] if isinstance(value, str) else value or []
        if len(found) > 16 or not all(0 < len(text) <= 200 for text in found):
            raise ValueError("stop")
        return found

    @model_validator(mode="after")
    def _words(self) -> ChatRequest:
        if not any(m.message().content.strip() for m in self.messages):
            raise ValueError("empty")
        return self

    def options(self) -> Options:
        """As the engine takes it, with our defaults for what was not said."""
        usual = Options()
        return Options(
            max_tokens=min(self.max_completion_tokens or self.max_tokens or usual.max_tokens, MOST_TOKENS),
            temperature=usual.temperature if self.temperature is None else self.temperature,
            top_p=usual.top_p if self.top_p is None else self.top_p,
            # llama.cpp has 32 bits for it.
            seed=None if self.seed is None else self.seed % (2**32 - 1),
            stop=tuple(self.stop or ()),
        )


class EmbeddingRequest(BaseModel):
    """OpenAI's request for vectors."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    model: Word = ""
    input: str | list[str] = Field(repr=False)
    encoding_format: Literal["float", "base64"] | None = "float"

    @field_validator("input")
    @classmethod
    def _texts(cls, value: str | list[str]) -> list[str]:
        found = [value] if isinstance(value, str) else value
        if not 0 < len(found) <= 512 or not all(text.strip() for text in found):
            raise ValueError("input")
        return found


@router.get("/models")
async def models(server: Serving) -> dict[str, Any]:
    """The models that can be asked: one that writes, one for vectors."""
    return {"object": "list", "data": [_model(name) for name in _names(server)]}


@router.get("/models/{name}")
async def model(server: Serving, name: str) -> dict[str, Any]:
    """One of them."""
    if name not in _names(server):
        raise HTTPException(404, "There is no such model; GET /v1/models lists them.")
    return _model(name)


@router.post(
    "/chat/completions",
    response_model=None,
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}}}},
)
async def chat(connection: HTTPRequest, caller: Called, server: Serving, desk: At, wanted: ChatRequest) -> Response:
    """Write the next message. With `stream: true`, server-sent events that end with `data: [DONE]`.

    The crisis rules read it before anything else: neither a wrong name of a model nor a limit takes their answer away.
    """
    guard = around(server.guard, lines=desk.directory.fill)
    request = Request(
        messages=tuple(m.message() for m in wanted.messages), options=wanted.options(), caller=caller.user or ""
    )
    looked = await to_thread.run_sync(guard.before, request.messages)
    if looked.log:
        await _noted(server, caller.user or "", looked.log)
    usage = bool(wanted.stream_options and wanted.stream_options.include_usage)
    if looked.action != "replace" and (no := _not_asked(server, caller, wanted)) is not None:
        if looked.action == "pass":
            raise no
        looked = _alone(looked)
    return await _answered(connection, server, guard, request, looked=looked, stream=bool(wanted.stream), usage=usage)


async def _answered(
    connection: HTTPRequest,
    server: Server,
    guard: Guard,
    request: Request,
    *,
    looked: Verdict,
    stream: bool,
    usage: bool = False,
) -> Response:
    """The reply, whole or in events."""
    begun = _Answer(server)
    if stream:
        said = say(server.engine, guard, request, looked=looked)
        # The first event is awaited here, so that a full queue or a dead model is an HTTP status and no broken stream.
        first = await while_there(connection, anext(said))
        return StreamingResponse(
            begun.events(first, said, usage=usage),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},
        )
    outcome = await while_there(connection, say_all(server.engine, guard, request, looked=looked))
    return JSONResponse(begun.whole(outcome))


def _not_asked(server: Server, caller: Caller, wanted: ChatRequest) -> HTTPException | None:
    """Why the model is not asked, if it is not."""
    if wanted.model and wanted.model not in (server.engine.model, "heedful"):
        return HTTPException(404, "There is no such model; GET /v1/models lists them.")
    pause = server.generations.take(caller.user or "")
    if pause > 0:
        return HTTPException(429, "Too many requests for replies; wait a moment.", headers=wait(pause))
    return None


def _alone(looked: Verdict) -> Verdict:
    """The rules' words and their question, and no model behind them."""
    fixed = without(looked, looked.otherwise, why="not_asked")
    return replace(looked, action="replace", text=fixed.text, facts=fixed.facts)


async def _helped(connection: HTTPRequest, body: Any) -> Response | None:
    """What the rules say to a request that was not understood; None = nothing, so it is refused."""
    messages = _as_sent(body)
    if not messages:
        return None
    server: Server = connection.app.state.server
    caller = await caller_of(connection)
    desk = await to_thread.run_sync(desk_of, connection.app)
    rules = CrisisGuard(lines=desk.directory.fill)
    looked = await to_thread.run_sync(rules.before, messages)
    if looked.action == "pass":
        return None
    if looked.log:
        await _noted(server, caller.user or "", looked.log)
    looked = looked if looked.action == "replace" else _alone(looked)
    request = Request(messages=messages, caller=caller.user or "")
    return await _answered(connection, server, rules, request, looked=looked, stream=body.get("stream") is True)


def _as_sent(body: Any) -> tuple[Message, ...]:
    """Every text in what was sent as messages; a role that is not known is read as the person's."""
    sent = body.get("messages") if isinstance(body, dict) else None
    found: list[Message] = []
    for item in sent if isinstance(sent, list) else ():
        content = item.get("content") if isinstance(item, dict) else None
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = [part.get("text") for part in parts if isinstance(part, dict)]
        text = _whole("".join(t for t in texts if isinstance(t, str)))
        if text.strip():
            role = item.get("role")
            found.append(Message(role=READ_AS.get(role, "user") if isinstance(role, str) else "user", content=text))
    return tuple(found)


def _whole(text: str) -> str:
    """Without halves of surrogate pairs, which are no text: one of them hides nothing of the rest from the rules."""
    return text.encode("utf-8", "replace").decode("utf-8")


async def _noted(server: Server, user: str, facts: Mapping[str, Any]) -> None:
    """One line in the audit chain. A database that is slow or gone holds no help up."""
    server.metrics.count("crisis_answers_total", rung=facts["rung"])

    def write() -> None:
        try:
            server.store.run(lambda unit: unit.audit.add(user, CRISIS, f"user:{user}", **facts))
        except HeedfulError as err:
            logs.fault(err)

    writing = asyncio.ensure_future(to_thread.run_sync(write, abandon_on_cancel=True))
    _WRITING.add(writing)
    writing.add_done_callback(_WRITING.discard)
    await asyncio.wait({writing}, timeout=NOTED_SECONDS)


@router.post("/embeddings")
async def embeddings(caller: Called, server: Serving, wanted: EmbeddingRequest) -> dict[str, Any]:
    """A unit vector for each text."""
    if wanted.model and wanted.model != server.embedder.name:
        raise HTTPException(404, "There is no such model; GET /v1/models lists them.")
    pause = server.generations.take(caller.user or "")
    if pause > 0:
        raise HTTPException(429, "Too many requests for vectors; wait a moment.", headers=wait(pause))
    texts = list(wanted.input)
    vectors, tokens = await to_thread.run_sync(server.embedder.embed, texts, limiter=server.encoding)
    data = [
        {"object": "embedding", "index": at, "embedding": _coded(vector, wanted.encoding_format or "float")}
        for at, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": server.embedder.name, "data": data, "usage": usage}


async def while_there(connection: HTTPRequest, work: Awaitable[T]) -> T:
    """What `work` gives, unless the client goes away before: then it is cancelled.

    Raises:
        HTTPException: 499, which nobody reads.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(connection))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HTTPException(499, "The client went away.")
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(connection: HTTPRequest) -> None:
    while (await connection.receive())["type"] != "http.disconnect":
        pass


class _Answer:
    """One answer in OpenAI's shapes."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.id, self.created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """Not streamed."""
        self._count(outcome)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": outcome.text, "refusal": None},
            "logprobs": None,
            "finish_reason": outcome.finish,
        }
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": _usage(outcome.completion),
            "x_heedful": _facts(outcome),
        }

    async def events(
        self, first: Said | Outcome, rest: AsyncIterator[Said | Outcome], *, usage: bool
    ) -> AsyncIterator[bytes]:
        """Streamed. An error after the first words is an event with an error object; then the stream ends."""
        yield self._event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
        try:
            said: Said | Outcome | None = first
            while said is not None:
                if isinstance(said, Said):
                    yield self._event([{"index": 0, "delta": {"content": said.text}, "finish_reason": None}])
                else:
                    self._count(said)
                    end = [{"index": 0, "delta": {}, "finish_reason": said.finish}]
                    yield self._event(end, x_heedful=_facts(said))
                    if usage:
                        yield self._event([], usage=_usage(said.completion))
                said = await anext(rest, None)
        except HeedfulError as err:
            problem = of_error(err)
            if not isinstance(err, EngineError):
                logs.fault(err)
            yield b"data: " + json.dumps(problem.body()).encode() + b"\n\n"
            return
        yield b"data: [DONE]\n\n"

    def _event(self, choices: Sequence[Mapping[str, Any]], **more: Any) -> bytes:
        body = {**self._head("chat.completion.chunk"), "choices": list(choices), **more}
        return b"data: " + json.dumps(body).encode() + b"\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.server.engine.model}

    def _count(self, outcome: Outcome) -> None:
        done = outcome.completion
        if done is not None:
            self.server.metrics.count("prompt_tokens_total", done.prompt_tokens)
            self.server.metrics.count("completion_tokens_total", done.completion_tokens)
        self.server.metrics.count("replies_total", finish=outcome.finish)


def _facts(outcome: Outcome) -> dict[str, Any]:
    facts: dict[str, Any] = {"guard": dict(outcome.facts)} if outcome.facts else {}
    done = outcome.completion
    if done is not None:
        facts |= {"seconds": dict(done.seconds), "model": done.model}
        facts |= {"plan": dict(done.plan)} if done.plan else {}
    return facts


def _usage(done: Completion | None) -> dict[str, Any]:
    prompt, cached, written = (done.prompt_tokens, done.cached_tokens, done.completion_tokens) if done else (0, 0, 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _coded(vector: list[float], encoding: str) -> list[float] | str:
    # The official client asks for base64 by itself: little-endian float32.
    if encoding == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


def _names(server: Server) -> tuple[str, str]:
    return server.engine.model, server.embedder.name


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": BEGUN, "owned_by": "heedful"}
