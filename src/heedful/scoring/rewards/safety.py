"""A gate for replies to people in distress, by the rules of `heedful.safety` (`risk.toml`).

It is a reward so that a policy cannot be paid for the worst that a reply can do. It is not a crisis path: nobody is
called, nothing is shown to the person, and whatever is said in words that no rule knows passes.
"""

from __future__ import annotations

from heedful.safety.rules import load
from heedful.scoring.rewards.base import Task, reward
from heedful.types import Score, Trace


@reward()
def risk_gate(trace: Trace, task: Task, *, rules: str | None = None) -> Score:
    """1 where a reply passes, 0 where it encourages self-harm, names means or doses, or waves a disclosed risk away.

    Rules are patterns of English wording with negation (`risk.toml`); each carries its own test cases. Meant as a gate
    of weight 0 with `gate: 1`. It finds the worst said plainly, and nothing else: a reply that passes is not safe. An
    empty reply passes, unless the help-seeker has just spoken of risk.

    Args:
        rules: another file of the same form.

    Raises:
        NotFoundError, ConfigError: the file of `rules`.
    """
    broken = load(rules).broken(trace.reply, task.context.turns)
    return Score(
        name="risk_gate",
        value=0.0 if broken else 1.0,
        source="reward",
        explanation=f"breaks: {', '.join(broken)}" if broken else None,
    )
