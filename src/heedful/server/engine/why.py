"""What an engine can say of a reply beside its words: the choice of a strategy, what was looked up, how sure it was.

All of it comes from the writing itself. Nothing here is a judgement of the words.

>>> round(uncertainty([-0.105, -0.693]) or 0, 2)
0.33
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from heedful.agents.plan import PlanSetting
from heedful.agents.plan_mix import weights_digest
from heedful.formats import Format

_KEPT = ("name", "id", "text", "score", "index", "why", "vetted_by", "date")


def uncertainty(logprobs: Sequence[float]) -> float | None:
    """1 - the geometric mean of the probabilities of the words: 0 = each was certain, 0.75 = one in four on average.

    Args:
        logprobs: of the tokens of a reply, at temperature 1 over the whole vocabulary; none = unknown.
    """
    if not logprobs or not all(map(math.isfinite, logprobs)):
        return None
    return round(min(1.0, max(0.0, 1 - math.exp(sum(logprobs) / len(logprobs)))), 4)


def strategy_of(thought: Mapping[str, Any], setting: PlanSetting | None) -> dict[str, Any] | None:
    """The strategy that a model chose before it wrote, with the probability of each and the rule of the choice."""
    if setting is None:
        return None
    name, found = thought.get(setting.label_set), (thought.get("probabilities") or {}).get(setting.label_set)
    if name is None or not found:
        return None
    rule = setting.config.choose if setting.predicts else "given"
    return {"name": name, "set": setting.label_set, "distribution": dict(found), "rule": rule, "by": "model"}


def why_of(
    thought: Mapping[str, Any], logprobs: Sequence[float], *, fmt: Format, setting: PlanSetting | None
) -> dict[str, Any]:
    """Reasons as plain JSON; what is not known is left out.

    Args:
        thought: as of `heedful.models.talk.Answer`. logprobs: as of `uncertainty`.
    """
    sources = [{key: source[key] for key in _KEPT if key in source} for source in thought.get("sources") or ()]
    found = {
        "format": fmt.fingerprint,
        "strategy": strategy_of(thought, setting),
        "sources": sources or None,
        "uncertainty": uncertainty(logprobs),
    }
    return {key: value for key, value in found.items() if value is not None}


def version_of(place: str | Path) -> str:
    """Sixteen hex digits over the weights of a file or folder; empty where there are none (a name, an address)."""
    path = Path(place).expanduser()
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    found = weights_digest(str(path)) if path.is_dir() else ""
    return found if found != str(path) else ""
