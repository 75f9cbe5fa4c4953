"""Engines: whatever writes replies for a policy that is being trained.

The trainer's own weights under transformers are exact. llama.cpp and servers can be faster and are a little off (other
precision, other kernels, weights of some steps ago). All speak one protocol, in token ids, and give the log-probability
of every token they wrote, so that the loss can correct for the difference and the log can show it. Those are of the
distribution that was drawn from, since that is the policy: at its temperature, over the whole vocabulary.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from heedful.errors import ConfigError, DataError, RunError, nearest, shown
from heedful.formats import Sample, TokenTree, pack
from heedful.models.causal import CausalModel
from heedful.models.decoding import Decoding, Written
from heedful.models.forward import prediction_logits, tensors
from heedful.models.generate import generate, prompt_only
from heedful.models.merged import merged
from heedful.registry import Registry

ENGINES = Registry(
    "rollout engine",
    {
        "transformers": "heedful.models.engine:TransformersEngine",
        "llama_cpp": "heedful.models.llama_cpp:LlamaCppEngine",
        "server": "heedful.models.server:ServerEngine",
    },
)
"""Who writes the replies of a rollout: name -> class; see `make_engine` for what it is called with."""


class Engine(Protocol):
    """Writes replies for prompts, with the weights of the last `sync`.

    It is made by `make_engine` with the policy and options of its own; an option `banned` gets the ids of the tokens
    that must never be written, as those that only a format may put into a dialogue.

    `exact` says whether its log-probabilities are those of the trainer's own weights and precision. Where they are not,
    a loss must not take them for the policy's: compare them, and correct by importance.
    """

    @property
    def exact(self) -> bool: ...

    def sample(
        self, prompts: Sequence[tuple[int, ...]], *, n: int, settings: Decoding, names: Sequence[str]
    ) -> list[list[Written]]:
        """`n` replies for each prompt, in the order of `prompts`; fewer where a server's answer cannot be used.

        Their log-probabilities are as in `Written`; settings that an engine cannot give them for are refused.

        Args:
            names: one per prompt, all different; with `settings.seed` they key the random streams of the replies.
        """

    def sync(self, causal: CausalModel) -> None:
        """Take over the policy's present weights, its adapter included."""

    def close(self) -> None:
        """Give back memory, files and threads; the engine is not used afterwards."""


def make_engine(name: str, causal: CausalModel, options: Mapping[str, Any], banned: Sequence[int] = ()) -> Engine:
    """An engine from configuration values.

    Args:
        name: of `ENGINES`, or `module:Class`.
        options: the engine's own, `engine_options` of a run.
        banned: tokens that must never be written, besides those of the options; for an engine that takes `banned`.

    Raises:
        NotFoundError: no such engine.
        ConfigError: an option that the engine does not have or needs, or a value of the wrong type.
    """
    made = ENGINES.get(name)
    where = f"engine_options: the engine '{name}'"
    wanted = inspect.signature(made)
    policy, rest = list(wanted.parameters)[:1], list(wanted.parameters.values())[1:]
    known = [p.name for p in rest if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in rest)
    for key in options:
        if key in policy or (key not in known and not open_ended):
            raise ConfigError(
                f"{where} has no option '{key}'.{nearest(key, known)} It has: {', '.join(sorted(known)) or 'none'}."
            )
    given = _typed(where, made, options)
    if banned and ("banned" in known or open_ended):
        given["banned"] = sorted({*banned, *given.get("banned", ())})
    try:
        wanted.bind(causal, **given)
    except TypeError as err:
        raise ConfigError(f"{where} cannot be made from these options: {err}.") from err
    # Outside of `try`: a TypeError in there is an error of the engine, not of the configuration.
    engine: Engine = made(causal, **given)
    return engine


def _typed(where: str, made: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the engine's annotations want them."""
    found = dict(options)
    try:
        hints = get_type_hints(made.__init__ if inspect.isclass(made) else made)
    except (NameError, TypeError, AttributeError):
        return found  # annotations that only a type checker can read
    for key in hints.keys() & found.keys():
        try:
            found[key] = TypeAdapter(hints[key]).validate_python(found[key])
        except ValidationError as err:
            message = err.errors(include_url=False)[0]["msg"]
            raise ConfigError(f"{where}, option '{key}': {message}, but it is {shown(options[key])}.") from err
        except PydanticUserError:
            continue  # a type of somebody else's, of which pydantic knows nothing
    return found


DTYPES = ("float32", "bfloat16", "float16")


class TransformersEngine:
    """The trainer's own model. The prompt of n replies is read once (token trees); an adapter is merged meanwhile.

    Args:
        causal: the policy itself, not a copy: every step of training is in effect at once.
        dtype: to decode in: a name of `DTYPES` or a torch dtype; None = the weights' own.
        branches: about how many replies are decoded in one batch.
        banned: token ids that are never written.
        exact: whether the trainer computes as this engine does. None: where everything is fp32.

    Raises:
        ConfigError: an unknown dtype.
    """

    def __init__(
        self,
        causal: CausalModel,
        *,
        dtype: Any = None,
        branches: int = 64,
        banned: Sequence[int] = (),
        exact: bool | None = None,
    ) -> None:
        import torch

        if isinstance(dtype, str) and dtype in DTYPES:
            dtype = getattr(torch, dtype)
        if dtype is not None and not isinstance(dtype, torch.dtype):
            hint = nearest(dtype, DTYPES) if isinstance(dtype, str) else ""
            raise ConfigError(
                f"The transformers engine's dtype is one of {', '.join(DTYPES)}, but it is {shown(dtype)}.{hint}"
            )
        self.causal, self.dtype, self.branches, self.banned = causal, dtype, branches, tuple(banned)
        full = dtype in (None, torch.float32) and all(p.dtype == torch.float32 for p in causal.model.parameters())
        self._exact = full if exact is None else exact

    @property
    def exact(self) -> bool:
        """Whether log-probabilities are the trainer's own, to rounding in fp32."""
        return self._exact

    def sample(
        self, prompts: Sequence[tuple[int, ...]], *, n: int, settings: Decoding, names: Sequence[str]
    ) -> list[list[Written]]:
        """See `Engine.sample`. Reply i of `name` has the stream of `name/i`, so it can be made again alone (fp32)."""
        check_request(prompts, n=n, names=names)
        asked = [
            prompt_only(f"{name}/{i}", name, 0, prompt)
            for prompt, name in zip(prompts, names, strict=True)
            for i in range(n)
        ]
        model = self.causal.model
        was = model.training
        model.eval()  # dropout would draw from another model at every token
        try:
            with merged(model, dtype=self.dtype):
                batches = generate(self.causal, asked, settings, branches=self.branches, banned=self.banned)
                written = {reply.id: reply.written for batch in batches for reply in batch}
        finally:
            model.train(was)
        return [[written[f"{name}/{i}"] for i in range(n)] for name in names]

    def sync(self, causal: CausalModel) -> None:
        """Nothing to copy: the engine decodes with `causal` itself."""
        self.causal = causal

    def close(self) -> None:
        """Nothing to give back."""


def check_request(prompts: Sequence[tuple[int, ...]], *, n: int, names: Sequence[str]) -> None:
    """Refuse prompts and names that do not fit each other.

    Raises:
        DataError: not one name of its own for each prompt, an empty prompt, or n below 1.
    """
    if len(names) != len(prompts) or len(set(names)) != len(names):
        raise DataError(
            f"An engine needs a name of its own for each prompt, but got {len(prompts)} prompts and "
            f"{len(set(names))} different names."
        )
    if n < 1 or not all(prompts):
        raise DataError("An engine needs n >= 1 and prompts of at least one token.")


def refuse_settings(engine: str, settings: Decoding, *names: str) -> None:
    """Refuse decoding settings that `engine` would not follow; a setting without effect must not stand in a record.

    Raises:
        ConfigError: one of `names` differs from its default.
    """
    given = [name for name in names if getattr(settings, name) != getattr(Decoding, name)]
    if given:
        raise ConfigError(
            f"The {engine} engine does not know {' and '.join(given)}; leave {'it' if len(given) == 1 else 'them'} "
            "out, or choose the transformers engine."
        )


def refuse_shaped(engine: str, settings: Decoding, *, any_temperature: bool = False, instead: str) -> None:
    """Refuse to draw from another distribution than the one whose log-probabilities `engine` gives.

    A policy gradient needs log pi of the distribution that was drawn from. It cannot be had afterwards from the drawn
    token's log-probability at temperature 1, which says nothing of the other tokens.

    Args:
        any_temperature: whether log-probabilities are those at `settings.temperature`.
        instead: what to do for another temperature.

    Raises:
        ConfigError: a cut-off, or a temperature other than 1.
    """
    if not settings.do_sample:
        return
    if not any_temperature and settings.temperature != 1.0:
        raise ConfigError(
            f"The {engine} engine gives log-probabilities at temperature 1, and learning needs those at the "
            f"temperature of the replies, {settings.temperature:g}; leave temperature out, or {instead}."
        )
    cut = [name for name in ("top_k", "top_p") if getattr(settings, name) != getattr(Decoding, name)]
    if cut:
        raise ConfigError(
            f"The {engine} engine gives log-probabilities over the whole vocabulary, and {' and '.join(cut)} would "
            f"draw from a part of it, which learning could not correct for; leave {'it' if len(cut) == 1 else 'them'} "
            "out."
        )


def first_seed(seed: int, name: str) -> int:
    """Seed of a prompt's first reply, for engines that number the others on from it; 31 bits fit everywhere."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "little") >> 1


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far an engine is from the trainer's weights in fp32, over the tokens that it wrote, greedily unless said.

    Args:
        tokens: how many were compared.
        agree: share of them that the trainer's weights rank first too.
        mean, largest: absolute difference of log-probabilities, in nats.
    """

    tokens: int
    agree: float
    mean: float
    largest: float

    def sentence(self) -> str:
        """The figures in words."""
        return (
            f"log-probabilities differ by {self.mean:.4f} nats on average and {self.largest:.3f} at most over "
            f"{self.tokens} greedy tokens, {100 * self.agree:.1f} % of which the policy's own weights choose too"
        )


def drift(
    engine: Engine,
    causal: CausalModel,
    prompts: Sequence[tuple[int, ...]],
    *,
    max_new_tokens: int = 24,
    temperature: float | None = None,
) -> Drift:
    """Let `engine` write after `prompts` and score its tokens with `causal` in fp32.

    Args:
        temperature: at which tokens are drawn and scored; None: the best token each time, scored at 1.

    Raises:
        RunError: it wrote nothing.
    """
    import torch

    names = [f"drift/{i}" for i in range(len(prompts))]
    heat = 1.0 if temperature is None else temperature
    settings = Decoding(max_new_tokens=max_new_tokens, do_sample=temperature is not None, temperature=heat)
    written = engine.sample(prompts, n=1, settings=settings, names=names)
    samples = [
        Sample(id=name, conversation_id=name, turn=0, prompt=prompt, target=replies[0].tokens)
        for name, prompt, replies in zip(names, prompts, written, strict=True)
        if replies
    ]
    claimed = [value for replies in written for reply in replies[:1] for value in reply.logprobs]
    if not claimed:
        raise RunError("The engine wrote nothing after the prompts that it is checked with.")
    found: list[tuple[float, bool]] = []
    was = causal.model.training
    causal.model.eval()
    with torch.no_grad(), merged(causal.model, dtype=torch.float32):
        for sample in samples:  # one by one: a handful of short rows
            packed = pack([TokenTree.merge([sample])], pad_id=causal.pad_id)
            batch = {k: v.to(causal.device) for k, v in tensors(packed).items()}
            logits = prediction_logits(causal.model, batch).float()
            table = (logits / heat).log_softmax(-1)
            chosen = table.gather(1, batch["label"][:, None])[:, 0]
            found += zip(chosen.tolist(), (table.argmax(1) == batch["label"]).tolist(), strict=True)
    causal.model.train(was)
    gaps = [abs(ours - theirs) for (ours, _), theirs in zip(found, claimed, strict=True)]
    return Drift(
        tokens=len(gaps),
        agree=sum(best for _, best in found) / len(found),
        mean=sum(gaps) / len(gaps),
        largest=max(gaps),
    )


def check_drift(
    engine: Engine, causal: CausalModel, prompts: Sequence[tuple[int, ...]], *, limit: float, named: str
) -> Drift:
    """`drift`, refused above `limit` nats on average.

    Raises:
        RunError: the engine does not compute what the policy computes.
    """
    found = drift(engine, causal, prompts)
    if not found.mean <= limit:
        raise RunError(
            f"{named} does not compute what '{causal.name}' computes: {found.sentence()}; at most {limit:g} on average "
            "is allowed. Choose a finer precision, or another engine."
        )
    return found


TEXTS = (
    "I moved last month and the evenings are quiet.",
    "Thank you for asking. It has been a long week at work, and my sister has not called.",
    "What would help you to sleep tonight?",
)
"""Neutral sentences, written for this check, that an engine continues to be compared."""


def check_prompts(causal: CausalModel) -> list[tuple[int, ...]]:
    """`TEXTS` as prompts, in the model's own chat template where it has one."""
    tokenizer = causal.tokenizer
    texts = list(TEXTS)
    if getattr(tokenizer, "chat_template", None):
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            for text in TEXTS
        ]
    return [tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
