"""`method: heedful.training.act_table:ACTS`: act heads of several runs on one part of a corpus, beside their floors.

The last stage of recipes/reader.yaml. A study judges words; the act head writes none, so its table is made here.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from heedful import formats
from heedful.errors import ConfigError, DataError, NotFoundError, UserError
from heedful.models.causal import add_markers, load, need_train_extra
from heedful.settings import read_yaml, write_yaml
from heedful.training.config import DataSettings
from heedful.training.methods import Method, Run, Say
from heedful.training.resume import RESOLVED
from heedful.training.rl.acts import act_logits, figures, gold_act, open_act_head
from heedful.training.rl.collect import prompts_of
from heedful.training.rl.experience import Prompt
from heedful.training.shared import load_split, versions

_ROWS = {
    "majority": "always the most frequent act",
    "speaker": "the most frequent act after whoever spoke last",
    "next_speaker": "the most frequent act of whoever speaks next (no model knows who)",
}


class ActTableConfig(DataSettings):
    """Which runs, on what; `train_split` is where the floors count."""

    method: str = "heedful.training.act_table:ACTS"
    systems: dict[str, str] = Field(
        min_length=1, description="what the table calls it: folder of a run with an act head"
    )
    eval_split: str | None = "test"
    output_dir: str | None = None
    resume_from_checkpoint: bool = False


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What one run's act head says, at the places that have a gold act."""

    prompts: list[Prompt] = field(repr=False)
    train: list[Prompt] = field(repr=False)
    predicted: list[str]
    labels: tuple[str, ...]
    label_set: str


def plan(config: ActTableConfig) -> Mapping[str, Any]:
    """What would be measured; loads no weights."""
    held = load_split(config, config.eval_split, config.max_eval_conversations)
    return {"systems": list(config.systems), "split": config.eval_split, "conversations": len(held)}


def train(config: ActTableConfig, *, say: Say = lambda text: None, callbacks: tuple[Any, ...] = ()) -> Run:
    """Ask the act head of each run; write `summary.json`, `README.md` and `acts.jsonl` (places and labels, no words).

    Args:
        say: takes one line of progress.
        callbacks: none is called; nothing is trained.

    Raises:
        NotFoundError: a run without an act head.
        UserError: data, folders or label sets that do not fit.
    """
    need_train_extra()
    folder, begun = Path(config.output_dir or "runs/acts"), time.monotonic()
    if (folder / "summary.json").is_file() and not config.resume_from_checkpoint:
        raise UserError(f"{folder} holds a table already; choose another output_dir, or delete it.")
    told = {}
    for name, run in config.systems.items():
        say(f"{name}: {run}")
        told[name] = _ask(config, Path(run).expanduser())
    sets = {one.label_set for one in told.values()}
    if len(sets) > 1:
        raise ConfigError(
            f"The systems' act heads know different label sets: {', '.join(sorted(sets))}; compare equals."
        )
    found = {
        name: figures(one.prompts, one.predicted, one.train, labels=one.labels, label_set=one.label_set)
        for name, one in told.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / RESOLVED, {**config.model_dump(), "x_heedful": {"versions": versions()}})
    _write_places(folder / "acts.jsonl", told)
    first = next(iter(found.values()))
    summary: dict[str, Any] = {
        "kind": "acts",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["heedful", *sys.argv[1:]]),
        "dataset": config.dataset,
        "split": config.eval_split,
        "systems": found,
        "headline": _headline(found),
        "seconds": round(time.monotonic() - begun, 1),
        "versions": versions(),
    }
    say(summary["headline"])
    (folder / "README.md").write_text(
        f"# Next-act prediction on {config.dataset}, {config.eval_split}\n\n{table(found)}\n"
        f"{first['n']:,} utterances of {first['sessions']} sessions; set {first['label_set']}; x100, intervals of 95 % "
        "by bootstrap over sessions. Too few sessions make an interval that means little.\n",
        "utf-8",
    )
    scratch = folder / "summary.json.part"
    scratch.write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
    os.replace(scratch, folder / "summary.json")
    return Run(folder=folder, summary=summary)


def _ask(config: ActTableConfig, run: Path) -> _Told:
    recorded = run / RESOLVED
    if not recorded.is_file():
        raise NotFoundError(f"'{run}' is no run of heedful: {recorded} is not there.")
    values = read_yaml(recorded)
    head, label_set = open_act_head(run)
    fmt = formats.make(values.get("format") or "chat")
    causal = load(str(run))
    add_markers(causal, fmt.markers)
    options: dict[str, Any] = {"max_length": values["max_length"], "overlong": "skip"}
    parts = []
    for split, limit in (
        (config.eval_split, config.max_eval_conversations),
        (config.train_split, config.max_train_conversations),
    ):
        talks = load_split(config, split, limit)
        parts.append(prompts_of(talks, fmt, [s for c in talks for s in fmt.samples(c, causal.tokenizer, **options)]))
    known = [p for p in parts[0] if gold_act(p, head, label_set) is not None]
    if not known:
        raise DataError(f"No reply in split {config.eval_split} of '{config.dataset}' carries an act of '{label_set}'.")
    said = act_logits(causal, head.to(causal.device), known).argmax(1)
    return _Told(
        prompts=known,
        train=parts[1],
        predicted=[head.labels[k] for k in said],
        labels=head.labels,
        label_set=label_set,
    )


def _write_places(path: Path, told: Mapping[str, _Told]) -> None:
    first = next(iter(told.values()))
    said = {name: {p.task.id: act for p, act in zip(t.prompts, t.predicted, strict=True)} for name, t in told.items()}
    with path.open("w", encoding="utf-8") as file:
        for prompt in first.prompts:
            gold = prompt.task.reference.label(first.label_set) if prompt.task.reference else None
            row = {
                "id": prompt.task.id,
                "gold": gold,
                **{name: acts.get(prompt.task.id) for name, acts in said.items()},
            }
            file.write(json.dumps(row) + "\n")


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures as a Markdown table, floors last."""
    first = next(iter(found.values()))
    rows = [(name, values["rows"]["act_head"]) for name, values in found.items()]
    rows += [(title, first["rows"][key]) for key, title in _ROWS.items()]
    lines = ["| | accuracy | macro-F1 |", "|---|---|---|"]
    lines += [f"| {name} | {_cell(row['accuracy'])} | {_cell(row['macro_f1'])} |" for name, row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Mapping[str, float | None]) -> str:
    interval = "" if value["low"] is None else f" ({value['low']:.1f} to {value['high']:.1f})"
    return f"{value['value']:.1f}{interval}"


def _headline(found: Mapping[str, Mapping[str, Any]]) -> str:
    first = next(iter(found.values()))["rows"]
    said = [f"{name} {values['rows']['act_head']['accuracy']['value']:.1f}" for name, values in found.items()]
    return (
        f"next act, accuracy: {', '.join(said)}; majority {first['majority']['accuracy']['value']:.1f}, "
        f"speaker {first['speaker']['accuracy']['value']:.1f}"
    )


ACTS = Method(config=ActTableConfig, train=train, plan=plan)
