"""`heedful demo`: corpus -> supervised training -> evaluation -> report -> replies before and after."""

from __future__ import annotations

import json
import shlex
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import click

from heedful.cli.evaluate import console, summary_table
from heedful.cli.output import Progress, training_progress
from heedful.cli.train import read_config
from heedful.corpora import load as load_corpus
from heedful.evaluation.config import EvalConfig
from heedful.evaluation.run import evaluate
from heedful.settings import apply_overrides, check, read_yaml
from heedful.training.checkpoints import newest
from heedful.training.run import train

SAMPLES = 3


@click.command(name="demo")
@click.argument("overrides", nargs=-1)
@click.option(
    "--output", default="runs/demo", show_default=True, type=click.Path(path_type=Path), help="The run's folder."
)
@click.option("--fresh", is_flag=True, help="Start anew although the folder holds a run.")
def demo_command(overrides: tuple[str, ...], output: Path, fresh: bool) -> None:
    """Train the embedded model on the embedded corpus, measure it, and show what changed (about 9 minutes on 2 cores).

    OVERRIDES are key=value settings of the training. Run it again after an interruption and it goes on.

    \b
    heedful demo
    heedful demo max_steps=5 --output runs/quick
    """
    begun = time.monotonic()
    progress = Progress()
    if fresh and output.exists():
        output = _unused(output)
    recipe = resources.files("heedful.cli").joinpath("starters", "quick")
    progress.say("1/4  corpus: commons (written for heedful, CC0)")
    talks = load_corpus("commons")
    progress.say(f"     {len(talks)} conversations, {sum(map(len, talks)):,} turns")
    with resources.as_file(recipe.joinpath("train.yaml")) as path:
        config = read_config(
            str(path), (*overrides, f"output_dir={output}"), resume=newest(output / "checkpoints") is not None
        )
    if (output / "summary.json").is_file():
        progress.say(f"2/4  training: {output} is trained already (--fresh starts anew)")
    else:
        progress.say("2/4  training: LoRA, whole conversations, loss on every supporter turn")
        train(config, say=lambda text: progress.say(f"     {text}"), callbacks=(training_progress(progress),))
    progress.say("3/4  evaluation: trained model, base model and trivial baselines on the test conversations")
    with resources.as_file(recipe.joinpath("eval.yaml")) as path:
        values = apply_overrides(read_yaml(path), [f"model_name_or_path={output}"])
    command = shlex.join(["heedful", *sys.argv[1:]])
    done = evaluate(check(EvalConfig, values), say=lambda text: progress.step(f"     {text}"), command=command)
    progress.close()
    progress.say(f"4/4  report ({time.monotonic() - begun:.0f} s since the start)")
    console().print(summary_table(done.summary))
    for index, example in enumerate(_samples(done.summary), start=1):
        _show(index, example)
    click.echo(f"\nreport: {done.report.resolve()}")
    click.echo(f"talk with it: heedful chat {output}")


def _unused(path: Path) -> Path:
    number = 2
    while (path.parent / f"{path.name}-{number}").exists():
        number += 1
    return path.parent / f"{path.name}-{number}"


def _samples(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Examples drawn at random by seed: no choice of ours. `commons` is invented text, so it may be printed."""
    return [e for e in summary["examples"] if e["rule"] == "random"][:SAMPLES]


def _show(index: int, example: dict[str, Any]) -> None:
    said = next((t["text"] for t in reversed(example["context"]) if t["role"] == "user"), "")
    click.echo(f"\nsample {index} (drawn at random), {example['id']}")
    if example["risk"]:
        click.echo(
            f"  (risk in this dialogue: {', '.join(example['risk'])}. A person answers here; the models did not know.)"
        )
    click.echo(f"  person   {json.dumps(said, ensure_ascii=False)}")
    click.echo(f"  before   {json.dumps(example['replies'].get('base', ''), ensure_ascii=False)}")
    click.echo(f"  after    {json.dumps(example['replies'].get('trained', ''), ensure_ascii=False)}")
    click.echo(f"  human    {json.dumps(example['reference'], ensure_ascii=False)}")
