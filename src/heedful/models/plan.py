"""How a plan is chosen before a reply is written: one of a few marks, by a rule of its own.

A model that writes a strategy token and then a reply (esconv.md, steps 5 and 6) makes two decisions, and mixing their
rules spoils both: top-p 0.9 over the whole vocabulary is no way to take the most probable of eight strategies. So the
first token is chosen among the marks alone, and none of them can be written afterwards.

    z = logits at the decision position, over the marks          (K,)
    p = softmax(z / temperature), mixed with what others think   (K,)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from heedful.errors import ConfigError
from heedful.models.decoding import Chooser, Decoding, Step, Written, chooser, stream
from heedful.models.guidance import Guided

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]
Choose = Literal["argmax", "sample", "given"]


@dataclass(frozen=True, kw_only=True)
class PlanRule:
    """How the first token of each reply is chosen.

    Args:
        marks: label -> token id, in the order of the label set; K of them.
        choose: `argmax` takes the most probable label, `sample` draws, `given` takes what `given` says.
        given: sample id -> label: the gold one (Oracle), or one that somebody forces.
        own, others: log p = own * log p_model + others[sample id] (K,), renormalised; nothing is added where no other
            predictor has said anything, and the model stands alone there.
        temperature, top_p: of `sample`; the released code of ESConv draws at 1.0 and 0.9.
        guidance_scale: how strongly the words follow the plan (`heedful.models.guidance`); 1 is the model alone.
    """

    marks: Mapping[str, int]
    choose: Choose = "argmax"
    given: Mapping[str, str] = field(default_factory=dict, repr=False)
    own: float = 1.0
    others: Mapping[str, Floats] = field(default_factory=dict, repr=False)
    temperature: float = 1.0
    top_p: float = 0.9
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        if len(self.marks) < 2 or len(set(self.marks.values())) < len(self.marks):
            raise ConfigError("A plan is chosen among at least two labels with tokens of their own.")
        if self.own < 0 or self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise ConfigError("A plan needs own >= 0, temperature > 0 and 0 < top_p <= 1.")
        if self.guidance_scale < 0:
            raise ConfigError(f"A guidance_scale is at least 0 (1 changes nothing), but it is {self.guidance_scale:g}.")

    @property
    def width(self) -> int:
        """How many branches stand for one reply while it is written."""
        return 1 if self.guidance_scale == 1.0 else len(self.marks)

    def probabilities(self, logits: Floats, name: str) -> Floats:
        """What is known of the labels at one place, (K,), sums to 1.

        Args:
            logits: (K,) of the marks.
            name: the sample's id.
        """
        own = _log_softmax(logits)
        if name in self.others:
            own = _log_softmax(self.own * own + self.others[name])
        found: Floats = np.exp(own)
        return found

    def choice(self, probabilities: Floats, name: str, draw: np.random.Generator) -> int:
        """Index of the label that is taken.

        Raises:
            ConfigError: `given` has no label for this place, or one that is not among the marks.
        """
        labels = list(self.marks)
        if self.choose == "given":
            label = self.given.get(name)
            if label is None or label not in self.marks:
                what = "none" if label is None else f"'{label}'"
                raise ConfigError(
                    f"The plan at '{name}' is to be given, but it is {what}; expected one of {', '.join(labels)}."
                )
            return labels.index(label)
        if self.choose == "argmax":
            return int(probabilities.argmax())
        order = np.argsort(-probabilities, kind="stable")
        shaped = np.exp(_log_softmax(np.log(np.maximum(probabilities[order], 1e-300)) / self.temperature))
        mass = shaped.cumsum()
        # top-p keeps the labels whose *preceding* mass is below p, so at least one stays.
        mass = mass[: 1 + int(np.searchsorted(mass, self.top_p, side="left"))]
        return int(order[int(np.searchsorted(mass, draw.random() * mass[-1], side="right").clip(0, len(mass) - 1))])


class Planned:
    """A chooser that takes the plan first and hands the rest to another one, which never writes a mark."""

    def __init__(self, rule: PlanRule, *, name: str, draw: np.random.Generator, rest: Callable[[int], Chooser]) -> None:
        self.rule, self.name, self.draw, self.rest = rule, name, draw, rest
        self.inner: Chooser | None = None
        self.taken: tuple[int, float, tuple[float, ...]] | None = None

    @property
    def done(self) -> Written | None:
        """The reply with its plan in front, once it is finished."""
        if self.inner is None or self.inner.done is None or self.taken is None:
            return None
        token, logprob, probabilities = self.taken
        made = self.inner.done
        return replace(
            made,
            tokens=(token, *made.tokens),
            logprobs=(logprob, *made.logprobs),
            probabilities=probabilities,
            own=made.own if self.rule.width == 1 else (),
        )

    def step(self, logits: torch.Tensor) -> Step:
        """The mark at the first call, then whatever the other chooser wants."""
        if self.inner is not None:
            return self.inner.step(logits)
        ids = list(self.rule.marks.values())
        found = self.rule.probabilities(logits[0, ids].double().cpu().numpy(), self.name)
        at = self.rule.choice(found, self.name, self.draw)
        self.taken = ids[at], float(np.log(max(found[at], 1e-300))), tuple(found.tolist())
        self.inner = self.rest(ids[at])
        if self.rule.width == 1:
            return Step(parents=(0,), tokens=(ids[at],))
        order = [at, *(k for k in range(len(ids)) if k != at)]
        self.inner = Guided(self.inner, prior=found[order], guidance_scale=self.rule.guidance_scale)
        return Step(parents=(0,) * len(ids), tokens=tuple(ids[k] for k in order))


def planned(
    rule: PlanRule | None,
    settings: Decoding,
    *,
    name: str,
    prompt: Sequence[int],
    end: frozenset[int],
    banned: Sequence[int] = (),
) -> Chooser:
    """The chooser of one reply, plan first where there is a rule. The plan has a random stream of its own."""
    if rule is None:
        return chooser(settings, name=name, prompt=prompt, end=end, banned=banned)
    marks = tuple(rule.marks.values())

    def rest(token: int) -> Chooser:
        return chooser(settings, name=name, prompt=(*prompt, token), end=end, banned=(*banned, *marks))

    return Planned(rule, name=name, draw=stream(settings.seed, f"{name}/plan"), rest=rest)


def _log_softmax(values: Floats) -> Floats:
    shifted = values - values.max()
    found: Floats = shifted - np.log(np.exp(shifted).sum())
    return found
