"""Back end `openai`: a server with the OpenAI API (vLLM, Ollama, llama.cpp), on this machine unless
HEEDFUL_ALLOW_NETWORK=1.

What is sent are people's conversations, so the address is checked as in docs/decisions/0009-network.md, no redirect is
followed, and no answer of that server is quoted in an error.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from heedful.errors import ConfigError, EngineError, RunError
from heedful.formats.chat import shipped_prompt
from heedful.models.server import KEY_VARIABLE, opened
from heedful.server.engine.worker import Job, Written
from heedful.types import Conversation

SILENCE: Final = 120.0
"""Seconds without a byte after which that server counts as gone."""
_GONE: Final = "The server behind the engine does not answer; look whether it runs."


class RemoteBackend:
    """See the module's page. Options: `model` (the address), `model_name` (None = its first), `streams`.

    Raises:
        ConfigError: an address that may not be used, or no such model there.
        RunError: it does not answer.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._url, self._opener = opened(options["model"])
        self.streams = int(options["streams"])
        try:
            with self._ask("/v1/models", None) as answer:
                found = json.loads(answer.read())
            names = [str(entry["id"]) for entry in found["data"]]
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as err:
            raise RunError(_GONE) from err
        wanted = options.get("model_name") or (names[0] if names else None)
        if wanted is None or wanted not in names:
            raise ConfigError("The server behind the engine has no such model; set model_name to one that it lists.")
        self.name = wanted

    def write(self, job: Job, emit: Callable[[str], None], cancelled: Callable[[], bool]) -> Written:
        """See `Backend`."""
        if job.aim == "ahead":
            return Written(finish="stop")  # how its prompts are kept is that server's affair
        body = {"model": self.name, "messages": _messages(job), "stream": True, **job.options}
        body |= {"stream_options": {"include_usage": True}}
        if body["seed"] is None:
            del body["seed"]
        if not body["stop"]:
            del body["stop"]
        finish, usage = "stop", dict[str, Any]()
        try:
            with self._ask("/v1/chat/completions", body) as answer:
                for event in _events(answer):
                    if cancelled():
                        break
                    if "error" in event:
                        raise EngineError("The server behind the engine stopped with an error.", code="failed")
                    usage = event.get("usage") or usage
                    for choice in event.get("choices") or ():
                        emit((choice.get("delta") or {}).get("content") or "")
                        finish = choice.get("finish_reason") or finish
        except urllib.error.HTTPError as err:
            err.close()
            raise _refusal(err.code) from None
        except (OSError, http.client.HTTPException, ValueError) as err:
            raise EngineError(_GONE, code="down", retry_after=10) from err
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return Written(
            finish="length" if finish == "length" else "stop",
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            cached_tokens=int(cached),
            completion_tokens=int(usage.get("completion_tokens") or 0),
        )

    def _ask(self, route: str, body: Mapping[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {os.environ[KEY_VARIABLE]}"
        data = None if body is None else json.dumps(body).encode()
        return self._opener.open(urllib.request.Request(self._url + route, data=data, headers=headers), timeout=SILENCE)


def _messages(job: Job) -> list[dict[str, str]]:
    """Messages, or a conversation with our system text. Another server writes with its own template."""
    if job.conversation is None:
        return [dict(message) for message in job.messages]
    turns = Conversation.from_dict(job.conversation).turns
    return [
        {"role": "system", "content": shipped_prompt("supporter")},
        *({"role": turn.role, "content": turn.text} for turn in turns),
    ]


def _events(answer: Any) -> Iterator[dict[str, Any]]:
    for line in answer:
        name, _, data = line.decode("utf-8", "replace").partition(":")
        if name != "data":
            continue
        if data.strip() == "[DONE]":
            return
        found = json.loads(data)
        if isinstance(found, dict):
            yield found


def _refusal(code: int) -> EngineError:
    if code in (408, 429, 500, 502, 503, 504):
        return EngineError(f"The server behind the engine is busy (HTTP {code}).", code="down", retry_after=5)
    hint = f"set {KEY_VARIABLE}" if code in (401, 403) else "does the conversation fit into its context?"
    return EngineError(f"The server behind the engine refused the request (HTTP {code}): {hint}", code="refused")
