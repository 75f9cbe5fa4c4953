"""`heedful train` and `heedful validate`: one run, or a recipe of stages."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from heedful.cli.evaluate import console
from heedful.cli.output import Progress, number, training_progress
from heedful.corpora import is_file
from heedful.errors import ConfigError
from heedful.pipeline import Done, Look, Pipeline, is_recipe, look, read, run
from heedful.settings import Settings, apply_overrides, check, read_yaml
from heedful.training.config import TrainConfig
from heedful.training.methods import Method, configured
from heedful.training.shared import is_main


def read_values(file: str | None, overrides: tuple[str, ...], *, resume: bool) -> tuple[dict[str, Any], str]:
    """The settings of one run from a file and `key=value` words, and what messages call them."""
    file, overrides = _sorted(file, overrides)
    values = _read_file(file)
    if is_recipe(values):
        raise ConfigError(f"{file} is a recipe of stages; see it with heedful train {file} --dry-run.")
    if file is not None and not values:
        raise ConfigError(f"{file} holds no setting; leave it out for the defaults, or write at least a dataset.")
    if values.get("kind") == "study":
        raise ConfigError(f"{file} holds settings of a study; use it with heedful eval study {file}.")
    if "method" not in values and ("decoding" in values or "metrics" in values):
        raise ConfigError(
            f"{file} holds settings of an evaluation; use it with heedful eval run MODEL --config {file}."
        )
    # A resolved file of an earlier run carries its record along; that part is no setting.
    values.pop("x_heedful", None)
    if resume:
        values["resume_from_checkpoint"] = True
    return apply_overrides(values, overrides), file or "configuration"


def read_config(file: str | None, overrides: tuple[str, ...], *, resume: bool) -> TrainConfig:
    """The checked configuration of supervised training."""
    values, where = read_values(file, overrides, resume=resume)
    return check(TrainConfig, values, where=where)


def read_method(file: str | None, overrides: tuple[str, ...], *, resume: bool) -> tuple[Method, Any]:
    """The method that a file names (`sft` where it names none), and its checked configuration."""
    values, where = read_values(file, overrides, resume=resume)
    return configured(values, where=where)


def _sorted(file: str | None, overrides: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    if file is not None and "=" in file:
        return None, (file, *overrides)
    return file, overrides


def _read_file(file: str | None) -> dict[str, Any]:
    if file is not None and file.endswith((".jsonl", ".jsonl.gz", ".json", ".csv")):
        raise ConfigError(f"'{file}' looks like data, and a YAML file of settings was expected; write dataset={file}.")
    return read_yaml(file) if file else {}


def _recipe(file: str | None, overrides: tuple[str, ...]) -> Pipeline | None:
    """The recipe that the words mean, or None if they mean a single run."""
    file, overrides = _sorted(file, overrides)
    return read(file, overrides) if file is not None and is_recipe(_read_file(file)) else None


# ---------------------------------------------------------------------- train


@click.command(name="train")
@click.argument("config", required=False)
@click.argument("overrides", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Print resolved settings and sizes, or the stages of a recipe.")
@click.option("--resume", is_flag=True, help="Go on from the newest complete checkpoint; a recipe always does.")
@click.option("--only", metavar="STAGE[,STAGE]", help="Recipes: run these stages and no others.")
@click.option("--until", metavar="STAGE", help="Recipes: run up to this stage.")
@click.option("--fresh", metavar="STAGE[,STAGE]", help="Recipes: do these anew, and what depends on them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def train_command(
    config: str | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    resume: bool,
    only: str | None,
    until: str | None,
    fresh: str | None,
    as_json: bool,
) -> None:
    """Train as CONFIG (YAML) says, with key=value OVERRIDES on top.

    CONFIG is one run, or a recipe: stages from data to report. Run a recipe again and it goes on where it stopped.

    \b
    heedful train recipes/esconv-sft.yaml
    heedful train dataset=mine.jsonl delta=dora num_train_epochs=2
    heedful train recipes/context-emotion-rl.yaml seed=21 rl.max_steps=50 --until rl
    """
    recipe = _recipe(config, overrides)
    if recipe is not None:
        chosen: dict[str, Any] = {"only": _names(only), "until": until, "fresh": _names(fresh)}
        if dry_run:
            _show_stages(look(recipe, **chosen), as_json=as_json)
        else:
            _run_recipe(recipe, chosen, as_json=as_json)
        return
    for word, value in (("--only", only), ("--until", until), ("--fresh", fresh)):
        if value is not None:
            raise ConfigError(f"{word} is for recipes, and {config or 'this configuration'} has no stages.")
    method, settings = read_method(config, overrides, resume=resume)
    if dry_run:
        _show_plan(method, settings, as_json=as_json)
        return
    progress = Progress()
    done = method.train(settings, say=progress.say, callbacks=(training_progress(progress),) if is_main() else ())
    progress.close()
    if not done.summary:  # a process that is not the first one
        return
    if as_json:
        click.echo(json.dumps({"folder": str(done.folder), **done.summary}))
        return
    click.echo(f"{done.folder}: {_came_to(done.summary)}")
    if (done.folder / "report.html").is_file():
        click.echo(f"report: {done.folder / 'report.html'}")
    click.echo(f"next: {_next(done.folder, done.summary)}")


def _next(folder: Path, summary: Mapping[str, Any]) -> str:
    """What to do with a run of this kind."""
    method = summary.get("method")
    if method == "reward":
        return f"as a reward, {{name: reward_model, params: {{model: {folder}}}}}"
    if method == "scorer":
        return f"as a reward or held out, {{name: strategy, params: {{scorer: {folder}}}}}   (or emotion, act)"
    if method == "mix":
        return f"in a study or an evaluation, plan: {{choose: argmax, mix: {folder}}}"
    if method == "belief":
        return f"heedful eval crisis --belief {folder}   then   heedful serve belief={folder}"
    if method == "selector":
        return f"in a study, systems: {{select: {{model_name_or_path: {folder}}}}}   (or heedful eval compare)"
    # A file of pairs holds no conversations that replies could be written for.
    data = " dataset=NAME" if summary.get("form") == "pairs" and is_file(str(summary.get("dataset"))) else ""
    return f"heedful eval run {folder}{data}   or   heedful chat {folder}"


def _came_to(summary: Mapping[str, Any]) -> str:
    """One line on a run: what all methods have, as far as this one has it."""
    parts = []
    if "steps" in summary:
        parts.append(f"{summary['steps']:,} steps")
    if "tokens" in summary:
        parts.append(f"{summary['tokens']:,} tokens")
    said = ", ".join(parts) or "done"
    if "seconds" in summary:
        said += f" in {summary['seconds']:,.0f} s"
    if "trainable_parameters" in summary and "parameters" in summary:
        said += f" ({summary['trainable_parameters']:,} of {summary['parameters']:,} parameters)"
    return said


def _names(words: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (words or "").split(",") if name.strip())


# ---------------------------------------------------------------------- validate


@click.command(name="validate")
@click.argument("config", required=False)
@click.argument("overrides", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def validate_command(config: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check configuration, data, labels and splits; loads a tokenizer, but no model.

    Of a recipe every stage is checked, and the data of those that need no other stage.

    \b
    heedful validate recipes/esconv-sft.yaml dataset=mine.jsonl
    """
    recipe = _recipe(config, overrides)
    if recipe is not None:
        _validate_stages(recipe, as_json=as_json)
        return
    method, settings = read_method(config, overrides, resume=False)
    plan = method.plan(settings)
    click.echo(json.dumps(plan) if as_json else f"ok: {_sizes(plan)}")


def _validate_stages(recipe: Pipeline, *, as_json: bool) -> None:
    progress = Progress()
    plans: dict[str, Any] = {}
    for step in recipe.steps:
        missing = [name for name in step.needs if not (recipe.folder / name / "summary.json").is_file()]
        plans[step.name] = None
        said = f"settings ok; its data are read when it starts{f' from {missing[0]}' if missing else ''}"
        if step.kind.plan is not None and not missing:
            progress.step(f"{step.name}: reading its data")
            try:
                plans[step.name] = step.kind.plan(step.config)
            except ConfigError as err:
                raise ConfigError(f"{recipe.file}, stage '{step.name}': {err}") from err
            said = _sizes(plans[step.name])
        progress.close()
        if not as_json:
            click.echo(f"ok: {step.name}: {said}")
    if as_json:
        click.echo(json.dumps({"stages": plans, "left_out": dict(recipe.left_out)}))
        return
    for name, reason in recipe.left_out.items():
        click.echo(f"left out: {name}: {reason}")


# ---------------------------------------------------------------------- plans and results in words


def _sizes(plan: Mapping[str, Any]) -> str:
    if not {"targets", "separate_tokens", "conversations", "tokens", "steps"} <= set(plan):
        return ", ".join(f"{key} {_short(value)}" for key, value in plan.items())
    return (
        f"{plan['targets']:,} supporter turns in {plan['conversations']:,} passes, {plan['tokens']:,} tokens "
        f"(one by one: {plan['separate_tokens']:,}), {plan['steps']:,} steps"
    )


def _short(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else json.dumps(value)


def _show_plan(method: Method, settings: Settings, *, as_json: bool) -> None:
    plan = method.plan(settings)
    # As the run would record it: a resumed run is the run that it continues.
    values = {**settings.model_dump(mode="json"), "resume_from_checkpoint": False}
    if as_json:
        click.echo(json.dumps({"config": values, "plan": plan}))
        return
    for key, value in values.items():
        click.echo(f"{key}: {json.dumps(value)}")
    if "memory_bytes" not in plan or "tokens_in_all" not in plan:
        click.echo("")
        for key, value in plan.items():
            click.echo(f"# {key}: {_short(value)}")
        return
    click.echo(f"\n# {_sizes(plan)}")
    click.echo(f"# tokens in all steps: {plan['tokens_in_all']:,}; longest pass: {plan['longest']:,} tokens")
    if plan["skipped"]:
        click.echo(f"# left out as longer than max_length: {plan['skipped']:,}")
    peak = plan["memory_bytes"]
    memory = f"{peak / 2**30:.1f} GiB" if peak else "unknown (the model is not on this disk)"
    click.echo(f"# estimated memory at the peak: {memory}; data hash {plan['data_hash']}")


def _show_stages(plan: Look, *, as_json: bool) -> None:
    recipe = plan.pipeline
    states = {step.name: plan.states.get(step.name, "not selected") for step in recipe.steps}
    if as_json:
        stages = [
            {"stage": s.name, "method": s.method, "state": states[s.name], "needs": s.needs, "settings": s.settings}
            for s in recipe.steps
        ]
        about = {"folder": str(recipe.folder), "options": recipe.options, "left_out": recipe.left_out}
        click.echo(json.dumps({**about, "anew": plan.anew, "stages": stages}))
        return
    click.echo(f"# {recipe.title} -> {recipe.folder}")
    for name, value in recipe.options.items():
        click.echo(f"# {name}: {_short(value)}")
    for step in recipe.steps:
        after = f", after {', '.join(step.needs)}" if step.needs else ""
        click.echo(f"\n# {step.name} ({step.method}{after}): {states[step.name]}")
        for key, value in step.settings.items():
            click.echo(f"{step.name}.{key}: {json.dumps(value)}")
    for name, reason in recipe.left_out.items():
        click.echo(f"\n# {name}: left out, as {reason}")
    click.echo("\n# settings alone; `heedful validate` reads the data of every stage that needs no other one")


def _run_recipe(recipe: Pipeline, chosen: Mapping[str, Any], *, as_json: bool) -> None:
    progress = Progress()
    callbacks = (training_progress(progress),) if is_main() else ()
    command = shlex.join(["heedful", *sys.argv[1:]])
    done = run(recipe, say=progress.say, callbacks=callbacks, command=command, **chosen)
    progress.close()
    if not is_main():
        return
    if as_json:
        rows = [row.to_dict() for row in done.rows]
        click.echo(json.dumps({"folder": str(done.folder), "page": str(done.page), "stages": rows}))
        return
    console().print(_table(done))
    click.echo(f"all reports: {done.page}")


def _table(done: Done) -> Table:
    table = Table(title=escape(str(done.folder)))
    for column in ("stage", "method", "seconds", "result", "report"):
        table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
    for row in done.rows:
        result = row.result if row.state == "done" else row.state
        table.add_row(row.stage, row.method, number(row.seconds, 0), escape(result), escape(row.report or "—"))
    return table
