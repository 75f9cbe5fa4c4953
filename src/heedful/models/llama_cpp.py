"""Rollouts by llama.cpp in this process: the policy merged, quantised and decoded by kernels made for CPUs.

The package `xllamacpp` holds llama.cpp's server. Prompts go in as token ids and replies come back as token ids with the
log-probabilities of the full softmax, before temperature and cut-offs (checked in tests/unit/test_engines_llama.py).
So replies are drawn at temperature 1 without cut-offs, or greedily: what else was drawn from could not be learnt from.
The n replies of a prompt are one request: its prompt is read once and its cache is copied to the n sequences.

The server lists no token that leaves a character unfinished, as the first byte of an emoji does, and stops at tokens
whose names look like ends to it. So the exported vocabulary holds names of letters instead of words: every token is
listed, only the tokenizer's own end stops, and no text of a conversation exists in the server at all.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from heedful.errors import ConfigError, MissingExtraError, RunError
from heedful.models.causal import CausalModel
from heedful.models.decoding import Decoding, Written
from heedful.models.engine import (
    Drift,
    check_drift,
    check_prompts,
    check_request,
    first_seed,
    refuse_settings,
    refuse_shaped,
)
from heedful.models.generate import end_ids
from heedful.models.gguf import Precision, check_exportable, export_gguf


class LlamaCppEngine:
    """See the module's page.

    Args:
        causal: the policy; its present weights are exported, loaded and checked at once.
        precision: of the exported matrices. Q8_0 is the fast one; `f16` is nearer to the policy.
        streams: how many replies are decoded at the same time.
        context: most tokens of a prompt and its reply together.
        threads: of decoding; None = one for each core that this process may use.
        banned: token ids that are never written.
        limit: allowed mean difference from the policy's log-probabilities in fp32, in nats (`Drift`).
        folder: where the exported file lies; None = a folder of its own among the temporary files.

    `seconds` holds what the last `sync` took, by part; `checked` how far the first export was from the policy.

    Raises:
        MissingExtraError: xllamacpp is not installed.
        ConfigError: a model that cannot be exported, or settings that make no sense.
        RunError: llama.cpp cannot load the export, or it does not compute what the policy computes.
    """

    exact = False

    def __init__(
        self,
        causal: CausalModel,
        *,
        precision: Precision = "q8_0",
        streams: int = 32,
        context: int = 1024,
        threads: int | None = None,
        banned: Sequence[int] = (),
        limit: float = 0.1,
        folder: str | Path | None = None,
    ) -> None:
        self.library = _library()
        check_exportable(causal, precision=precision, vocabulary="ids")
        if streams < 1 or context < 8 or (threads is not None and threads < 1):
            raise ConfigError("The llama_cpp engine needs streams >= 1, context >= 8 and threads >= 1.")
        self.precision, self.streams, self.context, self.banned = precision, streams, context, tuple(banned)
        self.threads = threads or cores()
        self.ends = end_ids(causal)
        # Weights of a model that may have learnt from people's words: a folder that only this user can open.
        self.scratch = tempfile.TemporaryDirectory(prefix="heedful-gguf-", dir=folder)
        self.server: Any = None
        self.count = 0
        self.seconds: dict[str, float] = {}
        try:
            self.sync(causal)
            self.checked: Drift = check_drift(
                self, causal, check_prompts(causal), limit=limit, named=f"The {precision} export for llama.cpp"
            )
        except BaseException:
            self.close()
            raise

    def sync(self, causal: CausalModel) -> None:
        """Export the policy's present weights and load them in place of the old ones.

        Raises:
            RunError: llama.cpp cannot load them.
        """
        begun = time.monotonic()
        path = Path(self.scratch.name) / f"policy-{self.count}.gguf"
        self.count += 1
        export_gguf(causal, path, precision=self.precision, vocabulary="ids")
        written = time.monotonic()
        self.server = None  # before the new one: two sets of caches need not fit into memory
        try:
            self.server = self.library.Server(self._parameters(path))
        except RuntimeError as err:
            raise RunError(
                f"llama.cpp cannot load the export of '{causal.name}' ({path.stat().st_size >> 20} MiB, "
                f"{self.streams} streams of {self.context} tokens); try fewer streams or a smaller context."
            ) from err
        finally:
            for old in Path(self.scratch.name).glob("policy-*.gguf"):
                if old != path:
                    old.unlink()
        self.seconds = {"export": written - begun, "load": time.monotonic() - written}

    def sample(
        self, prompts: Sequence[tuple[int, ...]], *, n: int, settings: Decoding, names: Sequence[str]
    ) -> list[list[Written]]:
        """See `Engine.sample`. Equal calls give equal replies; the last digits depend on what else is in the batch.

        Raises:
            ConfigError: decoding settings that llama.cpp's server does not have, or gives no log-probabilities for.
            RunError: a prompt that does not fit, or an answer without what was asked for.
        """
        check_request(prompts, n=n, names=names)
        refuse_settings(
            "llama_cpp",
            settings,
            "num_beams",
            "length_penalty",
            "num_candidates",
            "min_new_tokens",
            "repetition_penalty",
            "no_repeat_ngram_size",
        )
        refuse_shaped("llama_cpp", settings, instead="choose the transformers engine")
        if self.server is None:
            raise RunError("The llama_cpp engine is closed.")
        longest = max((len(p) for p in prompts), default=0) + settings.max_new_tokens
        if longest > self.context:
            raise RunError(
                f"A prompt and its reply need {longest} tokens and the llama_cpp engine holds {self.context}; "
                "set a larger context."
            )
        share = min(n, self.streams)
        jobs = [(place, first, min(share, n - first)) for place in range(len(prompts)) for first in range(0, n, share)]
        with ThreadPoolExecutor(max_workers=max(1, self.streams // share)) as pool:
            made = list(pool.map(lambda job: self._ask(prompts[job[0]], names[job[0]], job[1], job[2], settings), jobs))
        replies: list[list[Written]] = [[] for _ in prompts]
        for (place, _, _), some in zip(jobs, made, strict=True):
            replies[place] += some
        return replies

    def close(self) -> None:
        """Unload the model and delete its file."""
        self.server = None
        self.scratch.cleanup()

    def _parameters(self, path: Path) -> Any:
        p = self.library.CommonParams()
        p.model.path = str(path)
        p.n_parallel = self.streams
        p.n_ctx = self.streams * self.context
        p.kv_unified = False  # each sequence attends over its own cells only, not over those of all others
        p.n_batch = p.n_ubatch = 512
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = self.threads
        p.cache_ram_mib = 0  # prompts of other rollouts are not kept
        p.n_ctx_checkpoints = 0
        p.fit_params = False
        p.warmup = False
        # Its log can hold prompts, and it listens on a port of this machine: say nothing, answer nobody.
        p.verbosity = -1
        p.hostnames = ["127.0.0.1"]
        p.api_keys = [secrets.token_hex(16)]
        p.endpoint_slots = p.endpoint_props = p.endpoint_metrics = p.ui = False
        return p

    def _ask(self, prompt: tuple[int, ...], name: str, first: int, count: int, settings: Decoding) -> list[Written]:
        sampled = settings.do_sample
        body: dict[str, Any] = {
            "prompt": list(prompt),
            "n": count,
            "n_predict": settings.max_new_tokens,
            "seed": first_seed(settings.seed, name) + first,
            "temperature": 1.0 if sampled else 0.0,
            "top_k": 0 if sampled else 1,
            # Nothing else: by itself llama.cpp cuts (top-k 40, top-p 0.95, min-p 0.05).
            "samplers": ["top_k", "temperature"],
            "n_probs": 1,
            "cache_prompt": True,
            "logit_bias": [[token, False] for token in self.banned],
        }
        answer: Mapping[str, Any] = self.server.handle_completions(body)
        if "choices" not in answer:
            # The message may quote the request, and that is somebody's conversation.
            raise RunError(
                f"llama.cpp refused a request ({(answer.get('error') or {}).get('type', 'no reason given')})."
            )
        choices = sorted(answer["choices"], key=lambda c: c["index"])
        if len(choices) != count or not all((c.get("logprobs") or {}).get("content") for c in choices):
            raise RunError("llama.cpp answered without the tokens or their log-probabilities.")
        return [self._written(choice["logprobs"]["content"]) for choice in choices]

    def _written(self, steps: Sequence[Mapping[str, Any]]) -> Written:
        tokens = [int(step["id"]) for step in steps]
        ended = next((i for i, token in enumerate(tokens) if token in self.ends), None)
        # The file names one end, and the model may have more: what was written behind them is cut off.
        size = len(tokens) if ended is None else ended + 1
        return Written(
            tokens=tuple(tokens[:size]),
            logprobs=tuple(float(step["logprob"]) for step in steps[:size]),
            finish="length" if ended is None else "stop",
        )


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _library() -> Any:
    try:
        import xllamacpp
    except ImportError as err:
        raise MissingExtraError("This needs llama.cpp, which is not installed: pip install 'heedful[llama]'") from err
    return xllamacpp
