"""GLHG's monitor on a part of a corpus: the problem type at each reply, from the situation and from what was said.

The situation is an oracle: nobody who chats has written one. So a run is read both ways, whatever it was trained on,
and the most frequent type of the training part stands beside both.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from heedful import corpora, formats, taxonomy
from heedful.errors import ConfigError, DataError
from heedful.evaluation.config import LookConfig
from heedful.evaluation.run import Setting, look_folder, settle, write_json
from heedful.evaluation.study import Say
from heedful.formats import TokenTree
from heedful.models.causal import CausalModel, add_markers, load
from heedful.models.graph_layout import with_trunks
from heedful.scoring.problem_type import figures, told_problems
from heedful.types import Conversation

CAUSES = ("situation", "history")
SET = "esconv_problem"


@dataclass(frozen=True, kw_only=True)
class Monitored:
    """What the monitor said; `summary` holds no words."""

    folder: Path
    summary: dict[str, Any] = field(repr=False)


class MonitorConfig(LookConfig):
    """Which run, which places, and where its floor learns."""

    train_split: str | None = Field(default="train", description="whose most frequent type is the floor; null: none")


def monitor(
    config: MonitorConfig, *, problem_set: str = SET, command: str = "", say: Say = lambda text: None
) -> Monitored:
    """Ask the monitor of a run at every reply of a part.

    Raises:
        ConfigError: the run has no graph, or a graph without a monitor.
        DataError: no conversation of the part has a problem type.
    """
    setting = settle(config.as_eval())
    causal = load(config.model_name_or_path, dtype=config.dtype)
    if causal.graph is None or causal.graph.monitor is None:
        raise ConfigError(
            f"'{config.model_name_or_path}' has no monitor; give a run of method: sft with a graph and graph.monitor "
            "above 0 (recipes/glhg.yaml)."
        )
    labels = causal.graph.shape.problems
    talks = corpora.load(setting.dataset, config.split, **setting.dataset_options)[: config.max_conversations]
    talks = setting.planners.plan(talks)
    most = _most(config, setting, problem_set)
    rows: dict[str, Any] = {}
    for cause in CAUSES:
        say(f"{cause}: {len(talks):,} conversations")
        trees = _trees(causal, setting, talks, cause)
        found = figures(list(told_problems(causal, trees, problem_set)), labels=labels, most=most)
        if found is None:
            raise DataError(
                f"No conversation in split '{config.split}' of {setting.dataset} has a problem type of '{problem_set}'."
            )
        rows[cause] = found
    summary = {
        "kind": "monitor",
        "command": command,
        "model": config.model_name_or_path,
        "dataset": setting.dataset,
        "split": config.split,
        "causes": rows,
    }
    folder = look_folder(config, setting, "monitor")
    write_json(folder / "monitor.json", summary)
    return Monitored(folder=folder, summary=summary)


def _trees(causal: CausalModel, setting: Setting, talks: list[Conversation], cause: str) -> list[TokenTree]:
    spec = (setting.run or {}).get("format")
    options = dict(spec) if isinstance(spec, dict) else {"name": "glhg"}
    fmt = formats.make({**options, "cause": cause})
    add_markers(causal, fmt.markers)
    samples = [
        sample
        for conv in talks
        for sample in fmt.samples(
            fmt.prepare(conv), causal.tokenizer, max_length=setting.max_length, keep=setting.keep,
            overlong=setting.overlong,
        )
    ]  # fmt: skip
    return [TokenTree.merge(group) for group in with_trunks(samples)]


def _most(config: MonitorConfig, setting: Setting, problem_set: str) -> str | None:
    """The most frequent problem type of the training part, counted at each reply."""
    if config.train_split is None:
        return None
    found = taxonomy.get(problem_set)
    counted: Counter[str] = Counter()
    for conv in corpora.load(setting.dataset, config.train_split, **setting.dataset_options):
        name = found.resolve(conv.problem_type) if conv.problem_type else None
        if name is not None:
            counted[name] += len(setting.fmt.targets(setting.fmt.prepare(conv)))
    return counted.most_common(1)[0][0] if counted else None
