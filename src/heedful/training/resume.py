"""Going on with a run: only as the run that it is, so that its record says what happened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heedful.errors import ConfigError
from heedful.settings import read_yaml
from heedful.training.config import RunSettings
from heedful.training.plan import Plan

RESOLVED = "config.resolved.yaml"
RECORD = "x_heedful"
MAY_CHANGE = frozenset(
    {"max_steps", "max_seconds", "num_train_epochs", "logging_steps", "save_steps", "save_total_limit"}
)
"""How long, and how often something is written. All else would make it another run."""
_OUTSIDE = {"output_dir", "resume_from_checkpoint"}
_WHAT_NOW = "take it back, or start anew in another output_dir"


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """The run that is continued.

    Args:
        step: of the checkpoint.
        record: what `config.resolved.yaml` says beside the settings.
        changed: settings that may change and did: key -> (old, new).
    """

    step: int
    record: Mapping[str, Any]
    changed: Mapping[str, tuple[Any, Any]]

    @property
    def base_run(self) -> dict[str, Any] | None:
        """The run that this one started from; its folder may be gone by now."""
        found: dict[str, Any] | None = self.record.get("base_run")
        return found

    def continued(self, command: str, now: str) -> list[dict[str, Any]]:
        """The list of continuations with this one."""
        changed = {key: {"from": old, "to": new} for key, (old, new) in self.changed.items()}
        one = {"from_step": self.step, "changed": changed, "command": command, "at": now}
        return [*self.record.get("continued", []), one]


def earlier_run(config: RunSettings, checkpoint: Path) -> Earlier:
    """Compare `config` with that of the run which wrote `checkpoint`.

    Raises:
        ConfigError: a setting that decides what is learnt has changed, or nothing says what it was.
    """
    path = checkpoint.parent.parent / RESOLVED
    if not path.is_file():
        raise ConfigError(
            f"Nothing says what {checkpoint} was trained with: expected {path}, but it is not there; start anew."
        )
    old = read_yaml(path)
    record = old.pop(RECORD, None) or {}
    # A key that is younger than the run had its default.
    before, now = {**_defaults(config), **old}, config.model_dump()
    changed = {key: (before[key], new) for key, new in now.items() if _plain(before[key]) != _plain(new)}
    for key, (was, new) in changed.items():
        if key not in MAY_CHANGE | _OUTSIDE:
            raise ConfigError(
                f"--resume cannot change {key}: the run in {path.parent} has {json.dumps(was)}, but now it is "
                f"{json.dumps(new)}; {_WHAT_NOW}."
            )
    return Earlier(
        step=step_of(checkpoint),
        record=record,
        changed={key: values for key, values in changed.items() if key in MAY_CHANGE},
    )


def refuse_other_inputs(earlier: Earlier, now: Mapping[str, Any], plan: Plan) -> None:
    """Compare what the settings led to: data, format and number of processes.

    Args:
        now: the record that this run would write.

    Raises:
        ConfigError: the same settings give other inputs than before, or the run is beyond its new end.
    """
    named = {
        "data_hash": "the hash of the training data",
        "eval_data_hash": "the hash of the validation data",
        "format_fingerprint": "the format's fingerprint",
        "judges_hash": "the hash of the rewards' scorers and models",
        "processes": "the number of processes",
    }
    for key, words in named.items():
        was = earlier.record.get(key, now.get(key))
        if was != now.get(key):
            raise ConfigError(
                f"--resume needs the inputs of the run that it continues, but {words} ({key}) was {was} and now is "
                f"{now[key]}; {_WHAT_NOW}."
            )
    if plan.steps < earlier.step:
        raise ConfigError(
            f"The checkpoint is of step {earlier.step:,}, but the run would end at step {plan.steps:,} now; raise "
            "max_steps or num_train_epochs."
        )


def note_on_steps(earlier: Earlier, plan: Plan) -> str | None:
    """What a changed length does to the learning rate, or None if the length is the same."""
    was = earlier.record.get("plan", {}).get("steps", plan.steps)
    if was == plan.steps:
        return None
    return (
        f"note: {plan.steps:,} steps instead of {was:,}; from step {earlier.step:,} on the learning rate follows the "
        f"schedule of {plan.steps:,} steps"
    )


def step_of(checkpoint: Path | None) -> int:
    """The step that a checkpoint was written at; 0 without one."""
    if checkpoint is None:
        return 0
    return int(json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))["global_step"])


def _defaults(config: RunSettings) -> dict[str, Any]:
    fields = type(config).model_fields
    return {name: f.get_default(call_default_factory=True) for name, f in fields.items() if not f.is_required()}


def _plain(value: Any) -> Any:
    """`format: chat` and `format: {name: chat}` say the same, and so do no planners and an empty list."""
    if value == []:
        return None
    if isinstance(value, Mapping) and set(value) == {"name"}:
        return value["name"]
    return value
