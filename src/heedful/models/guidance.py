"""How strongly words follow the plan that was chosen for them.

A small model that has learnt little of its plans writes nearly the same words after each. It knows more than it shows:
what it would write after every other plan says how much a word speaks for this one. By Bayes

    p(y_t | x, y_<t) = sum over s' of P(s' | x, y_<t) p(y_t | x, s', y_<t)                  what it writes, unplanned
    q(y_t) ~ p(y_t | x, y_<t) [p(y_t | x, s, y_<t) / p(y_t | x, y_<t)] ^ guidance_scale

where the bracket is P(s | x, y_<=t) / P(s | x, y_<t): how much more the word lets one believe in the plan s. So the
model is its own classifier of plans (GeDi, Krause et al. 2021, but against all other plans rather than one). This is
classifier-free guidance (Ho and Salimans 2022; for words Sanchez et al. 2024) with the exact mean over plans as the
unconditional side, for which no prompt has to be invented. A scale of 1 changes nothing, 0 takes the plan out of the
words again. A word gains at most (guidance_scale - 1) * -log P(s | x, y_<t), and nothing any more once the words have
made the plan plain. For a plan that the model thought likely that is little. For one that is forced against it, it is
much: at P(s) = 0.01 and a scale of 3 a word of 0.2 % can become the likeliest. No plausibility cut (Li et al. 2023)
stands against that yet, so scales far above 2 are for looking, not for use.

Cost: K branches are fed where one was, over one copy of the prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heedful.models.decoding import Chooser, Step, Written

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch


class Guided:
    """A chooser whose every branch is K sheets, one a plan, all with the same words; the first one's plan is followed.

    Args:
        inner: who chooses the words, by any rule: greedy, drawn, beams, consensus.
        prior: (K,) what is known of the plans before a word is written, in the order of the sheets; sums to 1.
        guidance_scale: at least 0.
    """

    def __init__(self, inner: Chooser, *, prior: npt.NDArray[np.float64], guidance_scale: float) -> None:
        import torch

        self.inner, self.scale, self.sheets = inner, guidance_scale, len(prior)
        self.belief = torch.from_numpy(prior).clamp(min=1e-300).log()[None]
        """(n, K) log P(plan | words so far) of each branch."""

    @property
    def done(self) -> Written | None:
        """The reply once it is finished."""
        return self.inner.done

    def step(self, logits: torch.Tensor) -> Step:
        """The next words of `inner`, each written on all K sheets of its branch.

        Args:
            logits: (n * K, V), the sheets of a branch side by side.
        """
        import torch

        each = logits.float().log_softmax(-1).view(-1, self.sheets, logits.shape[-1])
        belief = self.belief.to(device=each.device, dtype=each.dtype)
        unplanned = (each + belief[:, :, None]).logsumexp(1)
        step = self.inner.step(unplanned + self.scale * (each[:, 0] - unplanned))
        if self.inner.done is not None:
            return step
        parents, tokens = list(step.parents), list(step.tokens)
        learnt = self.belief[parents] + each[parents, :, tokens].to(device=self.belief.device, dtype=torch.float64)
        self.belief = learnt - learnt.logsumexp(1, keepdim=True)
        return Step(
            parents=tuple(p * self.sheets + k for p in parents for k in range(self.sheets)),
            tokens=tuple(t for t in tokens for _ in range(self.sheets)),
        )
