"""`heedful config`: show a resolved configuration, or the JSON schema that editors complete from."""

from __future__ import annotations

import json

import click
import yaml

from heedful.cli.train import read_method
from heedful.errors import unknown
from heedful.evaluation.config import EvalConfig
from heedful.evaluation.study_config import StudyConfig
from heedful.settings import Settings
from heedful.training.config import TrainConfig
from heedful.training.methods import METHODS
from heedful.training.shared import resolved_values

SCHEMAS: dict[str, type[Settings]] = {"train": TrainConfig, "eval": EvalConfig, "study": StudyConfig}


@click.group(name="config")
def config_group() -> None:
    """Show a resolved configuration or its JSON schema."""


@config_group.command(name="show")
@click.argument("file", required=False)
@click.argument("overrides", nargs=-1)
def show_command(file: str | None, overrides: tuple[str, ...]) -> None:
    """Print every setting of a training configuration, defaults included, as YAML.

    \b
    heedful config show recipes/esconv-sft.yaml seed=7
    heedful config show method=grpo "rewards=[similarity]"
    """
    _, settings = read_method(file, overrides, resume=False)
    click.echo(yaml.safe_dump(resolved_values(settings), sort_keys=False).rstrip())


@config_group.command(name="schema")
@click.argument("kind", default="train")
def schema_command(kind: str) -> None:
    """Print the JSON schema of settings: `train` (method: sft), any other training method, `eval` or `study`.

    \b
    heedful config schema eval > eval.schema.json
    heedful config schema grpo > grpo.schema.json
    """
    if kind not in SCHEMAS and kind not in METHODS.names():
        raise unknown("schema", kind, [*SCHEMAS, *METHODS.names()])
    found = SCHEMAS[kind] if kind in SCHEMAS else METHODS.get(kind).config
    click.echo(json.dumps(found.model_json_schema(), indent=2))
