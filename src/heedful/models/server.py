"""Rollouts by an OpenAI-compatible server: vLLM on one or many GPUs, or llama.cpp's own server.

`POST /v1/completions` with the prompt as token ids. A reply counts only if its token ids and the log-probability of
each are known; one that lacks them is dropped, with the reason counted, and never guessed. What is sent are people's
conversations: to this machine only, unless HEEDFUL_ALLOW_NETWORK=1 (docs/decisions/0009-network.md), and no answer of a
server is quoted in an error.

Several processes may share a server: each loads the policy's adapter under names that nobody else has.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import math
import os
import re
import secrets
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from heedful.errors import ConfigError, RunError
from heedful.models.causal import NETWORK_VARIABLE, CausalModel
from heedful.models.decoding import Decoding, Written
from heedful.models.engine import (
    Drift,
    check_drift,
    check_prompts,
    check_request,
    drift,
    first_seed,
    refuse_settings,
    refuse_shaped,
)
from heedful.models.generate import end_ids

URL_VARIABLE, KEY_VARIABLE = "OPENAI_BASE_URL", "OPENAI_API_KEY"
AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""HTTP states that may be over a moment later."""
PAUSE = 0.5
"""Seconds before the second try; twice as long before each further one."""
PROCESSED = "processed_logprobs"
HOT = 2.0
"""Temperature at which a server has to show that its log-probabilities follow the temperature."""
_TOKEN = re.compile(r"token_id:(\d+)")


class ServerEngine:
    """See the module's page.

    Args:
        causal: the policy; it names the end tokens and the tokenizer, and its adapter is what `sync` sends.
        model: the served model's name.
        base_url: with or without `/v1`; None = OPENAI_BASE_URL. A key is read from OPENAI_API_KEY.
        lora_name: how the names of the policy's adapters on the server begin: NAME-RANK-TOKEN-COUNT, with the process's
            RANK and a random token (vLLM with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True; the folder of
            adapters must be readable there, and `--max-loras` at least the number of processes).
        fixed: sample from weights that stay as they are. Without `lora_name` there is no way to sync, and this says
            that it is meant.
        banned: token ids that are never written.
        logprobs_mode: what the server gives, in vLLM's words (its `--logprobs-mode`, one for all requests):
            log-probabilities at temperature 1, or at the temperature of the request. Other temperatures than 1 need
            the second, and that it is so is measured at the start, unless `limit` is None.
        workers: requests at the same time.
        timeout: seconds that one request may take.
        retries: how often a request that failed is sent again, after pauses of 0.5, 1, 2, ... seconds.
        limit: allowed mean difference from the policy's log-probabilities in fp32 at the start, in nats; None: any.
        folder: where adapters are saved for the server; None = a folder among the temporary files.

    `dropped` counts replies that could not be used, by reason. `checked` is the difference at the start.

    Raises:
        ConfigError: an address that may not be used, or no way to sync.
        RunError: the server does not answer, or it does not serve this policy.
    """

    exact = False

    def __init__(
        self,
        causal: CausalModel,
        *,
        model: str,
        base_url: str | None = None,
        lora_name: str | None = None,
        fixed: bool = False,
        banned: Sequence[int] = (),
        logprobs_mode: Literal["raw_logprobs", "processed_logprobs"] = "raw_logprobs",
        workers: int = 16,
        timeout: float = 300.0,
        retries: int = 4,
        limit: float | None = 0.25,
        folder: str | Path | None = None,
    ) -> None:
        if (lora_name is None) != fixed:
            raise ConfigError(
                "A server takes over new weights only as a LoRA adapter: start vLLM with --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and set lora_name, or set fixed: true to sample from weights "
                "that stay as they are; one of the two."
            )
        if workers < 1 or timeout <= 0 or retries < 0:
            raise ConfigError("The server engine needs workers >= 1, timeout > 0 and retries >= 0.")
        if lora_name is not None and not re.fullmatch(r"\w[\w.-]*", lora_name):
            raise ConfigError("lora_name becomes a folder's name: use letters, digits, '.', '_' and '-' only.")
        self.url, self._opener = opened(base_url or os.environ.get(URL_VARIABLE, ""))
        self.model, self.lora_name, self.banned = model, lora_name, tuple(banned)
        self.any_temperature = logprobs_mode == PROCESSED
        self.workers, self.timeout, self.retries = workers, timeout, retries
        self.tokenizer, self.ends = causal.tokenizer, end_ids(causal)
        self.dropped: Counter[str] = Counter()
        self.seconds = 0.0
        self.checked: Drift | None = None
        self._served, self._count = model, 0
        # A server keeps one adapter per name, and other processes and runs talk to it too.
        rank = os.environ.get("RANK", "")
        self._own = f"{lora_name}-{rank if rank.isdecimal() else 0}-{secrets.token_hex(4)}"
        self._scratch = tempfile.TemporaryDirectory(prefix="heedful-adapters-", dir=folder)
        try:
            self.sync(causal)
            if limit is not None:
                self.checked = check_drift(
                    self, causal, check_prompts(causal), limit=limit, named=f"The server's model '{self._served}'"
                )
                self._check_temperature(causal, limit)
        except BaseException:
            self.close()
            raise

    def sample(
        self, prompts: Sequence[tuple[int, ...]], *, n: int, settings: Decoding, names: Sequence[str]
    ) -> list[list[Written]]:
        """See `Engine.sample`. Fewer than n replies come for a prompt where some were dropped (see `dropped`).

        Raises:
            ConfigError: decoding settings that the servers do not have, or give no log-probabilities for.
            RunError: no answer after all retries, a refused request, or not one reply that can be used.
        """
        check_request(prompts, n=n, names=names)
        unknown = ("num_beams", "length_penalty", "num_candidates", "repetition_penalty", "no_repeat_ngram_size")
        refuse_settings("server", settings, *unknown)
        refuse_shaped(
            "server",
            settings,
            any_temperature=self.any_temperature,
            instead=f"start vLLM with --logprobs-mode {PROCESSED} and set logprobs_mode: {PROCESSED}",
        )
        bodies = [self._body(p, n, settings, name) for p, name in zip(prompts, names, strict=True)]
        with ThreadPoolExecutor(max_workers=self.workers) as pool:
            answers = list(pool.map(lambda body: self._post("/v1/completions", body), bodies))
        before = Counter(self.dropped)
        replies = [self._replies(answer, n) for answer in answers]
        if prompts and not any(replies):
            reason = (self.dropped - before).most_common(1)[0][0]
            raise RunError(f"Not one of the server's {n * len(prompts)} replies can be used: {reason}.")
        return replies

    def sync(self, causal: CausalModel) -> None:
        """Save the policy's adapter and have the server load it under a new name; nothing where weights are `fixed`.

        The name is new each time since vLLM keys its prefix cache by it: under an old name, prompts would be continued
        from keys and values of the weights before (vllm-project/vllm#42125). Nobody else has it, so a server that says
        that it is loaded already had only lost its answer to an earlier try.

        Raises:
            ConfigError: a policy without an adapter, or one with parts that servers do not load.
            RunError: the server did not take it.
        """
        if self.lora_name is None:
            return
        begun = time.monotonic()
        _check_adapter(causal)
        self._count += 1
        name = f"{self._own}-{self._count}"
        path = Path(self._scratch.name) / name
        causal.model.save_pretrained(str(path))
        if self._served != self.model:
            self._unload()
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)}, done={400: "already"})
        self._served = name
        for old in Path(self._scratch.name).iterdir():
            if old != path:
                for file in old.iterdir():
                    file.unlink()
                old.rmdir()
        self.seconds = time.monotonic() - begun

    def close(self) -> None:
        """Have the server forget the adapter; delete the local copy."""
        if self._served != self.model:
            with contextlib.suppress(RunError):  # a server that is gone has forgotten it already
                self._unload()
        self._scratch.cleanup()

    def _unload(self) -> None:
        name, self._served = self._served, self.model
        self._post("/v1/unload_lora_adapter", {"lora_name": name}, done={404: ""})

    def _check_temperature(self, causal: CausalModel, limit: float) -> None:
        if not self.any_temperature:
            return
        found = drift(self, causal, check_prompts(causal), temperature=HOT)
        if not found.mean <= limit:
            raise RunError(
                f"The server's log-probabilities are not those at the temperature of the replies: at {HOT:g} they are "
                f"{found.mean:.3f} nats a token off, and at most {limit:g} is allowed; start vLLM with --logprobs-mode "
                f"{PROCESSED}, or leave logprobs_mode and temperature out."
            )

    def _body(self, prompt: tuple[int, ...], n: int, settings: Decoding, name: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._served,
            "prompt": list(prompt),
            "n": n,
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature if settings.do_sample else 0.0,
            # Said although nothing is cut: left out, vLLM takes them from the checkpoint's generation_config.json, and
            # llama.cpp has cuts of its own.
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": first_seed(settings.seed, name),
            "logprobs": 1,
            "stream": False,
            # vLLM's own words; other servers pass over what they do not know.
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
            "stop_token_ids": sorted(self.ends),
        }
        if settings.min_new_tokens:
            body["min_tokens"] = settings.min_new_tokens
        if self.banned:
            body["logit_bias"] = {str(token): -100 for token in self.banned}
        return body

    def _replies(self, answer: Mapping[str, Any], n: int) -> list[Written]:
        choices = answer.get("choices")
        found = sorted(
            (c for c in choices if isinstance(c, Mapping)) if isinstance(choices, list) else (),
            key=lambda c: c.get("index") or 0,
        )
        if len(found) < n:
            self.dropped["the server wrote fewer replies than it was asked for"] += n - len(found)
        out: list[Written] = []
        for choice in found[:n]:
            made = read_choice(choice, ends=self.ends, tokenizer=self.tokenizer)
            if isinstance(made, Written):
                out.append(made)
            else:
                self.dropped[made] += 1
        return out

    def _post(self, route: str, body: Mapping[str, Any], *, done: Mapping[int, str] | None = None) -> Mapping[str, Any]:
        """The answer to a request. `done`: HTTP states whose answer, with this word, says that it was done before."""
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {os.environ[KEY_VARIABLE]}"
        data = json.dumps(body).encode()
        why = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            request = urllib.request.Request(self.url + route, data=data, headers=headers, method="POST")
            try:
                with self._opener.open(request, timeout=self.timeout) as response:
                    return _json(response.read(), plain=route != "/v1/completions")
            except urllib.error.HTTPError as err:
                said = _words(err)
                if done and err.code in done and done[err.code] in said:
                    return {}
                if err.code not in AGAIN:
                    raise RunError(_refusal(self.url + route, err.code)) from None
                why = f"it answered with HTTP {err.code}"
            except TimeoutError:
                why = f"no answer within {self.timeout:g} s"
            except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as err:
                reason = getattr(err, "reason", err)
                late = isinstance(reason, TimeoutError)
                why = f"no answer within {self.timeout:g} s" if late else f"{type(reason).__name__}"
        times = "once" if self.retries == 0 else f"{self.retries + 1} times"
        raise RunError(f"The server at {self.url} did not answer {route} ({why}; tried {times}); is it running?")


def read_choice(choice: Mapping[str, Any], *, ends: frozenset[int], tokenizer: Any) -> Written | str:
    """One reply of a completions answer as tokens with log-probabilities, or the reason why it cannot be used.

    Token ids come from `token_ids` (vLLM), from tokens written `token_id:123` (vLLM), or from `logprobs.content`
    (llama.cpp). Failing these, the tokens' texts are encoded again, and every one of them must come out the same.
    """
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, Mapping):
        return "the server gives no log-probabilities"
    content = logprobs.get("content")
    if isinstance(content, list):
        steps = [step for step in content if isinstance(step, Mapping)]
        values: list[Any] = [step.get("logprob") for step in steps]
        texts: list[Any] = [step.get("token") for step in steps]
        ids: Any = [step.get("id") for step in steps]
        if _are_ids(ids) and not all(_is_whole(i, t, tokenizer) for i, t in zip(ids, texts, strict=True)):
            return "it has a character of several tokens, of which the server lists only the last"
    else:
        values, texts = logprobs.get("token_logprobs") or [], logprobs.get("tokens") or []
        ids = choice.get("token_ids")
    if not _are_ids(ids):
        ids = _ids_of(texts, tokenizer)
    if ids is None:
        return "its token ids cannot be told from the server's answer"
    if not ids:
        return "it is empty"
    if len(values) != len(ids) or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        return "some of its tokens have no log-probability"
    ended = next((i for i, token in enumerate(ids) if token in ends), None)
    finish = choice.get("finish_reason")
    if ended is None and finish != "length":
        known = finish if finish in ("stop", "abort", "error", "content_filter") else "unknown"
        return f"it ended without an end token (finish_reason: {known})"
    size = len(ids) if ended is None else ended + 1
    return Written(
        tokens=tuple(ids[:size]),
        logprobs=tuple(float(v) for v in values[:size]),
        finish="length" if ended is None else "stop",
    )


def _are_ids(ids: Any) -> bool:
    return isinstance(ids, list) and all(isinstance(i, int) and not isinstance(i, bool) for i in ids)


def _is_whole(token: int, text: Any, tokenizer: Any) -> bool:
    """Whether a listed token stands for itself: llama.cpp's server gives the last one of a character all its bytes."""
    return text == "" or (isinstance(text, str) and text == tokenizer.decode([token], skip_special_tokens=False))


def _ids_of(texts: Any, tokenizer: Any) -> list[int] | None:
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        return None
    marked = [_TOKEN.fullmatch(t) for t in texts]
    if all(marked):
        return [int(m[1]) for m in marked if m]
    ids: list[int] = tokenizer("".join(texts), add_special_tokens=False).input_ids
    same = [tokenizer.decode([i], skip_special_tokens=False) for i in ids] == texts
    return ids if same else None


def _check_adapter(causal: CausalModel) -> None:
    configs = getattr(causal.model, "peft_config", None)
    if not configs:
        raise ConfigError(
            "The server engine sends a LoRA adapter, but the policy has none; train with delta: lora, or use another "
            "engine."
        )
    config = configs[causal.model.active_adapter]
    parts = [
        what
        for what, there in (
            ("new vocabulary rows", getattr(config, "trainable_token_indices", None)),
            ("whole modules", getattr(config, "modules_to_save", None)),
            ("biases", getattr(config, "bias", "none") != "none"),
            ("DoRA magnitudes", getattr(config, "use_dora", False)),
            ("no LoRA", config.peft_type != "LORA"),
        )
        if there
    ]
    if parts:
        raise ConfigError(
            f"Servers load plain LoRA adapters, but the policy's has {' and '.join(parts)}; use delta: lora with a "
            "format that adds no tokens, or another engine."
        )


def opened(url: str) -> tuple[str, urllib.request.OpenerDirector]:
    """The address without `/v1`, and an opener that goes there and nowhere else.

    Raises:
        ConfigError: no address, or one beyond this machine without permission.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise ConfigError(
            f"The server engine needs base_url (or {URL_VARIABLE}) as http://HOST:PORT/v1, without user or query."
        )
    near = _is_loopback(parts.hostname)
    if not near and os.environ.get(NETWORK_VARIABLE, "").upper() not in ("1", "TRUE", "YES", "ON"):
        raise ConfigError(
            f"The server '{parts.hostname}' is not this machine, and prompts are conversations; set "
            f"{NETWORK_VARIABLE}=1 to have them sent there."
        )
    handlers: list[urllib.request.BaseHandler] = [_Stay()]
    if near:
        handlers.append(urllib.request.ProxyHandler({}))  # a proxy of the environment is another machine
    return url.rstrip("/").removesuffix("/v1"), urllib.request.build_opener(*handlers)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would carry the key, and lead away from the address that was allowed."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _words(err: urllib.error.HTTPError) -> str:
    """What a refusal says, to look for a word in it; it may hold words of a conversation and is never shown."""
    with err, contextlib.suppress(OSError, http.client.HTTPException):
        return err.read(10_000).decode("utf-8", "replace")
    return ""


def _json(data: bytes, *, plain: bool) -> Mapping[str, Any]:
    if plain:  # vLLM answers a loaded adapter with a sentence
        return {}
    found = json.loads(data)
    if not isinstance(found, Mapping):
        raise ValueError("no JSON object")
    return found


def _refusal(address: str, code: int) -> str:
    hints = {
        400: "it does not take such a request; does it accept token ids, and do prompt and reply fit?",
        401: f"set {KEY_VARIABLE}",
        403: f"set {KEY_VARIABLE}",
        404: "the model or the route is not there; is the name right, and is LoRA updating switched on?",
    }
    return f"The server refused {address} with HTTP {code}: {hints.get(code, 'its log says why')}."
