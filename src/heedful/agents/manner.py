"""How a trained model answers, read from the record of its run: format, planners, length, and how plans are chosen.

`heedful chat` and the clinic's server answer alike because both ask here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from heedful.agents.base import Planners, make
from heedful.agents.plan import PlanSetting, settle_talk_plan
from heedful.formats import Format
from heedful.formats import make as make_format
from heedful.settings import read_yaml

RECORD: Final = "config.resolved.yaml"


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a model answers.

    Args:
        planners: asked before each reply. plan: how the plan of a reply is chosen, if its format writes one.
        max_length: prompt and reply together, in tokens, as in training.
    """

    fmt: Format
    planners: Planners = field(repr=False)
    plan: PlanSetting | None = field(repr=False)
    max_length: int


def record_of(model: str) -> dict[str, Any]:
    """The configuration that a run folder was made with; empty for any other model."""
    path = Path(model).expanduser() / RECORD
    return read_yaml(path) if path.is_file() else {}


def manner_of(model: str, *, plan: str | None = None, guidance_scale: float = 1.0) -> Manner:
    """How the model of a run folder answers; any other one is talked to in the format `chat`.

    Args:
        plan, guidance_scale: as of `settle_talk_plan`.

    Raises:
        UserError: a plan that the format cannot have, or planners whose knowledge is not there.
    """
    run = record_of(model)
    fmt = make_format(run.get("format") or "chat")
    return Manner(
        fmt=fmt,
        plan=settle_talk_plan(plan, fmt, model=model, guidance_scale=guidance_scale),
        planners=make(run.get("planners")),
        max_length=run.get("max_length") or 1024,
    )
