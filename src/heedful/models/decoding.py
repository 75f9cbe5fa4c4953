"""How the next token is chosen: greedy, sampling, beams; one object per reply, no batch in sight.

Each reply has a random stream of its own, keyed by seed and sample id. So a reply does not depend on what else was in
the batch, an interrupted run continues with the same words, and one reply can be made again alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np

from heedful.errors import ConfigError
from heedful.models.consensus import UTILITIES

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Decoding settings, named as in transformers' GenerationConfig.

    Args:
        max_new_tokens, min_new_tokens: bounds on the reply, end token included.
        do_sample: draw instead of taking the best token.
        temperature, top_k, top_p: shape of the distribution that is drawn from (top_k 0 = off).
        num_beams: 1 is greedy or sampling; more is beam search (not together with do_sample).
        length_penalty: exponent on length in a finished beam's score.
        num_candidates: 1 is one draw; of more draws the one is kept that the others agree with most (minimum Bayes
            risk, see `heedful.models.consensus`; only together with do_sample).
        mbr_utility: how the agreement of two draws is measured.
        repetition_penalty: divides positive and multiplies negative logits of tokens that were seen (CTRL, 2019).
        no_repeat_ngram_size: an n-gram of prompt and reply may not be written again (0 = off).
        seed: of the random streams.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    num_candidates: int = 1
    mbr_utility: Literal["rougeL", "bleu2"] = "rougeL"
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    seed: int = 13

    def record(self) -> dict[str, Any]:
        """As a file of replies keeps it. The choice among draws is named only where there is one."""
        found = asdict(self)
        if self.num_candidates == 1:
            del found["num_candidates"], found["mbr_utility"]
        return found

    @property
    def width(self) -> int:
        """How many branches one reply takes while it is written: its beams or its candidates."""
        return max(self.num_beams, self.num_candidates)

    def __post_init__(self) -> None:
        if self.do_sample and self.num_beams > 1:
            raise ConfigError("Decoding draws (do_sample: true) or searches (num_beams > 1), not both; choose one.")
        if self.num_candidates < 1 or (self.num_candidates > 1 and not self.do_sample):
            raise ConfigError("Decoding with num_candidates > 1 chooses among draws; set do_sample: true as well.")
        if self.mbr_utility != "rougeL" and self.num_candidates == 1:
            raise ConfigError(
                "Decoding has an mbr_utility only where num_candidates is at least 2; set it, or leave both."
            )
        if not 0 <= self.min_new_tokens <= self.max_new_tokens or self.max_new_tokens < 1:
            raise ConfigError(
                "Decoding needs 0 <= min_new_tokens <= max_new_tokens and max_new_tokens >= 1, but got "
                f"{self.min_new_tokens} and {self.max_new_tokens}."
            )
        if self.temperature <= 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.num_beams < 1:
            raise ConfigError("Decoding needs temperature > 0, 0 < top_p <= 1, top_k >= 0 and num_beams >= 1.")
        if self.repetition_penalty <= 0 or self.no_repeat_ngram_size < 0:
            raise ConfigError("Decoding needs repetition_penalty > 0 and no_repeat_ngram_size >= 0.")


@dataclass(frozen=True, kw_only=True)
class SeenBanned(Decoding):
    """The sampler of READER's released code (reader.md, trap 8), to measure what it does; not for writing replies.

    top_k and top_p cut first. Then every token that the row holds, prompt and reply, gets the logit -1000. Where the
    cut left none but such tokens, the draw falls back to a uniform one over the whole row. Until `min_new_tokens` are
    written, an end token that is drawn so ends nothing.
    """


SEEN_LOGIT = -1000.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a chooser wants next: for each live branch, which earlier branch it continues and its new token."""

    parents: tuple[int, ...]
    tokens: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Written:
    """A finished reply.

    Args:
        logprobs: of the chosen tokens, under the distribution at the temperature that they were drawn with (1 where
            nothing is drawn), before cut-offs, penalties and bans.
        finish: `stop` (end token) or `length`.
        probabilities: of the labels that a plan was chosen from (see `heedful.models.plan`); empty without a plan.
        own: log-probabilities of the words (a plan in front left out) at temperature 1: what the model itself held of
            them, however they were drawn. Empty where a reply is searched for (beams), and where a plan is followed
            more or less strongly than the model would (`heedful.models.guidance`).
    """

    tokens: tuple[int, ...] = field(repr=False)
    logprobs: tuple[float, ...]
    finish: str
    probabilities: tuple[float, ...] = ()
    own: tuple[float, ...] = ()


class Chooser(Protocol):
    """One reply in the making: takes logits [branches, V], says how to go on; `done` holds the result."""

    @property
    def done(self) -> Written | None: ...

    def step(self, logits: torch.Tensor) -> Step: ...


def stream(seed: int, name: str) -> np.random.Generator:
    """The random stream of one reply."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def choose(choosers: Sequence[Chooser], logits: Sequence[torch.Tensor]) -> list[Step]:
    """One step of many replies; those that draw plainly are drawn together.

    Args:
        logits: per reply [branches, V].
    """
    import torch

    plain = [i for i, c in enumerate(choosers) if isinstance(c, _Single) and c.plain]
    if len(plain) < 2:
        return [c.step(rows) for c, rows in zip(choosers, logits, strict=True)]
    drawn = draw_plain([cast("_Single", choosers[i]) for i in plain], torch.cat([logits[i] for i in plain]))
    steps = dict(zip(plain, drawn, strict=True))
    return [steps[i] if i in steps else c.step(logits[i]) for i, c in enumerate(choosers)]


def advance(
    choosers: Mapping[str, Chooser],
    names: Sequence[str],
    logits: torch.Tensor,
    on_token: Callable[[str, int], None] | None = None,
) -> tuple[list[int], list[int]]:
    """Ask every unfinished reply of a batch how it goes on.

    Args:
        choosers: name of a reply -> its chooser.
        names: of the reply that each live branch belongs to; branches of one reply stand together.
        logits: [branches, V].
        on_token: called with name and token; only for replies whose branches all say the same, the first one's words.

    Returns:
        Which branches go on, in their new order (one may do so more than once), and the token of each; nothing where
        all replies are finished.
    """
    starts = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    ends = [*starts[1:], len(names)]
    deciders = [choosers[names[first]] for first in starts]
    steps = choose(deciders, [logits[first:end] for first, end in zip(starts, ends, strict=True)])
    kept: list[int] = []
    tokens: list[int] = []
    for first, decider, step in zip(starts, deciders, steps, strict=True):
        if on_token:
            on_token(names[first], step.tokens[0])
        if decider.done is None:
            kept.extend(first + p for p in step.parents)
            tokens.extend(step.tokens)
    return kept, tokens


def chooser(
    settings: Decoding, *, name: str, prompt: Sequence[int], end: frozenset[int], banned: Sequence[int] = ()
) -> Chooser:
    """The chooser for one reply; `banned` tokens are never written."""
    shape = _Shape(settings, prompt=tuple(prompt), end=end, banned=tuple(banned))
    if settings.num_beams > 1:
        return _Beams(settings, shape)
    if settings.num_candidates > 1:
        draws = [_Single(settings, shape, stream(settings.seed, f"{name}/{i}")) for i in range(settings.num_candidates)]
        return _Consensus(draws, utility=settings.mbr_utility, end=end)
    return _Single(settings, shape, stream(settings.seed, name) if settings.do_sample else None)


_BLOCK = 256


class _Shape:
    """Penalties and bans, as transformers applies them, on the exact tokens of one branch."""

    def __init__(
        self, settings: Decoding, *, prompt: tuple[int, ...], end: frozenset[int], banned: tuple[int, ...]
    ) -> None:
        self.settings, self.prompt, self.end, self.banned = settings, prompt, end, list(banned)

    def __call__(self, logits: torch.Tensor, written: Sequence[int]) -> torch.Tensor:
        import torch

        s = self.settings
        out = logits.clone()
        if s.repetition_penalty != 1.0:
            seen = torch.tensor(sorted({*self.prompt, *written}), device=out.device)
            values = out[seen]
            out[seen] = torch.where(values < 0, values * s.repetition_penalty, values / s.repetition_penalty)
        blocked = list(self.banned)
        if s.no_repeat_ngram_size:
            blocked += _repeats((*self.prompt, *written), s.no_repeat_ngram_size)
        if len(written) < s.min_new_tokens:
            blocked += self.end
        if blocked:
            out[blocked] = -torch.inf
        return out


def _repeats(tokens: tuple[int, ...], n: int) -> list[int]:
    if len(tokens) < n:
        return []
    tail = tokens[len(tokens) - n + 1 :]
    return [tokens[i + n - 1] for i in range(len(tokens) - n + 1) if tokens[i : i + n - 1] == tail]


class _Single:
    """Greedy (no stream) or sampling."""

    def __init__(self, settings: Decoding, shape: _Shape, draw: np.random.Generator | None) -> None:
        self.settings, self.shape, self.draw = settings, shape, draw
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.own: list[float] = []
        self.done: Written | None = None

    @property
    def plain(self) -> bool:
        """Whether the next token is drawn from the whole distribution, without penalty, cut-off or rule of its own."""
        s = self.settings
        whole = s.top_k == 0 and s.top_p == 1.0 and s.repetition_penalty == 1.0 and s.no_repeat_ngram_size == 0
        whole = whole and not isinstance(s, SeenBanned)
        return whole and self.draw is not None and len(self.tokens) >= s.min_new_tokens

    def step(self, logits: torch.Tensor) -> Step:
        if self.plain:
            return draw_plain([self], logits)[0]
        row = logits[0].float()
        shaped = self.shape(row, self.tokens)
        token = int(shaped.argmax()) if self.draw is None else self._sample(shaped, self.draw)
        own = float(row[token] - row.logsumexp(0))
        if self.draw is None or self.settings.temperature == 1.0:
            return self.take(token, own, own)
        row = row / self.settings.temperature
        return self.take(token, float(row[token] - row.logsumexp(0)), own)

    def take(self, token: int, logprob: float, own: float) -> Step:
        """Append a token that was chosen."""
        self.logprobs.append(logprob)
        self.own.append(own)
        self.tokens.append(token)
        ended = token in self.shape.end and len(self.tokens) > self.settings.min_new_tokens
        if ended or len(self.tokens) == self.settings.max_new_tokens:
            finish = "stop" if ended else "length"
            self.done = Written(
                tokens=tuple(self.tokens), logprobs=tuple(self.logprobs), finish=finish, own=tuple(self.own)
            )
        return Step(parents=(0,), tokens=(token,))

    def _sample(self, logits: torch.Tensor, draw: np.random.Generator) -> int:
        values, order = self._candidates(logits / self.settings.temperature)
        mass = values.double().softmax(0).cumsum(0).cpu().numpy()
        # top-p keeps the tokens whose *preceding* mass is below p, so at least one stays (Holtzman et al. 2020).
        top_p = self.settings.top_p
        keep = 1 + int(np.searchsorted(mass, top_p, side="left")) if top_p < 1 else len(mass)
        mass = mass[: min(keep, len(mass))]
        if isinstance(self.settings, SeenBanned):
            return _draw_unseen(values[: len(mass)], order[: len(mass)], {*self.shape.prompt, *self.tokens}, draw)
        return int(order[int(np.searchsorted(mass, draw.random() * mass[-1], side="right").clip(0, len(mass) - 1))])

    def _candidates(self, scaled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits, token ids) to draw from, best first, with the rest's mass in a last entry that is never reached.

        A full sort of 49k logits costs more than the model's step for one token, and top-p needs the head only.
        """
        import torch

        s = self.settings
        if s.top_k:
            values, order = scaled.topk(min(s.top_k, len(scaled)))
            return values, order
        if s.top_p < 1:
            total = scaled.double().logsumexp(0)
            for size in (64, 1024):
                if size >= len(scaled):
                    break
                values, order = scaled.topk(size)
                inside = values.double().logsumexp(0)
                if inside - total > np.log(s.top_p) + 1e-9:
                    # Never above 0, which rounding can bring about where the head holds everything: NaN else.
                    rest = total + torch.log1p(-torch.exp((inside - total).clamp(max=0)))
                    return torch.cat([values.double(), rest[None]]), torch.cat([order, order[-1:]])
        values, order = scaled.sort(descending=True)
        return values, order


def _draw_unseen(values: torch.Tensor, order: torch.Tensor, seen: set[int], draw: np.random.Generator) -> int:
    """A token of those that the cut left and those seen, which stand at -1000; see `SeenBanned`."""
    row = {**dict(zip(order.tolist(), values.tolist(), strict=True)), **dict.fromkeys(sorted(seen), SEEN_LOGIT)}
    logits = np.array(list(row.values()))
    mass = np.exp(logits - logits.max()).cumsum()
    tokens: list[int] = list(row)
    return tokens[int(np.searchsorted(mass, draw.random() * mass[-1], side="right").clip(0, len(mass) - 1))]


def draw_plain(choosers: Sequence[_Single], logits: torch.Tensor) -> list[Step]:
    """The next token of many replies at once, each from its own random stream: sampling for reinforcement learning.

    A token is where the running sum of probabilities, in the order of the vocabulary, passes a uniform number. The sum
    goes over blocks first, so that only one block of each row is summed entry by entry.

    Args:
        choosers: replies that are `plain`, all with the same temperature and bans.
        logits: [B, V], a row per reply.
    """
    import torch

    first, raw = choosers[0], logits.float()
    shaped = plain = raw if first.settings.temperature == 1.0 else raw / first.settings.temperature
    if first.shape.banned:
        shaped = shaped.index_fill(1, torch.tensor(first.shape.banned, device=raw.device), -torch.inf)
    mass = (shaped - shaped.amax(1, keepdim=True)).exp_()
    count = -(-mass.shape[1] // _BLOCK)
    blocks = torch.nn.functional.pad(mass, (0, count * _BLOCK - mass.shape[1])).view(len(raw), count, _BLOCK)
    above = blocks.sum(2, dtype=torch.float64).cumsum(1)
    uniform = torch.tensor([c.draw.random() for c in choosers if c.draw], dtype=torch.float64, device=raw.device)
    want = uniform * above[:, -1]
    block = torch.searchsorted(above, want[:, None], right=True).clamp(max=count - 1)
    before = above.gather(1, (block - 1).clamp(min=0)) * (block > 0)
    inner = blocks[torch.arange(len(raw), device=raw.device), block[:, 0]].double().cumsum(1) + before
    place = torch.searchsorted(inner, want[:, None], right=True)
    # Rounding can lead past the block's last entry that has any mass; that entry is meant then.
    last = torch.searchsorted(inner, inner[:, -1:].contiguous())
    tokens = (block * _BLOCK + torch.minimum(place, last))[:, 0]
    logprobs = plain.gather(1, tokens[:, None])[:, 0] - plain.logsumexp(1)
    own = logprobs if plain is raw else raw.gather(1, tokens[:, None])[:, 0] - raw.logsumexp(1)
    found = zip(choosers, tokens.tolist(), logprobs.tolist(), own.tolist(), strict=True)
    return [c.take(token, logprob, mine) for c, token, logprob, mine in found]


class _Beams:
    """Beam search with the scores and the stopping rule of transformers (`early_stopping=False`)."""

    def __init__(self, settings: Decoding, shape: _Shape) -> None:
        self.settings, self.shape = settings, shape
        self.live: list[tuple[float, tuple[int, ...], tuple[float, ...]]] = [(0.0, (), ())]
        self.finished: list[tuple[float, Written]] = []
        self.done: Written | None = None

    def step(self, logits: torch.Tensor) -> Step:
        import torch

        s, width = self.settings, self.settings.num_beams
        raw = logits.float().log_softmax(-1)
        scores = torch.stack([self.shape(row, t) for row, (_, t, _) in zip(raw, self.live, strict=True)])
        total = scores + torch.tensor([b[0] for b in self.live], device=scores.device)[:, None]
        # Enough candidates that `width` of them go on, even if every live beam may end in each of its end tokens.
        values, flat = total.flatten().topk(min(max(2, 1 + len(self.shape.end)) * width, total.numel()))
        vocabulary = total.shape[1]
        following: list[tuple[float, tuple[int, ...], tuple[float, ...]]] = []
        parents: list[int] = []
        for rank, (value, index) in enumerate(zip(values.tolist(), flat.tolist(), strict=True)):
            parent, token = divmod(index, vocabulary)
            if value == -np.inf:
                continue
            _, tokens, logprobs = self.live[parent]
            extended = (value, (*tokens, token), (*logprobs, float(raw[parent, token])))
            if token in self.shape.end:
                if rank < width:  # as transformers: an end outside the best `width` candidates does not count
                    self._finish(extended, "stop")
            elif len(following) < width:
                following.append(extended)
                parents.append(parent)
        self.live = following
        length = len(following[0][1]) if following else s.max_new_tokens
        if length >= s.max_new_tokens or not following or self._settled(length):
            if length >= s.max_new_tokens and not self._settled(length):
                for beam in following:
                    self._finish(beam, "length")
            self.done = max(self.finished, key=lambda f: f[0])[1]
        return Step(parents=tuple(parents), tokens=tuple(b[1][-1] for b in following))

    def _finish(self, beam: tuple[float, tuple[int, ...], tuple[float, ...]], how: str) -> None:
        value, tokens, logprobs = beam
        score = value / (len(tokens) ** self.settings.length_penalty)
        self.finished.append((score, Written(tokens=tokens, logprobs=logprobs, finish=how)))
        self.finished = sorted(self.finished, key=lambda f: -f[0])[: self.settings.num_beams]

    def _settled(self, length: int) -> bool:
        if len(self.finished) < self.settings.num_beams or not self.live:
            return len(self.finished) >= self.settings.num_beams
        best = float(self.live[0][0] / (length**self.settings.length_penalty))
        return best <= self.finished[-1][0]


class _Consensus:
    """A chooser that lets several others write from one prompt and keeps the reply that agrees most with the rest.

    Args:
        candidates: at least two choosers, each with a random stream of its own; they are asked side by side.
        utility: a name of `heedful.models.consensus.UTILITIES`.
        end: tokens that end a reply; they are no words, and agreement does not count them.
    """

    def __init__(self, candidates: Sequence[Chooser], *, utility: str, end: frozenset[int]) -> None:
        self.candidates, self.utility, self.end = list(candidates), UTILITIES[utility], end
        self.live = list(range(len(self.candidates)))
        self.done: Written | None = None
        self.begun = False

    def step(self, logits: torch.Tensor) -> Step:
        """One token for each candidate that still writes; [1, V] at first, then a row for each of them."""
        rows = [logits[at if self.begun else 0][None] for at in range(len(self.live))]
        steps = choose([self.candidates[i] for i in self.live], rows)
        parents: list[int] = []
        tokens: list[int] = []
        following: list[int] = []
        for at, (i, step) in enumerate(zip(self.live, steps, strict=True)):
            if self.candidates[i].done is None:
                following.append(i)
                parents.append(at if self.begun else 0)
                tokens.append(step.tokens[0])
        self.live, self.begun = following, True
        if not following:
            self.done = self._agreed()
        return Step(parents=tuple(parents), tokens=tuple(tokens))

    def _agreed(self) -> Written:
        written = [made for c in self.candidates if (made := c.done) is not None]
        texts = [tuple(t for t in made.tokens if t not in self.end) for made in written]
        # Equal draws are counted as often as they were drawn, and worked out once.
        counts = Counter(texts)
        risk = {
            text: sum(n * self.utility(text, other) for other, n in counts.items()) - self.utility(text, text)
            for text in counts
        }
        best = max(counts, key=lambda text: (risk[text], -texts.index(text)))
        return written[texts.index(best)]
