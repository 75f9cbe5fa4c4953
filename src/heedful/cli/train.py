"""`heedful train` and `heedful validate`."""

from __future__ import annotations

import json
from typing import Any

import click

from heedful.cli.output import Progress, training_progress
from heedful.errors import ConfigError
from heedful.settings import apply_overrides, check, read_yaml
from heedful.training.config import TrainConfig
from heedful.training.plan import Plan
from heedful.training.run import dry_run, is_main, resolved_values, train


def read_config(file: str | None, overrides: tuple[str, ...], *, resume: bool) -> TrainConfig:
    """The checked configuration from a file and `key=value` words."""
    if file is not None and "=" in file:
        overrides, file = (file, *overrides), None
    if file is not None and file.endswith((".jsonl", ".jsonl.gz", ".json", ".csv")):
        raise ConfigError(f"'{file}' looks like data, and a YAML file of settings was expected; write dataset={file}.")
    values = read_yaml(file) if file else {}
    if file is not None and not values:
        raise ConfigError(f"{file} holds no setting; leave it out for the defaults, or write at least a dataset.")
    if "decoding" in values or "metrics" in values:
        raise ConfigError(
            f"{file} holds settings of an evaluation; use it with heedful eval run MODEL --config {file}."
        )
    # A resolved file of an earlier run carries its record along; that part is no setting.
    values.pop("x_heedful", None)
    if resume:
        values["resume_from_checkpoint"] = True
    return check(TrainConfig, apply_overrides(values, overrides), where=file or "configuration")


@click.command(name="train")
@click.argument("config", required=False)
@click.argument("overrides", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Print the resolved configuration, samples, tokens, steps and memory.")
@click.option("--resume", is_flag=True, help="Go on from the newest complete checkpoint of output_dir.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def train_command(config: str | None, overrides: tuple[str, ...], dry_run: bool, resume: bool, as_json: bool) -> None:
    """Train as CONFIG (YAML) says, with key=value OVERRIDES on top.

    \b
    heedful train recipes/esconv-sft.yaml
    heedful train dataset=mine.jsonl delta=dora num_train_epochs=2
    heedful train recipes/esconv-sft.yaml --dry-run
    """
    settings = read_config(config, overrides, resume=resume)
    if dry_run:
        _show_plan(settings, as_json=as_json)
        return
    progress = Progress()
    run = train(settings, say=progress.say, callbacks=(training_progress(progress),) if is_main() else ())
    progress.close()
    if not run.summary:  # a process that is not the first one
        return
    if as_json:
        click.echo(json.dumps({"folder": str(run.folder), **run.summary}))
        return
    done = run.summary
    click.echo(
        f"{run.folder}: {done['steps']:,} steps, {done['tokens']:,} tokens in {done['seconds']:,.0f} s "
        f"({done['trainable_parameters']:,} of {done['parameters']:,} parameters)"
    )
    click.echo(f"next: heedful eval run {run.folder}   or   heedful chat {run.folder}")


@click.command(name="validate")
@click.argument("config", required=False)
@click.argument("overrides", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def validate_command(config: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check configuration, data, labels and splits; loads a tokenizer, but no model.

    \b
    heedful validate recipes/esconv-sft.yaml dataset=mine.jsonl
    """
    plan = dry_run(read_config(config, overrides, resume=False))
    click.echo(json.dumps(plan.to_dict()) if as_json else f"ok: {_sizes(plan)}")


def _sizes(plan: Plan) -> str:
    return (
        f"{plan.targets:,} supporter turns in {plan.conversations:,} passes, {plan.tokens:,} tokens "
        f"(one by one: {plan.separate_tokens:,}), {plan.steps:,} steps"
    )


def _show_plan(settings: TrainConfig, *, as_json: bool) -> None:
    plan = dry_run(settings)
    values: dict[str, Any] = resolved_values(settings)
    if as_json:
        click.echo(json.dumps({"config": values, "plan": plan.to_dict()}))
        return
    for key, value in values.items():
        click.echo(f"{key}: {json.dumps(value)}")
    click.echo(f"\n# {_sizes(plan)}")
    click.echo(f"# tokens in all steps: {plan.tokens_in_all:,}; longest pass: {plan.longest:,} tokens")
    if plan.skipped:
        click.echo(f"# left out as longer than max_length: {plan.skipped:,}")
    memory = f"{plan.memory_bytes / 2**30:.1f} GiB" if plan.memory_bytes else "unknown (the model is not on this disk)"
    click.echo(f"# estimated memory at the peak: {memory}; data hash {plan.data_hash}")
